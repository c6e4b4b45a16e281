//! Small segments beside a large one: they are glanced at, unless what is asked for is there.

use super::*;
use crate::index::plan::{Part, Way};

const DIMENSION: usize = 96;
/// Rows of the large segment, and of each small one, which is large enough for a walk to be worth while.
const LARGE: usize = 12_288;
const SMALL: usize = 4_096;

/// Recall, and the distances that a search computed in each segment, the largest first.
fn asked(index: &Index, queries: &[Vec<f32>], k: usize) -> (f64, Vec<usize>) {
    let mut computed = vec![0; index.segments().len()];
    for query in queries {
        let scorer = index.scorer(query);
        let effort = Effort::Candidates(64);
        let wanted = Wanted { scorer: &scorer, k, effort, exact: false, admitted: None, except: None };
        let (hits, trail) = index.search(&wanted, &|a, b| a.cmp(&b), &Stop::default()).unwrap().unwrap();
        let mut slots: Vec<Slot> = hits.iter().map(|hit| hit.slot).collect();
        slots.sort_unstable();
        slots.dedup();
        assert_eq!(slots.len(), k, "none is found twice");
        let steps: Vec<_> = trail.iter().filter(|step| step.part != Part::Head).collect();
        assert!(steps.iter().all(|step| step.plan.way == Way::Graph), "{steps:?}");
        assert!(steps.is_sorted_by_key(|step| std::cmp::Reverse(step.live)), "the largest first");
        computed.iter_mut().zip(steps).for_each(|(sum, step)| *sum += step.computed.unwrap());
    }
    (recall(index, queries, Ask { k, ..ASK }), computed)
}

#[test]
fn small_segments_cost_little_unless_what_is_asked_for_came_of_late() {
    let directory = tempfile::tempdir().unwrap();
    let index = index(DIMENSION as u32, "euclidean", "pq");
    let mut rows = clustered(LARGE + SMALL, DIMENSION, 21);
    // What came last is elsewhere, all of it.
    let late: Vec<Vec<f32>> = clustered(SMALL, DIMENSION, 22)
        .into_iter()
        .map(|row| row.into_iter().map(|value| value + 20.0).collect())
        .collect();
    rows.extend(late.iter().cloned());
    let mut slots = rows.iter().enumerate();
    for size in [LARGE, SMALL, SMALL] {
        slots.by_ref().take(size).for_each(|(slot, row)| index.put(slot as Slot, row));
        // As if they were being merged: what comes is not put into them.
        let _taken = index.claim(Some);
        seal(&index, directory.path());
    }
    assert_eq!(index.segments().len(), 3);
    let near = |rows: &[Vec<f32>]| -> Vec<Vec<f32>> {
        rows.iter().step_by(41).map(|row| row.iter().map(|value| value + 0.1).collect()).collect()
    };
    for k in [1, 10] {
        let (found, computed) = asked(&index, &near(&rows[..SMALL]), k);
        assert!(found >= 0.95, "recall {found} of {k}");
        let (of_late, of_other) = asked(&index, &near(&late), k);
        assert!(of_late >= 0.97, "recall {of_late} of {k} in what came last");
        // All hits are in the last one, and it is gone through as a large one is.
        assert!(of_other[2] > 2 * computed[2], "{of_other:?} distances, {computed:?} where nothing is there");
    }
}
