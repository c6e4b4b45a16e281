//! The head: rows as they come, searched exactly as long as they are few.
//!
//! A chunk that is full is packed into codes in the background, a fifth of what its vectors take to read: a search then
//! ranks by codes and compares the best. Nothing depends on when that is done.

mod room;
mod search;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;
use room::ROOM;

use super::batch::Search;
use super::bits::Tombstones;
use super::nearest::{Hit, Nearest};
use super::sweep::{Course, Rows, Sweep};
use super::{Row, Wanted};
use crate::engine::Slot;
use crate::graph;
use crate::graph::flat::{Block, Packer, Ranking};
use crate::search::stop::{Stop, Stopped};

/// Rows of one chunk. A search holds a chunk's lock for about a tenth of a millisecond.
pub const CHUNK_ROWS: usize = 1_024;

/// Rows up to which a chunk grows in small steps.
const SMALL_ROWS: usize = 128;

/// The rows of a full chunk.
static ALL: [u32; CHUNK_ROWS] = {
    let mut all = [0; CHUNK_ROWS];
    let mut row = 0;
    while row < CHUNK_ROWS {
        all[row] = row as u32;
        row += 1;
    }
    all
};

pub struct Chunk {
    pub part: u32,
    pub dead: Tombstones,
    dimension: usize,
    rows: RwLock<Stored>,
    /// Known without the lock, which sealing holds while it copies.
    len: AtomicUsize,
    /// Of a full chunk, once it is packed.
    codes: OnceLock<Coded>,
}

#[derive(Default)]
struct Stored {
    slots: Vec<Slot>,
    inverse_norms: Vec<f32>,
    values: Vec<f32>,
}

impl Stored {
    /// Small collections, of which there may be thousands, grow by a quarter: doubling would leave up to half of their
    /// memory empty. What is no longer small gets all that a chunk takes: to move rows again and again costs more than that.
    fn make_room(&mut self, dimension: usize) {
        let len = self.slots.len();
        if self.values.capacity() - self.values.len() < dimension {
            let more = if len < SMALL_ROWS { (len / 4).max(1) } else { CHUNK_ROWS - len };
            self.values.reserve_exact(more * dimension);
        }
    }
}

/// A chunk's codes, and what made them: the same for all chunks of an index.
pub struct Coded {
    packer: Arc<Packer>,
    block: Block,
}

/// A chunk's rows, to be packed.
struct Unpacked<'a> {
    values: &'a [f32],
    dimension: usize,
}

impl graph::Rows for Unpacked<'_> {
    fn len(&self) -> usize {
        self.values.len() / self.dimension
    }

    fn dimension(&self) -> usize {
        self.dimension
    }

    fn read(&self, row: u32, into: &mut [f32]) {
        into.copy_from_slice(&self.values[row as usize * self.dimension..][..self.dimension]);
    }
}

impl Chunk {
    pub fn new(part: u32, dimension: usize) -> Self {
        let (dead, len) = (Tombstones::new(CHUNK_ROWS), AtomicUsize::new(0));
        Self { part, dead, dimension, rows: RwLock::default(), len, codes: OnceLock::new() }
    }

    /// One that follows a full one, and will most probably be full as well.
    pub fn following(part: u32, dimension: usize) -> Self {
        let chunk = Self::new(part, dimension);
        chunk.rows.write().values = ROOM.take(CHUNK_ROWS * dimension);
        chunk
    }

    pub fn is_full(&self) -> bool {
        self.len() == CHUNK_ROWS
    }

    /// Packs the rows of a full chunk.
    pub fn pack(&self, packer: Arc<Packer>) {
        debug_assert!(self.is_full(), "rows that come later would be missing");
        let block = packer.pack(&Unpacked { values: &self.rows.read().values, dimension: self.dimension });
        // Packed twice, it is the same.
        let _ = self.codes.set(Coded { packer, block });
    }

    /// None before it is packed.
    pub fn codes(&self) -> Option<&Coded> {
        self.codes.get()
    }

    /// `None` when the chunk is full.
    pub fn append(&self, slot: Slot, values: &[f32], inverse_norm: f32) -> Option<Row> {
        if self.is_full() {
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

    /// Gives back what was taken for rows that do not come, but for as much as a small collection grows by.
    pub fn give_back(&self) {
        let is_much = |rows: &Stored| rows.values.capacity() > (rows.slots.len() + SMALL_ROWS / 4) * self.dimension;
        // It is asked over and over.
        if is_much(&self.rows.read()) {
            self.rows.write().values.shrink_to_fit();
        }
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

    /// Ranks the rows that a search may find by their codes. `first` is the number of the first row in the ranking.
    fn rank(&self, codes: &Coded, first: u32, search: &Search<'_>, ranking: &mut Ranking) {
        let Search { wanted, listed, .. } = search;
        let Coded { packer, block } = codes;
        match listed {
            Some(listed) => packer.rank(block, first, listed.of(self.part), ranking),
            None if wanted.admitted.is_none() && wanted.except.is_none() && self.dead.is_empty() => {
                packer.rank(block, first, &ALL, ranking);
            }
            None => {
                let rows = self.rows.read();
                let is_wanted = |row: &u32| !self.dead.contains(*row) && wanted.admits(rows.slots[*row as usize]);
                let found: Vec<u32> = (0..CHUNK_ROWS as u32).filter(is_wanted).collect();
                drop(rows);
                packer.rank(block, first, &found, ranking);
            }
        }
    }

    /// Compares one row.
    fn hit(&self, row: u32, wanted: &Wanted<'_>) -> Hit {
        let rows = self.rows.read();
        let values = &rows.values[row as usize * self.dimension..][..self.dimension];
        let rank = wanted.scorer.rank(values, rows.inverse_norms[row as usize]);
        Hit { rank, slot: rows.slots[row as usize], row: Row { part: self.part, row } }
    }

    /// Compares for each search the rows within its reach that it may find, or those of them that were looked up, and counts them.
    fn search(&self, searches: &mut [&mut Search<'_>], stop: &Stop) -> Result<(), Stopped> {
        let listed: Vec<_> = searches.iter().map(|search| search.listed.clone()).collect();
        let reaches: Vec<u32> = searches.iter().map(|search| search.reach.rows_of(self) as u32).collect();
        let courses = listed.iter().zip(reaches).enumerate().map(|(search, (listed, rows))| {
            let listed = listed.as_ref().map(|listed| Rows::Listed(listed.of(self.part)));
            Course::new(search, listed.unwrap_or(Rows::All(0..rows)))
        });
        let mut sweep = Sweep::new(courses.collect(), self.dimension);
        while sweep.advance() {
            stop.check()?;
            for course in sweep.courses() {
                let search = &mut *searches[course.search];
                search.compared += self.compare(&course.rows, search.wanted, &mut search.nearest);
            }
        }
        Ok(())
    }

    /// Returns how many rows were compared.
    pub(super) fn compare(&self, some: &Rows<'_>, wanted: &Wanted<'_>, nearest: &mut Nearest<'_>) -> usize {
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
        let codes = self.codes().map_or(0, |codes| codes.block.bytes());
        rows.values.capacity() * 4 + rows.slots.capacity() * 8 + CHUNK_ROWS / 8 + codes
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
