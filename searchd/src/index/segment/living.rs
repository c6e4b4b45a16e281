//! Which rows of a segment a search may find: those that live, and that its filter admits.

use std::cell::OnceCell;

use super::super::Wanted;
use super::super::bits::{Bits, Tombstones};
use super::super::graph::{self, Admits};
use super::Segment;
use crate::engine::Slot;

/// The rows of a segment that a search may find.
pub(super) struct Living<'a> {
    /// None where all live.
    dead: Option<&'a Tombstones>,
    slots: &'a [Slot],
    wanted: &'a Wanted<'a>,
    /// All of them, once they are asked for: a graph asks in an order in which each would be a wait for memory, first for its
    /// slot and then for what is known of that.
    rows: OnceCell<Bits>,
}

impl<'a> Living<'a> {
    pub(super) fn of(segment: &'a Segment, wanted: &'a Wanted<'a>) -> Self {
        let dead = (!segment.dead.is_empty()).then_some(&*segment.dead);
        Self { dead, slots: segment.vectors.slots(), wanted, rows: OnceCell::new() }
    }

    /// By row, in their order.
    fn rows(&self) -> Bits {
        let Self { dead, slots, wanted, .. } = self;
        let blocks = slots.chunks(u64::BITS as usize).enumerate().map(|(block, slots)| {
            let admitted = match wanted.admitted {
                None => u64::MAX >> (u64::BITS as usize - slots.len()),
                Some(admitted) => admitted.mask(slots.iter().copied()),
            };
            let except = wanted.except.and_then(|except| slots.iter().position(|slot| *slot == except));
            let dead = dead.map_or(0, |dead| dead.word(block));
            admitted & !dead & !except.map_or(0, |at| 1 << at)
        });
        blocks.collect()
    }
}

impl Admits for Living<'_> {
    fn admits(&self, row: u32) -> bool {
        self.dead.is_none_or(|dead| !dead.contains(row)) && self.wanted.admits(self.slots[row as usize])
    }

    fn mask(&self, rows: &[u32]) -> u64 {
        let admitted = self.rows.get_or_init(|| self.rows());
        graph::mask(rows, |row| admitted.contains(row))
    }
}
