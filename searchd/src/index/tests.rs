use std::path::Path;

use nearfield_proto::v1;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::hnsw::Hnsw;
use super::*;

const BUILDER: Hnsw = Hnsw { threads: 2 };

fn index(dimension: u32, metric: &str, quantization: &str) -> Index {
    let message = v1::CollectionSettings {
        dimension,
        metric: metric.into(),
        quantization: quantization.into(),
        ..Default::default()
    };
    Index::new(Settings::from_message(&message).unwrap(), Kernel::detect())
}

/// Vectors in clusters, as embeddings are: uniform noise has no neighbourhoods to find.
fn clustered(rows: usize, dimension: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut noise = move || (0..4).map(|_| random.random_range(-1.0f32..1.0)).sum::<f32>();
    let centres: Vec<Vec<f32>> = (0..40).map(|_| (0..dimension).map(|_| noise() * 2.0).collect()).collect();
    (0..rows).map(|row| centres[row % 40].iter().map(|centre| centre + noise()).collect()).collect()
}

#[derive(Clone, Copy)]
struct Ask<'a> {
    k: usize,
    ef: usize,
    exact: bool,
    admitted: Option<&'a Admitted>,
}

const ASK: Ask<'static> = Ask { k: 10, ef: 64, exact: false, admitted: None };

fn found(index: &Index, query: &[f32], ask: Ask<'_>) -> Vec<Slot> {
    let scorer = index.scorer(query);
    let Ask { k, ef, exact, admitted } = ask;
    let wanted = Wanted { scorer: &scorer, k, ef, exact, admitted, except: None };
    let (hits, _) = index.search(&wanted, &|a, b| a.cmp(&b), &Stop::default()).unwrap();
    assert!(hits.iter().all(|hit| index.row(hit.slot) == Some(hit.row)), "only live rows are found");
    hits.into_iter().map(|hit| hit.slot).collect()
}

fn seal(index: &Index, directory: &Path) {
    let sources = index.sources(1).expect("full chunks or dead rows");
    index.seal(&sources, directory, &BUILDER).unwrap();
}

fn recall(index: &Index, queries: &[Vec<f32>], ask: Ask<'_>) -> f64 {
    let (mut hits, mut all) = (0, 0);
    for query in queries {
        let exact = found(index, query, Ask { exact: true, ..ask });
        let approximate = found(index, query, ask);
        assert_eq!(approximate.len(), exact.len(), "as many hits as there are");
        hits += exact.iter().filter(|slot| approximate.contains(slot)).count();
        all += exact.len();
    }
    hits as f64 / all as f64
}

fn check_recall(metric: &str, quantization: &str, dimension: usize, least: f64) {
    let directory = tempfile::tempdir().unwrap();
    let index = index(dimension as u32, metric, quantization);
    for (slot, values) in clustered(2_048, dimension, 1).iter().enumerate() {
        index.put(slot as Slot, values);
    }
    seal(&index, directory.path());
    assert_eq!((index.segments().len(), index.segments()[0].live()), (1, 2_048));
    let recall = recall(&index, &clustered(50, dimension, 2), Ask { ef: 24, ..ASK });
    assert!(recall >= least, "{metric} {quantization} at {dimension}: recall {recall}");
}

#[test]
fn every_metric_and_code_finds_what_is_near() {
    for metric in ["cosine", "dot", "euclidean"] {
        for quantization in ["none", "f16", "bf16", "int8", "pq"] {
            check_recall(metric, quantization, 48, 0.95);
        }
        check_recall(metric, "binary", 256, 0.85);
    }
}

#[test]
fn every_row_can_be_found_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    let index = index(32, "euclidean", "bf16");
    let rows = clustered(4_096, 32, 3);
    for (slot, values) in rows.iter().enumerate() {
        index.put(slot as Slot, values);
    }
    seal(&index, directory.path());
    let lost = rows.iter().enumerate().filter(|(slot, row)| !found(&index, row, ASK).contains(&(*slot as Slot)));
    assert_eq!(lost.count(), 0);
}

