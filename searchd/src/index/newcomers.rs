//! Rows that come while a search goes through the parts.
//!
//! A point that gets another vector meanwhile has its old row dead from then on, and its new one behind all that the search
//! looks at: it would be missed, though it was there all the time. So a search ends with a look at what came since it began,
//! and again, until nothing has.

use std::sync::atomic::Ordering;

use super::batch::Search;
use super::head::{CHUNK_ROWS, Chunk};
use super::parts::Parts;
use super::plan::Part;
use super::sweep::Rows;
use super::{Index, Row};
use crate::search::stop::{Stop, Stopped};

/// Looks at what came during the look before, each of them shorter, until a search has to begin anew.
const LOOKS: usize = 8;
/// Rows of a chunk, however many.
const ALL: usize = usize::MAX;

/// Up to where in the head a search looks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach {
    /// The last of its chunks; while there is none, the last that was sealed.
    part: Option<u32>,
    /// Rows of that one; all of one that was sealed.
    rows: usize,
}

impl Reach {
    /// How many of a chunk's rows are within, of a chunk that is.
    pub(super) fn rows_of(&self, chunk: &Chunk) -> usize {
        if self.part == Some(chunk.part) { self.rows.min(chunk.len()) } else { chunk.len() }
    }

    /// One row less: the last may have come without having been given to its slot yet.
    pub(super) fn short(self) -> Self {
        let rows = if self.rows == ALL { ALL } else { self.rows.saturating_sub(1) };
        Self { rows, ..self }
    }
}

impl Parts {
    /// All rows that are there.
    pub(super) fn reach(&self) -> Reach {
        let sealed = Reach { part: self.sealed, rows: ALL };
        self.head.last().map_or(sealed, |chunk| Reach { part: Some(chunk.part), rows: chunk.len() })
    }

    /// Compares what came since a search looked at the head; false where some of that is in a segment by now.
    fn search_newcomers(&self, search: &mut Search<'_>) -> bool {
        let Reach { part, rows } = search.reach;
        if self.sealed > part || (self.sealed == part && rows < CHUNK_ROWS) {
            return false;
        }
        let mut compared = 0;
        for chunk in self.head.iter().filter(|chunk| Some(chunk.part) >= part) {
            let (mut first, end) = (if Some(chunk.part) == part { rows } else { 0 }, chunk.len());
            // Nothing is found twice: see `Reach::short`.
            let next = Row { part: chunk.part, row: first as u32 };
            first += usize::from(search.nearest.hits().any(|hit| hit.row == next));
            compared += chunk.compare(&Rows::All(first as u32..end as u32), search.wanted, &mut search.nearest);
            search.reach = Reach { part: Some(chunk.part), rows: end };
        }
        search.trail.iter_mut().filter(|step| step.part == Part::Head).for_each(|step| step.compared += compared);
        true
    }
}

impl Index {
    /// Looks at the rows that came since so many had been written, before the searches began. False if there is no end of them,
    /// or some are out of sight.
    pub(super) fn catch_up(&self, searches: &mut [Search<'_>], mut written: u64, stop: &Stop) -> Result<bool, Stopped> {
        for _ in 0..LOOKS {
            // A row is counted before the one in whose place it came is dead: so of whatever was passed over as dead, what took its
            // place is among those counted now.
            let now = self.written.load(Ordering::Acquire);
            if now == written {
                return Ok(true);
            }
            stop.check()?;
            let parts = self.parts.load_full();
            if !searches.iter_mut().all(|search| parts.search_newcomers(search)) {
                return Ok(false);
            }
            written = now;
        }
        Ok(false)
    }
}
