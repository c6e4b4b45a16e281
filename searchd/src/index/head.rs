//! The head: rows as they come, searched exactly.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;

use super::bits::Tombstones;
use super::nearest::{Hit, Nearest};
use super::{Row, Wanted};
use crate::engine::Slot;

/// Rows of one chunk. A search holds a chunk's lock for about a tenth of a millisecond.
pub const CHUNK_ROWS: usize = 1_024;

pub struct Chunk {
    pub part: u32,
    pub dead: Tombstones,
    dimension: usize,
    rows: RwLock<Rows>,
    /// Known without the lock, which sealing holds while it copies.
    len: AtomicUsize,
}

#[derive(Default)]
struct Rows {
    slots: Vec<Slot>,
    inverse_norms: Vec<f32>,
    values: Vec<f32>,
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

    pub fn scan(&self, wanted: &Wanted<'_>, nearest: &mut Nearest<'_>) {
        // Ties look ids up in the record table. The committer, who holds that table while it appends here, must never
        // wait for us while we wait for it: so the lock on the rows is gone before anything is compared by id.
        let hits = self.hits(wanted, nearest.threshold());
        for hit in hits {
            if hit.rank >= nearest.threshold() {
                nearest.push(hit);
            }
        }
    }

    /// The admitted rows of at least this rank.
    fn hits(&self, wanted: &Wanted<'_>, least: f32) -> Vec<Hit> {
        let rows = self.rows.read();
        let mut hits = Vec::new();
        for (row, slot) in rows.slots.iter().enumerate() {
            if self.dead.contains(row as u32) || !wanted.admits(*slot) {
                continue;
            }
            let values = &rows.values[row * self.dimension..][..self.dimension];
            let rank = wanted.scorer.rank(values, rows.inverse_norms[row]);
            if rank >= least {
                hits.push(Hit { rank, slot: *slot, row: Row { part: self.part, row: row as u32 } });
            }
        }
        hits
    }

    pub fn bytes(&self) -> usize {
        let rows = self.rows.read();
        rows.values.capacity() * 4 + rows.slots.capacity() * 8 + CHUNK_ROWS / 8
    }
}
