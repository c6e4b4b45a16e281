//! A head of many chunks: searched by codes, and sealed in pieces while it grows.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::*;
use crate::index::head::CHUNK_ROWS;
use crate::index::plan::{Step, Way};

const PATIENCE: Duration = Duration::from_secs(60);

/// Returns when every full chunk has its codes.
fn await_codes(index: &Index) {
    let end = Instant::now() + PATIENCE;
    let is_packed = || index.parts.load().head.iter().all(|chunk| !chunk.is_full() || chunk.codes().is_some());
    while !is_packed() {
        assert!(Instant::now() < end, "codes are made within {PATIENCE:?}");
        std::thread::yield_now();
    }
}

fn filled(metric: &str, rows: &[Vec<f32>]) -> Index {
    let index = index(rows[0].len() as u32, metric, "pq");
    rows.iter().enumerate().for_each(|(slot, values)| index.put(slot as Slot, values));
    await_codes(&index);
    index
}

/// What is found, and how the head was gone through.
fn explained(index: &Index, query: &[f32], ask: Ask<'_>) -> (Vec<Slot>, Step) {
    let scorer = index.scorer(query);
    let Ask { k, ef, exact, admitted } = ask;
    let wanted = Wanted { scorer: &scorer, k, effort: Effort::Candidates(ef), exact, admitted, except: None };
    let (hits, trail) = index.search(&wanted, &|a, b| a.cmp(&b), &Stop::default()).unwrap().unwrap();
    (hits.into_iter().map(|hit| hit.slot).collect(), trail[0].clone())
}

/// The slots of the nearest by f64 arithmetic.
fn nearest(metric: &str, rows: &HashMap<Slot, Vec<f32>>, query: &[f32], k: usize) -> Vec<Slot> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let distance = |row: &[f32]| match metric {
        "cosine" => -dot(row, query) / dot(row, row).sqrt(),
        "dot" => -dot(row, query),
        _ => row.iter().zip(query).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum(),
    };
    let mut all: Vec<(f64, Slot)> = rows.iter().map(|(slot, row)| (distance(row), *slot)).collect();
    all.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    all.into_iter().take(k).map(|(_, slot)| slot).collect()
}

#[test]
fn codes_of_many_chunks_find_what_is_near_and_exact_searches_do_without() {
    for (metric, dimension) in [("cosine", 256), ("dot", 256), ("euclidean", 256), ("cosine", 96), ("euclidean", 96)] {
        let rows = clustered(8 * CHUNK_ROWS + 100, dimension, 31);
        let index = filled(metric, &rows);
        let all: HashMap<Slot, Vec<f32>> = (0..).zip(rows).collect();
        let (mut hits, queries) = (0, clustered(40, dimension, 32));
        for query in &queries {
            let truth = nearest(metric, &all, query, 10);
            let (found, step) = explained(&index, query, ASK);
            assert_eq!((step.plan.way, step.computed), (Way::Codes, Some(8 * CHUNK_ROWS)), "{step:?}");
            assert!(step.compared < CHUNK_ROWS, "{step:?}");
            hits += truth.iter().filter(|slot| found.contains(slot)).count();
            let (found, step) = explained(&index, query, Ask { exact: true, ..ASK });
            assert_eq!((found, step.plan.way), (truth, Way::Scan));
        }
        let recall = hits as f64 / (10 * queries.len()) as f64;
        assert!(recall >= 0.99, "{metric} of {dimension}: recall {recall}");
    }
}

#[test]
fn rows_that_are_like_nothing_before_them_are_found() {
    // Each chunk is elsewhere, and ten times as wide as the one before.
    let shifted = |chunk: usize| {
        let rows = clustered(CHUNK_ROWS, 192, 40 + chunk as u64);
        let size = 10f32.powi(chunk as i32 - 2);
        rows.into_iter().map(move |row| row.iter().map(|value| (value + 20.0) * size).collect::<Vec<f32>>())
    };
    for metric in ["cosine", "euclidean"] {
        let rows: Vec<Vec<f32>> = (0..4).flat_map(shifted).collect();
        let index = filled(metric, &rows);
        let queries: Vec<_> = rows.iter().step_by(97).cloned().collect();
        let recall = recall(&index, &queries, ASK);
        assert!(recall >= 0.99, "{metric}: recall {recall}");
        for (slot, query) in rows.iter().enumerate().step_by(61) {
            assert_eq!(found(&index, query, Ask { k: 1, ..ASK }), [slot as Slot], "{metric}");
        }
    }
}

