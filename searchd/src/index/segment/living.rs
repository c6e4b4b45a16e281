//! Which rows of a segment a search may find: those that live, and that its filter admits.

use super::super::Wanted;
use super::super::bits::Tombstones;
use super::super::graph::{self, Admits};
use super::Segment;
use crate::engine::Slot;

/// The rows of a segment that a search may find.
pub(super) struct Living<'a> {
    /// None where all live.
    dead: Option<&'a Tombstones>,
    slots: &'a [Slot],
    wanted: &'a Wanted<'a>,
}

impl<'a> Living<'a> {
    pub(super) fn of(segment: &'a Segment, wanted: &'a Wanted<'a>) -> Self {
        let dead = (!segment.dead.is_empty()).then_some(&*segment.dead);
        Self { dead, slots: segment.vectors.slots(), wanted }
    }
}

impl Admits for Living<'_> {
    fn admits(&self, row: u32) -> bool {
        self.dead.is_none_or(|dead| !dead.contains(row)) && self.wanted.admits(self.slots[row as usize])
    }

    fn mask(&self, rows: &[u32]) -> u64 {
        let Self { dead, slots, wanted } = self;
        let mask = match wanted.admitted {
            None => u64::MAX >> (64 - rows.len().clamp(1, 64)),
            Some(admitted) => admitted.mask(rows.iter().map(|row| slots[*row as usize])),
        };
        let is_left =
            |row: u32| dead.is_none_or(|dead| !dead.contains(row)) && wanted.except != Some(slots[row as usize]);
        if dead.is_none() && wanted.except.is_none() { mask } else { mask & graph::mask(rows, is_left) }
    }
}
