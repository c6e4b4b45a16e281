//! Searches that a filter narrows, whichever way they take.

use std::collections::BTreeSet;

use super::*;
use crate::index::plan::{Step, Way};

const ROWS: usize = 8_192;

fn sealed(directory: &Path, metric: &str, quantization: &str, dimension: usize) -> Index {
    let index = index(dimension as u32, metric, quantization);
    for (slot, values) in clustered(ROWS, dimension, 4).iter().enumerate() {
        index.put(slot as Slot, values);
    }
    seal(&index, directory);
    index
}

/// The way through the one segment, and whether it was not enough.
fn way(index: &Index, query: &[f32], admitted: Option<&Admitted>, effort: Effort) -> (Way, bool) {
    let step = step(index, query, admitted, effort);
    (step.plan.way, step.fell_back)
}

fn step(index: &Index, query: &[f32], admitted: Option<&Admitted>, effort: Effort) -> Step {
    let scorer = index.scorer(query);
    let wanted = Wanted { scorer: &scorer, k: 10, effort, exact: false, admitted, except: None };
    let (_, trail) = index.search(&wanted, &|a, b| a.cmp(&b), &Stop::default()).unwrap().unwrap();
    trail.last().expect("a segment").clone()
}

#[test]
fn filters_of_any_width_give_as_many_hits_as_there_are() {
    for (metric, quantization, dimension) in
        [("cosine", "bf16", 32), ("cosine", "pq", 32), ("dot", "pq", 100), ("euclidean", "binary", 256)]
    {
        let directory = tempfile::tempdir().unwrap();
        let index = sealed(directory.path(), metric, quantization, dimension);
        let queries = clustered(20, dimension, 5);
        for step in [1, 2, 3, 5, 10, 30, 100, 1_000, 8_000] {
            let admitted: Admitted = (0..ROWS as Slot).step_by(step).collect();
            // The same clusters that the query is near, and one that it is not.
            let recall = recall(&index, &queries, Ask { admitted: Some(&admitted), ..ASK });
            assert!(recall >= 0.95, "{metric}, {quantization}, one of {step}: recall {recall}");
        }
    }
}

#[test]
fn few_rows_are_compared_some_are_ranked_by_codes_and_all_are_walked_over() {
    let directory = tempfile::tempdir().unwrap();
    let index = sealed(directory.path(), "cosine", "pq", 128);
    let query = &clustered(1, 128, 5)[0];
    let effort = Effort::Candidates(16);
    let admitted = |step: usize| (0..ROWS as Slot).step_by(step).collect::<Admitted>();
    assert_eq!(way(&index, query, Some(&admitted(1_000)), effort), (Way::Rows, false));
    assert_eq!(way(&index, query, Some(&admitted(10)), effort), (Way::Codes, false));
    assert_eq!(way(&index, query, None, effort), (Way::Graph, false));
}

#[test]
fn every_other_row_is_taken_for_half_of_all() {
    let directory = tempfile::tempdir().unwrap();
    let index = sealed(directory.path(), "cosine", "pq", 32);
    let query = &clustered(1, 32, 5)[0];
    for first in [0, 1] {
        let admitted: Admitted = (first..ROWS as Slot).step_by(2).collect();
        let findable = step(&index, query, Some(&admitted), Effort::Candidates(16)).findable.number();
        let half = ROWS as f64 / 2.0;
        assert!((findable - half).abs() < half / 10.0, "from {first} on: {findable}");
    }
}

#[test]
fn what_a_filter_leaves_when_it_keeps_out_all_that_is_near_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let index = sealed(directory.path(), "euclidean", "pq", 128);
    for kept_out in [ROWS / 100, ROWS / 10, ROWS / 2] {
        let (mut found_now, mut all) = (0, 0);
        for query in clustered(20, 128, 5) {
            let nearest = found(&index, &query, Ask { k: kept_out, exact: true, ..ASK });
            let out: BTreeSet<Slot> = nearest.into_iter().collect();
            let admitted: Admitted = (0..ROWS as Slot).filter(|slot| !out.contains(slot)).collect();
            let ask = Ask { admitted: Some(&admitted), ..ASK };
            let (exact, now) = (found(&index, &query, Ask { exact: true, ..ask }), found(&index, &query, ask));
            all += exact.len();
            found_now += exact.iter().filter(|slot| now.contains(slot)).count();
        }
        assert!(found_now * 100 >= all * 95, "{kept_out} kept out: {found_now} of {all}");
    }
}

#[test]
fn what_remains_around_rows_that_were_removed_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let index = sealed(directory.path(), "cosine", "pq", 64);
    let queries = clustered(5, 64, 5);
    for query in &queries {
        for slot in found(&index, query, Ask { k: 300, exact: true, ..ASK }) {
            index.remove(slot);
        }
    }
    let recall = recall(&index, &queries, ASK);
    assert!(recall >= 0.95, "recall {recall}");
}
