//! Segments of few dimensions and many rows, which are searched by partitions.

use super::*;
use crate::graph::kernel::Level;

const ROWS: usize = 20_480;
const DIMENSION: usize = 10;

#[test]
fn large_segments_of_few_dimensions_are_searched_by_partitions_and_miss_nothing_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let index = index(DIMENSION as u32, "cosine", "pq");
    for (slot, values) in clustered(ROWS, DIMENSION, 1).iter().enumerate() {
        index.put(slot as Slot, values);
    }
    seal(&index, directory.path());
    let queries = clustered(50, DIMENSION, 2);
    let has_open_way = |segment: &Segment| segment.proposer().unwrap().graph().has_open_way();
    assert_eq!(has_open_way(&index.segments()[0]), Level::detect() != Level::Portable);
    let before = recall(&index, &queries, ASK);
    assert!(before >= 0.95, "{before}");

    let sealed = index.segments()[0].sealed;
    let opened = Segment::open(directory.path(), sealed, &index.settings, &builder()).unwrap();
    assert_eq!(has_open_way(&opened), has_open_way(&index.segments()[0]));

    // What is gone is kept out of each search from now on.
    (0..ROWS as Slot).step_by(12).for_each(|slot| index.remove(slot));
    let after = recall(&index, &queries, ASK);
    assert!(after >= 0.95, "{after}");
}