#[test]
fn of_very_many_equals_so_many_are_compared_as_codes_do_not_tell_apart() {
    let count = 4 * CHUNK_ROWS;
    for is_rising in [true, false] {
        let mut rows = clustered(count, 64, 50);
        // Every other row is next to nothing, and farther than the one before by less than a code tells beside the others.
        for (i, row) in rows.iter_mut().enumerate().step_by(2) {
            row.fill(0.0);
            row[i % 64] = 1e-3 * (1.0 + if is_rising { i } else { count - i } as f32 / 4_096.0);
        }
        let index = filled("euclidean", &rows);
        let (found, step) = explained(&index, &[0.0; 64], ASK);
        assert!(!step.fell_back && step.compared >= CHUNK_ROWS, "{step:?}");
        let nearest: Vec<Slot> = (0..10).map(|i| if is_rising { 2 * i } else { count as Slot - 2 * (i + 1) }).collect();
        assert_eq!(found, nearest, "{step:?}");
    }
}

#[test]
fn filters_deletes_and_updates_hold_in_packed_chunks() {
    let rows = clustered(6 * CHUNK_ROWS, 128, 60);
    let index = filled("cosine", &rows);
    let mut live: HashMap<Slot, Vec<f32>> = (0..).zip(rows.clone()).collect();
    for slot in (0..rows.len() as Slot).step_by(5) {
        index.remove(slot);
        live.remove(&slot);
    }
    for slot in (1..rows.len() as Slot).step_by(7) {
        let values = rows[(slot as usize + 3_001) % rows.len()].clone();
        index.put(slot, &values);
        live.insert(slot, values);
    }
    await_codes(&index);
    for step in [1, 2, 10, 300] {
        let admitted: Admitted = (3..rows.len() as Slot).step_by(step).collect();
        let admits = |slot: &Slot| step == 1 || admitted.contains(*slot);
        let visible: HashMap<Slot, Vec<f32>> =
            live.iter().filter(|(slot, _)| admits(slot)).map(|(slot, row)| (*slot, row.clone())).collect();
        let mut hits = 0;
        for query in clustered(20, 128, 61) {
            let ask = Ask { admitted: (step > 1).then_some(&admitted), ..ASK };
            let truth: Vec<f32> = scores(&index, &visible, &query, 10);
            let found = found(&index, &query, ask);
            assert_eq!(found.len(), 10);
            assert!(found.iter().all(|slot| visible.contains_key(slot)), "one of {step}");
            let least = truth[9] - 1e-5;
            hits += found
                .iter()
                .filter(|slot| index.scorer(&query).rank(&visible[slot], score::inverse_norm(&visible[slot])) >= least)
                .count();
        }
        assert!(hits >= 198, "one of {step}: {hits} of 200");
    }
}

/// The best ranks, best first.
fn scores(index: &Index, rows: &HashMap<Slot, Vec<f32>>, query: &[f32], k: usize) -> Vec<f32> {
    let scorer = index.scorer(query);
    let mut ranks: Vec<f32> = rows.values().map(|row| scorer.rank(row, score::inverse_norm(row))).collect();
    ranks.sort_unstable_by(|a, b| b.total_cmp(a));
    ranks.truncate(k);
    ranks
}

#[test]
fn a_batch_goes_through_codes_as_single_searches_do() {
    let index = filled("euclidean", &clustered(5 * CHUNK_ROWS, 96, 70));
    let few: Admitted = (0..5_000).step_by(100).collect();
    let queries = clustered(9, 96, 71);
    let scorers: Vec<_> = queries.iter().map(|query| index.scorer(query)).collect();
    let wanted: Vec<_> = scorers
        .iter()
        .enumerate()
        .map(|(i, scorer)| Wanted {
            scorer,
            k: 10,
            effort: Effort::Candidates(64),
            exact: i % 3 == 1,
            admitted: (i % 3 == 2).then_some(&few),
            except: Some(7),
        })
        .collect();
    let together = index.search_all(&wanted, &|a, b| a.cmp(&b), &Stop::default()).unwrap();
    for (wanted, found) in wanted.iter().zip(together) {
        let (hits, trail) = index.search(wanted, &|a, b| a.cmp(&b), &Stop::default()).unwrap().unwrap();
        let (found, steps) = found.unwrap();
        assert_eq!((found, steps[0].plan.way, steps[0].compared), (hits, trail[0].plan.way, trail[0].compared));
    }
}

