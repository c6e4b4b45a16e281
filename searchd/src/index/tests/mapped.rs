//! Graphs that are searched before all of them was read.

use super::*;

/// So that the graph is asked: with more effort, comparing so few rows is cheaper.
const QUICK: Ask<'static> = Ask { ef: 10, ..ASK };

#[test]
fn a_large_graph_is_searched_where_it_is_mapped_until_it_is_in_memory_and_is_never_believed_when_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let index = index(256, "euclidean", "int8");
    for (slot, values) in clustered(4_096, 256, 9).iter().enumerate() {
        index.put(slot as Slot, values);
    }
    seal(&index, directory.path());
    let sealed = index.segments()[0].sealed;
    let file = segment::graph_file(directory.path(), sealed.part);
    let reopened = || {
        let again = Index::new(index.settings.clone(), Kernel::detect());
        again.restore_segment(Segment::open(directory.path(), sealed, &index.settings, &builder()).unwrap());
        assert!(again.restore_rows((0..4_096).map(|slot| index.row(slot)).collect()));
        again
    };
    let queries = clustered(20, 256, 10);
    let answers = |index: &Index, exact| {
        queries.iter().map(|query| found(index, query, Ask { exact, ..QUICK })).collect::<Vec<_>>()
    };
    let right = answers(&index, false);
    let mapped = reopened();
    mapped.remove(3);
    index.remove(3);
    assert!(mapped.segments()[0].has_mapped_graph() && answers(&mapped, false) == answers(&index, false));
    assert!(mapped.load_one(directory.path(), &builder()).unwrap());
    assert!(!mapped.load_one(directory.path(), &builder()).unwrap(), "once");
    let segment = &mapped.segments()[0];
    assert!(
        !segment.has_mapped_graph() && segment.dead.len() == 1 && answers(&mapped, false) == answers(&index, false)
    );

    let whole = std::fs::read(&file).unwrap();
    let mut noticed = 0;
    for at in (0..whole.len()).step_by(whole.len() / 40) {
        change(&file, |bytes| bytes[at] ^= 16);
        let damaged = reopened();
        if !damaged.segments()[0].is_whole() {
            assert!(at < whole.len() / 10 || at > whole.len() * 9 / 10, "a table: byte {at}");
        } else {
            for (query, right) in queries.iter().zip(&right) {
                let before = found(&damaged, query, QUICK);
                let is_whole = damaged.segments()[0].is_whole();
                assert!(if is_whole {
                    before == *right
                } else {
                    before == found(&damaged, query, Ask { exact: true, ..QUICK })
                });
            }
            noticed += usize::from(!damaged.segments()[0].is_whole());
            damaged.load_one(directory.path(), &builder()).unwrap();
        }
        assert!(!damaged.segments()[0].is_whole(), "byte {at}: found in the background at the latest");
        assert!(answers(&damaged, false) == answers(&damaged, true), "without a graph every row is compared");
        change(&file, |bytes| bytes.clone_from(&whole));
    }
    assert!(noticed > 0, "some of it was met by searches");
    change(&file, |bytes| bytes.truncate(whole.len() - 1));
    assert!(!reopened().segments()[0].is_whole());
}
