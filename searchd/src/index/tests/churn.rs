//! What is left after every vector was replaced many times.

use super::*;

#[test]
fn replacing_every_vector_ten_times_costs_neither_recall_nor_memory_nor_a_row() {
    const ROWS: usize = 1_500;
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [old, fresh] = [0, 1].map(|_| index(24, "euclidean", "pq"));
    let rounds: Vec<_> = (0..=10).map(|round| clustered(ROWS, 24, 100 + round)).collect();
    let put = |index: &Index, rows: &[Vec<f32>], directory: &Path| {
        for (slot, values) in rows.iter().enumerate() {
            index.put(slot as Slot, values);
            if (slot + 1) % 500 == 0 {
                while let Some(sources) = index.sources(1) {
                    index.seal(&sources, directory, &builder()).unwrap();
                }
            }
        }
    };
    rounds.iter().for_each(|rows| put(&old, rows, directories[0].path()));
    let last = rounds.last().unwrap();
    put(&fresh, last, directories[1].path());
    for (index, directory) in [(&old, &directories[0]), (&fresh, &directories[1])] {
        while let Some(sources) = index.sources_at_rest(Duration::ZERO) {
            index.seal(&sources, directory.path(), &builder()).unwrap();
        }
        let live: usize = index.segments().iter().map(|segment| segment.live()).sum();
        assert!(live * 10 >= ROWS * 8, "most is sealed: {live}");
    }
    let queries = clustered(60, 24, 110);
    let (now, then) = (recall(&old, &queries, ASK), recall(&fresh, &queries, ASK));
    assert!(now >= 0.98 * then, "recall {now}, fresh {then}");
    let (now, then) = (old.memory_bytes(), fresh.memory_bytes());
    assert!(now as f64 <= 1.3 * then as f64, "{now} bytes, fresh {then}");
    let (now, then) = (old.disk_bytes(), fresh.disk_bytes());
    assert!(now as f64 <= 1.3 * then as f64, "{now} bytes on the disk, fresh {then}");
    for (slot, values) in last.iter().enumerate() {
        assert!(found(&old, values, ASK).contains(&(slot as Slot)), "{slot} is reached");
        assert_eq!(old.values(slot as Slot).unwrap().as_ref(), Some(values));
    }
    for rows in &rounds[..10] {
        let hits = found(&old, &rows[7], Ask { exact: true, ..ASK });
        let truth = found(&fresh, &rows[7], Ask { exact: true, ..ASK });
        assert_eq!(hits, truth, "nothing of an earlier round is left");
    }
}
