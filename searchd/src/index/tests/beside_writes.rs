//! Points that get another vector while a search is on its way to them.

use std::cell::Cell;
use std::cmp::Ordering;

use super::*;
use crate::index::batch::Lost;
use crate::index::head::CHUNK_ROWS;

const ROWS: Slot = 2 * CHUNK_ROWS as Slot;
const K: usize = 10;

/// How rows lie when the search begins.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Laid {
    /// All in chunks.
    Head,
    /// All but a few in a segment.
    Sealed,
}

/// An index whose nearest rows of the origin are those of the last slots; what is looked at first are rows all equally far
/// from it, so that a search asks for their order.
fn laid(how: Laid, directory: &Path) -> Index {
    let index = index(64, "euclidean", "pq");
    let far = vec![9.0; 64];
    for slot in 0..ROWS {
        index.put(slot, &if slot < ROWS / 2 { far.clone() } else { near(slot) });
    }
    if how == Laid::Sealed {
        seal(&index, directory);
        (0..ROWS / 8).for_each(|slot| index.put(slot, &far));
    }
    index
}

/// The nearer the higher the slot is.
fn near(slot: Slot) -> Vec<f32> {
    let mut values = vec![0.0; 64];
    values[slot as usize % 64] = 1.0 + (ROWS - slot) as f32 / 1_024.0;
    values
}

/// What a search finds during which `write` is called once, after it has seen its first rows.
fn found_beside(index: &Index, ask: Ask<'_>, write: &dyn Fn()) -> Result<Vec<Slot>, Lost> {
    let is_written = Cell::new(false);
    let by_id = |a: Slot, b: Slot| -> Ordering {
        if !is_written.replace(true) {
            write();
        }
        a.cmp(&b)
    };
    let scorer = index.scorer(&[0.0; 64]);
    let Ask { k, ef, exact, admitted } = ask;
    let wanted = Wanted { scorer: &scorer, k, effort: Effort::Candidates(ef), exact, admitted, except: None };
    let found = index.search(&wanted, &by_id, &Stop::default()).unwrap();
    assert!(is_written.get(), "it was written while the search ran");
    let (hits, _) = found?;
    assert!(hits.iter().all(|hit| index.row(hit.slot) == Some(hit.row)), "only live rows are found");
    Ok(hits.into_iter().map(|hit| hit.slot).collect())
}

#[test]
fn what_gets_another_vector_before_a_search_comes_to_it_is_found() {
    let directory = tempfile::tempdir().unwrap();
    for how in [Laid::Head, Laid::Sealed] {
        for exact in [true, false] {
            let index = laid(how, directory.path());
            let truth: Vec<Slot> = (ROWS - K as Slot..ROWS).rev().collect();
            let replace = || (ROWS / 2..ROWS).for_each(|slot| index.put(slot, &near(slot)));
            let ask = Ask { k: K, exact, ..ASK };
            assert_eq!(found_beside(&index, ask, &replace).ok(), Some(truth.clone()), "{how:?}, exact: {exact}");
            // Under a filter, too.
            let admitted = Admitted::new((0..ROWS).collect());
            let ask = Ask { admitted: Some(&admitted), ..ask };
            assert_eq!(found_beside(&index, ask, &replace).ok(), Some(truth), "{how:?}, exact: {exact}, filtered");
        }
    }
}

#[test]
fn a_search_begins_anew_where_what_came_meanwhile_is_in_a_segment() {
    let directory = tempfile::tempdir().unwrap();
    let index = laid(Laid::Head, directory.path());
    let replace = || (ROWS / 2..ROWS).for_each(|slot| index.put(slot, &near(slot)));
    let ask = Ask { exact: true, ..ASK };
    let replace_and_seal = || {
        replace();
        seal(&index, directory.path());
    };
    assert_eq!(found_beside(&index, ask, &replace_and_seal), Err(Lost::Overtaken));
    // What was there before is in a segment, too; all that comes now is in the head.
    let truth: Vec<Slot> = (ROWS - K as Slot..ROWS).rev().collect();
    (0..ROWS / 8).for_each(|slot| index.put(slot, &vec![9.0; 64]));
    assert_eq!(found_beside(&index, ask, &replace), Ok(truth));
}
