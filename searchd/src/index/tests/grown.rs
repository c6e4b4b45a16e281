//! Segments that grow out of those before them, merge after merge, while rows come, change and go.

use std::collections::BTreeMap;

use super::*;
use crate::index::engines::Crew;

#[test]
fn merged_over_and_over_an_index_finds_what_one_that_is_built_at_once_does() {
    for (metric, dimension) in [("euclidean", 24), ("cosine", 128)] {
        let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let crew = Crew { threads: 2, ..Crew::default() };
        let (work, builder) = (crew.work.clone(), builder().by(crew));
        let [old, fresh] = [0, 1].map(|_| index(dimension, metric, "pq"));
        let settle = |index: &Index, directory: &Path| {
            while let Some(sources) = index.sources_at_rest() {
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
