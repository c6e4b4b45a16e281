//! Which slots changed last, so that who knew what a filter admits looks at those again and not at all.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::engine::Slot;

/// Changes that are remembered: to look at so many records takes about as long as to evaluate a filter.
const REMEMBERED: usize = 256;

/// A state of one index. Of all indexes in the process no two have one in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    index: u64,
    changes: u64,
}

#[derive(Debug)]
pub(super) struct Recent {
    now: Moment,
    /// Those of the last changes, oldest first.
    slots: VecDeque<Slot>,
}

impl Default for Recent {
    fn default() -> Self {
        static INDEXES: AtomicU64 = AtomicU64::new(0);
        let index = INDEXES.fetch_add(1, Ordering::Relaxed);
        Self { now: Moment { index, changes: 0 }, slots: VecDeque::new() }
    }
}

impl Recent {
    pub(super) fn now(&self) -> Moment {
        self.now
    }

    pub(super) fn note(&mut self, slot: Slot) {
        self.now.changes += 1;
        if self.slots.len() == REMEMBERED {
            self.slots.pop_front();
        }
        self.slots.push_back(slot);
    }

    /// The slots that changed since then, each once, ascending. None where that is not known any more.
    pub(super) fn since(&self, then: Moment) -> Option<Vec<Slot>> {
        if then.index != self.now.index {
            return None;
        }
        let changes = usize::try_from(self.now.changes.checked_sub(then.changes)?).ok()?;
        let first = self.slots.len().checked_sub(changes)?;
        let mut slots: Vec<Slot> = self.slots.range(first..).copied().collect();
        slots.sort_unstable();
        slots.dedup();
        Some(slots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_known_for_a_while_and_to_one_index_alone() {
        let mut recent = Recent::default();
        let start = recent.now();
        assert_eq!(recent.since(start), Some(vec![]));
        for slot in [7, 3, 7] {
            recent.note(slot);
        }
        let then = recent.now();
        assert_eq!(recent.since(start), Some(vec![3, 7]));
        assert_eq!(recent.since(then), Some(vec![]));
        (0..REMEMBERED as Slot).for_each(|slot| recent.note(slot));
        assert_eq!(recent.since(then).map(|slots| slots.len()), Some(REMEMBERED));
        assert_eq!(recent.since(start), None, "too long ago");
        let other = Recent::default();
        assert_eq!(other.since(start), None, "of another index");
    }
}
