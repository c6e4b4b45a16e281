//! The head: rows as they come, searched exactly.

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
}

#[derive(Default)]
struct Rows {
    slots: Vec<Slot>,
    inverse_norms: Vec<f32>,
    values: Vec<f32>,
}

impl Chunk {
    pub fn new(part: u32, dimension: usize) -> Self {
        Self { part, dead: Tombstones::new(CHUNK_ROWS), dimension, rows: RwLock::default() }
    }

    /// `None` when the chunk is full.
    pub fn append(&self, slot: Slot, values: &[f32], inverse_norm: f32) -> Option<Row> {
        let mut rows = self.rows.write();
        if rows.slots.len() == CHUNK_ROWS {
            return None;
        }
        rows.slots.push(slot);
        rows.inverse_norms.push(inverse_norm);
        rows.values.extend_from_slice(values);
        Some(Row { part: self.part, row: rows.slots.len() as u32 - 1 })
    }

    pub fn len(&self) -> usize {
        self.rows.read().slots.len()
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
        let rows = self.rows.read();
        for (row, slot) in rows.slots.iter().enumerate() {
            if self.dead.contains(row as u32) || !wanted.admits(*slot) {
                continue;
            }
            let values = &rows.values[row * self.dimension..][..self.dimension];
            let rank = wanted.scorer.rank(values, rows.inverse_norms[row]);
            if rank >= nearest.threshold() {
                nearest.push(Hit { rank, slot: *slot, row: Row { part: self.part, row: row as u32 } });
            }
        }
    }

    pub fn bytes(&self) -> usize {
        let rows = self.rows.read();
        rows.values.capacity() * 4 + rows.slots.capacity() * 8 + CHUNK_ROWS / 8
    }
}
