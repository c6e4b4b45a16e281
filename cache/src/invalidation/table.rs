//! When each tag, and everything, was last purged: a table of fixed size, by a hash of the tag.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Reach;
use crate::{Tag, Tags};

/// Slots of a table: half a mebibyte, and one collection in 65,536 shares another's purges.
const SLOTS: usize = 1 << 16;
/// Those, and one for everything.
pub(super) const PLACES: usize = 1 + SLOTS;

/// Unix microseconds; 0 for never.
pub(super) struct Table(Box<[AtomicU64]>);

impl Table {
    pub(super) fn new() -> Self {
        Self((0..PLACES).map(|_| AtomicU64::new(0)).collect())
    }

    pub(super) fn place(reach: Reach) -> usize {
        match reach {
            Reach::Everything => 0,
            Reach::Tag(tag) => 1 + tag.0 as usize % SLOTS,
        }
    }

    pub(super) fn at(&self, place: usize) -> u64 {
        self.0[place].load(Ordering::SeqCst)
    }

    pub(super) fn note(&self, place: usize, micros: u64) {
        self.0[place].fetch_max(micros, Ordering::SeqCst);
    }

    /// The last purge of anything in `tags`.
    pub(super) fn last(&self, tags: &Tags) -> u64 {
        let of_tag = |tag: Tag| self.at(Self::place(Reach::Tag(tag)));
        tags.iter().map(of_tag).fold(self.at(0), u64::max)
    }
}
