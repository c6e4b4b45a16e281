//! Segments that grow out of those before them, merge after merge, while rows come, change and go.

use std::collections::BTreeMap;

use super::*;
use crate::index::engines::Crew;
use crate::index::head::CHUNK_ROWS;

#[test]
fn merged_over_and_over_an_index_finds_what_one_that_is_built_at_once_does() {
    for (metric, dimension) in [("euclidean", 24), ("cosine", 128)] {
        let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let crew = Crew { threads: 2, ..Crew::default() };
        let (work, builder) = (crew.work.clone(), builder().by(crew));
        let [old, fresh] = [0, 1].map(|_| index(dimension, metric, "pq"));
        let settle = |index: &Index, directory: &Path| {
            while let Some(sources) = index.sources_at_rest(Duration::ZERO) {
                index.seal(&sources, directory, &builder).unwrap();
            }
            assert!(index.segments().len() <= 2, "the largest, and less than an eighth of it");
        };
        let mut live: BTreeMap<Slot, Vec<f32>> = BTreeMap::new();
        for round in 0..12 {
            // Each round has centres of its own, and changes some of what was there before.
            let rows = if round == 0 { 3_000 } else { 500 };
            for (i, values) in clustered(rows, dimension as usize, 200 + round).into_iter().enumerate() {
                let known = live.len() as Slot;
                let slot = if i % 5 == 4 { (i as Slot * 37) % known } else { old.rows.read().len() as Slot };
                old.put(slot, &values);
                live.insert(slot, values);
            }
            let gone: Vec<Slot> = live.keys().copied().skip(round as usize).step_by(17).collect();
            for slot in gone.into_iter().take(150) {
                old.remove(slot);
                live.remove(&slot);
            }
            settle(&old, directories[0].path());
        }
        let (placed, kept) = (work.placed.load(Ordering::Relaxed), work.kept.load(Ordering::Relaxed));
        assert!(kept > 2 * placed, "{placed} were placed, {kept} were kept");
        live.iter().for_each(|(slot, values)| fresh.put(*slot, values));
        settle(&fresh, directories[1].path());
        let queries: Vec<_> = (0..12).flat_map(|round| clustered(200, dimension as usize, 200 + round)).collect();
        let queries: Vec<_> = queries.into_iter().step_by(23).collect();
        let (now, then) = (recall(&old, &queries, ASK), recall(&fresh, &queries, ASK));
        assert!(now >= 0.95 && now >= then - 0.01, "{metric}: recall {now}, at once {then}");
        let (now, then) = (old.memory_bytes(), fresh.memory_bytes());
        assert!(now as f64 <= 1.3 * then as f64, "{metric}: {now} bytes, at once {then}");
        for segment in old.segments() {
            let graph = segment.proposer().unwrap().graph();
            assert!(graph.unreachable(&segment.vectors).unwrap().is_empty());
        }
        for (slot, values) in &live {
            assert!(found(&old, values, ASK).contains(slot), "{metric}: {slot} is found");
        }
    }
}

#[test]
fn a_piece_comes_into_the_young_segment_and_no_other_build_takes_that_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let rows = clustered(11 * CHUNK_ROWS, 24, 230);
    let mut chunks = rows.chunks(CHUNK_ROWS).enumerate();
    let index = index(24, "euclidean", "pq");
    let piece = |(number, rows): (usize, &[Vec<f32>])| {
        let slots = number * CHUNK_ROWS..;
        slots.zip(rows).for_each(|(slot, values)| index.put(slot as Slot, values));
        index.head_sources(1).expect("a full chunk")
    };
    let crew = Crew::default();
    let (work, builder) = (crew.work.clone(), builder().by(crew));
    let seal = |sources: &Sources| index.seal(sources, directory.path(), &builder).unwrap();
    // Up to eight times the rows that come, and no more.
    for chunk in chunks.by_ref().take(9) {
        seal(&piece(chunk));
        assert_eq!(index.segments().len(), 1);
    }
    assert_eq!(work.placed.load(Ordering::Relaxed), 9 * CHUNK_ROWS as u64, "each row once");
    seal(&piece(chunks.next().unwrap()));
    assert_eq!(index.segments().len(), 2);

    let taken = piece(chunks.next().unwrap());
    assert_eq!(taken.rows(), 2 * CHUNK_ROWS, "the young one, not the old");
    assert!(index.merge_sources_at_rest(Duration::ZERO).is_none(), "the young one is taken");
    let given_up = index.head_sources(1).unwrap();
    assert_eq!(given_up.rows(), CHUNK_ROWS, "it is taken");
    drop((taken, given_up));
    seal(&index.head_sources(1).unwrap());
    assert_eq!((index.segments().len(), index.waiting_rows()), (2, 0));
    assert!(index.merge_sources_at_rest(Duration::ZERO).is_some());
    let mut found: Vec<usize> = index.segments().iter().map(|segment| segment.live()).collect();
    found.sort_unstable();
    assert_eq!(found, [2 * CHUNK_ROWS, 9 * CHUNK_ROWS]);
    assert!(recall(&index, &clustered(40, 24, 230), ASK) >= 0.95);
}
