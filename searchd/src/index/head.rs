//! The head: rows as they come, searched exactly.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;

use super::batch::Search;
use super::bits::Tombstones;
use super::nearest::{Hit, Nearest};
use super::sweep::{Course, Rows, Sweep};
use super::{Row, Wanted};
use crate::engine::Slot;
use crate::search::stop::{Stop, Stopped};

/// Rows of one chunk. A search holds a chunk's lock for about a tenth of a millisecond.
pub const CHUNK_ROWS: usize = 1_024;

/// Rows up to which a chunk grows in small steps.
const SMALL_ROWS: usize = 128;

pub struct Chunk {
    pub part: u32,
    pub dead: Tombstones,
    dimension: usize,
    rows: RwLock<Stored>,
    /// Known without the lock, which sealing holds while it copies.
    len: AtomicUsize,
}

#[derive(Default)]
struct Stored {
    slots: Vec<Slot>,
    inverse_norms: Vec<f32>,
    values: Vec<f32>,
}

impl Stored {
    /// Small collections, of which there may be thousands, grow by a quarter: doubling would leave up to half of their
    /// memory empty.
    fn make_room(&mut self, dimension: usize) {
        let len = self.slots.len();
        if len <= SMALL_ROWS && self.values.capacity() - self.values.len() < dimension {
            self.values.reserve_exact((len / 4).max(1) * dimension);
        }
    }
}

impl Chunk {
    pub fn new(part: u32, dimension: usize) -> Self {
        Self { part, dead: Tombstones::new(CHUNK_ROWS), dimension, rows: RwLock::default(), len: AtomicUsize::new(0) }
    }

    /// `None` when the chunk is full.
    pub fn append(&self, slot: Slot, values: &[f32], inverse_norm: f32) -> Option<Row> {
        if self.len() == CHUNK_ROWS {
            return None;
        }
        let mut rows = self.rows.write();
        rows.slots.push(slot);
        rows.inverse_norms.push(inverse_norm);
        rows.make_room(values.len());
        rows.values.extend_from_slice(values);
        self.len.store(rows.slots.len(), Ordering::Release);
        Some(Row { part: self.part, row: rows.slots.len() as u32 - 1 })
    }

    pub fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn values(&self, row: u32) -> Option<Vec<f32>> {
        let start = row as usize * self.dimension;
        self.rows.read().values.get(start..start + self.dimension).map(<[f32]>::to_vec)
    }

    /// Calls `each` with the rows that live.
    pub fn for_each(&self, mut each: impl FnMut(u32, Slot, &[f32])) {
        let rows = self.rows.read();
        for (row, (slot, values)) in rows.slots.iter().zip(rows.values.chunks_exact(self.dimension)).enumerate() {
            if !self.dead.contains(row as u32) {
                each(row as u32, *slot, values);
            }
        }
    }

    /// Compares for each search the rows that it may find, or those of them that were looked up; adds to `compared` how
    /// many these were.
    pub(super) fn search(
        &self,
        searches: &mut [&mut Search<'_>],
        compared: &mut [usize],
        stop: &Stop,
    ) -> Result<(), Stopped> {
        let listed: Vec<_> = searches.iter().map(|search| search.listed.clone()).collect();
        let all = 0..self.len() as u32;
        let courses = listed.iter().enumerate().map(|(search, listed)| {
            let rows = listed.as_ref().map(|listed| Rows::Listed(listed.of(self.part)));
            Course::new(search, rows.unwrap_or_else(|| Rows::All(all.clone())))
        });
        let mut sweep = Sweep::new(courses.collect(), self.dimension);
        while sweep.advance() {
            stop.check()?;
            for course in sweep.courses() {
                let search = &mut *searches[course.search];
                compared[course.search] += self.compare(&course.rows, search.wanted, &mut search.nearest);
            }
        }
        Ok(())
    }

    /// Returns how many rows were compared.
    fn compare(&self, some: &Rows<'_>, wanted: &Wanted<'_>, nearest: &mut Nearest<'_>) -> usize {
        let rows = self.rows.read();
        let (hits, compared) = match some {
            Rows::All(all) => {
                let is_wanted = |row: &u32| !self.dead.contains(*row) && wanted.admits(rows.slots[*row as usize]);
                self.hits(&rows, all.clone().filter(is_wanted), wanted, nearest.threshold())
            }
            Rows::Listed(listed) => self.hits(&rows, listed.iter().copied(), wanted, nearest.threshold()),
        };
        drop(rows);
        take(hits, nearest);
        compared
    }

    /// Those of at least this rank, and how many were compared.
    fn hits(
        &self,
        rows: &Stored,
        compared: impl Iterator<Item = u32>,
        wanted: &Wanted<'_>,
        least: f32,
    ) -> (Vec<Hit>, usize) {
        let (mut hits, mut count) = (Vec::new(), 0);
        for row in compared {
            let values = &rows.values[row as usize * self.dimension..][..self.dimension];
            let rank = wanted.scorer.rank(values, rows.inverse_norms[row as usize]);
            count += 1;
            if rank >= least {
                let slot = rows.slots[row as usize];
                hits.push(Hit { rank, slot, row: Row { part: self.part, row } });
            }
        }
        (hits, count)
    }

    pub fn bytes(&self) -> usize {
        let rows = self.rows.read();
        rows.values.capacity() * 4 + rows.slots.capacity() * 8 + CHUNK_ROWS / 8
    }
}

/// Ties look ids up in the record table. The committer, who holds that table while it appends to a chunk, must never wait
/// for a search that waits for it: so the lock on the rows is gone before anything is compared by id.
fn take(hits: Vec<Hit>, nearest: &mut Nearest<'_>) {
    for hit in hits {
        if hit.rank >= nearest.threshold() {
            nearest.push(hit);
        }
    }
}