#[test]
fn a_head_is_sealed_in_pieces_and_merged_while_it_is_written_to_and_nothing_is_lost_or_there_twice() {
    const SLOTS: u32 = 30_000;
    let directory = tempfile::tempdir().unwrap();
    let index = index(8, "euclidean", "pq");
    let is_over = AtomicBool::new(false);
    let values = |slot: Slot, version: usize| -> Vec<f32> {
        let mut random = SmallRng::seed_from_u64(u64::from(slot) << 8 | version as u64);
        (0..8).map(|_| random.random_range(-1.0..1.0)).collect()
    };
    let mut live: HashMap<Slot, Vec<f32>> = HashMap::new();
    std::thread::scope(|scope| {
        let (index, is_over, path) = (&index, &is_over, directory.path());
        let until_over = move |sources: fn(&Index) -> Option<Sources>| {
            while !is_over.load(Ordering::Relaxed) {
                match sources(index) {
                    Some(sources) => index.seal(&sources, path, &builder()).unwrap(),
                    None => std::thread::yield_now(),
                }
            }
        };
        scope.spawn(move || until_over(|index| index.head_sources(2)));
        scope.spawn(move || until_over(Index::merge_sources));
        for slot in 0..SLOTS {
            index.put(slot, &values(slot, 0));
            live.insert(slot, values(slot, 0));
            // What was just written, and what was sealed long ago.
            for (other, version) in [(slot / 2, 1), (slot / 3, 2)] {
                if slot % 5 == version as u32 {
                    index.put(other, &values(other, version));
                    live.insert(other, values(other, version));
                }
            }
            if slot % 7 == 0 {
                index.remove(slot / 4);
                live.remove(&(slot / 4));
            }
        }
        let end = Instant::now() + PATIENCE;
        while index.segments().is_empty() && Instant::now() < end {
            std::thread::yield_now();
        }
        is_over.store(true, Ordering::Relaxed);
    });
    let everything = |index: &Index| {
        for slot in 0..SLOTS {
            assert_eq!(index.values(slot).unwrap().as_ref(), live.get(&slot), "{slot}");
        }
        let ask = Ask { k: SLOTS as usize, exact: true, ..ASK };
        let mut found = found(index, &values(1, 9), ask);
        found.sort_unstable();
        let mut expected: Vec<Slot> = live.keys().copied().collect();
        expected.sort_unstable();
        assert_eq!(found, expected, "each once");
    };
    assert!(!index.segments().is_empty() && index.unfinished().is_empty());
    everything(&index);
    while let Some(sources) = index.sources_at_rest(Duration::ZERO) {
        index.seal(&sources, directory.path(), &builder()).unwrap();
    }
    everything(&index);
    assert!(index.segments().len() <= 2 && index.waiting_rows() < 256);
    let files = std::fs::read_dir(directory.path()).unwrap().count();
    assert!(files >= 2 * index.segments().len());
}

#[test]
fn memory_for_rows_that_do_not_come_is_given_back_at_rest() {
    const DIMENSION: usize = 96;
    const LEFT: usize = 150;
    let directory = tempfile::tempdir().unwrap();
    let rows = clustered(CHUNK_ROWS + LEFT + 1, DIMENSION, 5);
    let index = filled("euclidean", &rows[..CHUNK_ROWS + LEFT]);
    while let Some(sources) = index.sources_at_rest(Duration::ZERO) {
        index.seal(&sources, directory.path(), &builder()).unwrap();
    }
    assert_eq!(index.waiting_rows(), LEFT);
    let sealed: u64 = index.segments().iter().map(|segment| segment.memory_bytes()).sum();
    let places = rows.len() * size_of::<Option<Row>>() * 2;
    let most = LEFT * (DIMENSION + 8) * 4 * 5 / 4 + places;
    assert!(index.memory_bytes() - sealed <= most as u64, "{} of {most} bytes", index.memory_bytes() - sealed);
    let last = rows.len() - 1;
    index.put(last as Slot, &rows[last]);
    let live: HashMap<Slot, Vec<f32>> = rows.into_iter().enumerate().map(|(slot, row)| (slot as Slot, row)).collect();
    for slot in [0, CHUNK_ROWS, last - 1, last] {
        let slot = slot as Slot;
        assert_eq!(index.values(slot).unwrap().as_ref(), live.get(&slot), "{slot}");
    }
}

#[test]
fn a_build_that_is_stopped_leaves_nothing_and_the_head_as_it_was() {
    use crate::index::engines::Crew;
    for quantization in ["pq", "bf16"] {
        let directory = tempfile::tempdir().unwrap();
        let index = index(16, "cosine", quantization);
        let rows = clustered(2 * CHUNK_ROWS, 16, 80);
        rows.iter().enumerate().for_each(|(slot, values)| index.put(slot as Slot, values));
        let stopping = builder().by(Crew { threads: 2, stop: Arc::new(AtomicBool::new(true)), ..Crew::default() });
        let error = index.seal(&index.head_sources(1).unwrap(), directory.path(), &stopping).unwrap_err();
        assert!(error.is_stop(), "{error:?}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        assert_eq!((index.waiting_rows(), index.unfinished().len()), (rows.len(), 0));
        assert_eq!(found(&index, &rows[5], Ask { k: 1, ..ASK }), [5]);
    }
}