#[test]
fn filters_of_any_width_give_as_many_hits_as_there_are() {
    let directory = tempfile::tempdir().unwrap();
    let index = index(32, "cosine", "bf16");
    for (slot, values) in clustered(8_192, 32, 4).iter().enumerate() {
        index.put(slot as Slot, values);
    }
    seal(&index, directory.path());
    let queries = clustered(20, 32, 5);
    for step in [1, 2, 10, 100, 1_000, 8_000] {
        let admitted: Admitted = (0..8_192).step_by(step).collect();
        // The same clusters that the query is near, and one that it is not.
        let recall = recall(&index, &queries, Ask { admitted: Some(&admitted), ..ASK });
        assert!(recall >= 0.95, "one of {step}: recall {recall}");
    }
}

#[test]
fn replaced_and_removed_rows_are_not_found_whenever_they_went() {
    let directory = tempfile::tempdir().unwrap();
    let index = index(16, "euclidean", "bf16");
    let rows = clustered(3_000, 16, 6);
    for (slot, values) in rows.iter().enumerate() {
        index.put(slot as Slot, values);
    }
    let sources = index.sources(1).unwrap();
    // Between the choice of sources and the end of the building.
    index.remove(0);
    index.put(1, &[1_000.0; 16]);
    index.seal(&sources, directory.path(), &BUILDER).unwrap();
    index.remove(2);
    index.put(3, &[2_000.0; 16]);
    for gone in 0..4 {
        let hits = found(&index, &rows[gone as usize], Ask { k: 100, ..ASK });
        assert!(!hits[..50].contains(&gone), "{gone}");
    }
    assert_eq!(found(&index, &[1_000.0; 16], Ask { k: 1, ..ASK }), [1]);
    assert_eq!(index.values(3).unwrap(), [2_000.0; 16]);
    assert_eq!(index.values(2), None);
    for slot in 0..700 {
        index.remove(slot);
    }
    // More than a fifth is dead: the segment is written anew without it.
    let sources = index.sources(100).expect("a rotten segment");
    index.seal(&sources, directory.path(), &BUILDER).unwrap();
    assert!(index.segments()[0].dead.is_empty());
    assert_eq!(found(&index, &rows[1_000], Ask { k: 1, ..ASK }), [1_000]);
}

#[test]
fn segments_merge_until_they_are_few() {
    let directory = tempfile::tempdir().unwrap();
    let index = index(8, "euclidean", "bf16");
    let rows = clustered(16 * 1_024, 8, 7);
    for (i, values) in rows.iter().enumerate() {
        index.put(i as Slot, values);
        if (i + 1) % 2_048 == 0 {
            seal(&index, directory.path());
        }
    }
    assert!(index.segments().len() <= 3, "{} segments", index.segments().len());
    let live: usize = index.segments().iter().map(|segment| segment.live()).sum();
    assert_eq!(live, rows.len());
    assert!(recall(&index, &clustered(30, 8, 8), ASK) >= 0.95);
}

#[test]
fn a_restored_index_answers_as_before_and_damage_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let before = index(16, "cosine", "bf16");
    for (slot, values) in clustered(2_048, 16, 9).iter().enumerate() {
        before.put(slot as Slot, values);
    }
    seal(&before, directory.path());
    before.remove(5);
    let segment = before.segments().remove(0);
    let after = index(16, "cosine", "bf16");
    after.restore_segment(Segment::open(directory.path(), segment.sealed, &after.settings, &BUILDER).unwrap());
    let claimed: Vec<_> = (0..2_048).filter_map(|slot| Some((slot, before.row(slot)?))).collect();
    assert!(after.restore_rows(&claimed));
    for query in clustered(20, 16, 10) {
        assert_eq!(found(&after, &query, ASK), found(&before, &query, ASK));
    }
    for file in
        [segment::vectors_file(directory.path(), segment.part()), segment::graph_file(directory.path(), segment.part())]
    {
        let whole = std::fs::read(&file).unwrap();
        let mut damaged = whole.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        // The running index has the file mapped: another file takes its name.
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, &damaged).unwrap();
        let opened = Segment::open(directory.path(), segment.sealed, &after.settings, &BUILDER);
        assert!(matches!(opened, Err(segment::Error::Damaged(_))));
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, &whole).unwrap();
    }
}
