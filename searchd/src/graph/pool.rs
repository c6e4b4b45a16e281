//! The candidates of a walk: a sorted array of fixed size, in place of two heaps.
//!
//! Most candidates that come are worse than the worst and never touch it; the rest are inserted by a short move of
//! neighbouring memory. A candidate is one word, so comparing is one instruction.

use bytemuck::{Pod, Zeroable};

use super::kernel::{self, Filled, Kernel};

/// A distance and a row in one word that sorts by distance, then by row; the lowest bit tells whether the row's
/// neighbours have been looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
#[repr(transparent)]
pub(super) struct Candidate(u64);

impl Candidate {
    pub(super) fn new(distance: f32, row: u32) -> Self {
        Self(kernel::candidate(distance, row))
    }

    #[inline(always)]
    pub(super) fn row(self) -> u32 {
        (self.0 as u32) >> 1
    }

    pub(super) fn distance(self) -> f32 {
        let key = (self.0 >> 32) as u32;
        f32::from_bits(if key & 0x8000_0000 != 0 { key ^ 0x8000_0000 } else { !key })
    }

    #[inline(always)]
    fn is_done(self) -> bool {
        self.0 & 1 == 1
    }
}

#[derive(Default)]
pub(super) struct Pool {
    /// Sorted up to `len`; the room after it belongs to the kernel.
    candidates: Vec<Candidate>,
    len: usize,
    capacity: usize,
    /// Everything before it has been looked at.
    next: usize,
}

impl Pool {
    pub(super) fn reset(&mut self, capacity: usize) {
        let room = capacity + kernel::POOL_SPARE;
        if self.candidates.len() < room {
            self.candidates.resize(room, Candidate(u64::MAX));
        }
        self.capacity = capacity;
        (self.len, self.next) = (0, 0);
    }

    /// Best first.
    pub(super) fn candidates(&self) -> &[Candidate] {
        &self.candidates[..self.len]
    }

    /// Takes those in that are better than the worst of a full pool, or all while there is room.
    #[inline(always)]
    pub(super) fn offer(&mut self, kernel: Kernel, rows: &[u32], distances: &[f32]) {
        let words: &mut [u64] = bytemuck::cast_slice_mut(&mut self.candidates);
        let mut filled = Filled { len: self.len, capacity: self.capacity, lowest: self.next };
        kernel.offer(words, &mut filled, rows, distances);
        (self.len, self.next) = (filled.len, filled.lowest);
    }

    /// Whether a candidate at this distance would be taken in.
    #[inline(always)]
    pub(super) fn takes(&self, distance: f32) -> bool {
        !self.is_full() || self.candidates().last().is_some_and(|worst| distance <= worst.distance())
    }

    /// The distance up to which all that was offered is in here.
    pub(super) fn reach(&self) -> f32 {
        let worst = self.candidates().last().filter(|_| self.is_full());
        worst.map_or(f32::INFINITY, |worst| worst.distance())
    }

    /// How many candidates are at most this far.
    pub(super) fn within(&self, distance: f32) -> usize {
        self.candidates().partition_point(|candidate| candidate.distance() <= distance)
    }

    pub(super) fn is_full(&self) -> bool {
        self.len == self.capacity
    }

    /// The best candidate that has not been looked at, marked as looked at.
    #[inline(always)]
    pub(super) fn pop(&mut self) -> Option<Candidate> {
        while let Some(candidate) = self.candidates[..self.len].get_mut(self.next) {
            self.next += 1;
            if !candidate.is_done() {
                candidate.0 |= 1;
                return Some(*candidate);
            }
        }
        None
    }

    /// The row that [`Pool::pop`] would give now.
    #[inline(always)]
    pub(super) fn peek(&self) -> Option<u32> {
        self.candidates[..self.len][self.next.min(self.len)..].iter().find(|c| !c.is_done()).map(|c| c.row())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_come_first_and_once() {
        let mut pool = Pool::default();
        pool.reset(3);
        let kernel = Kernel::detect();
        pool.offer(kernel, &[1, 2, 3, 4, 5], &[2.0, -1.0, 0.5, 3.0, -0.5]);
        assert_eq!(
            pool.candidates().iter().map(|c| (c.distance(), c.row())).collect::<Vec<_>>(),
            [(-1.0, 2), (-0.5, 5), (0.5, 3)]
        );
        let mut pop = || pool.pop().map(Candidate::row);
        assert_eq!([pop(), pop()], [Some(2), Some(5)]);
        pool.offer(kernel, &[9], &[-2.0]);
        assert_eq!(pool.peek(), Some(9));
        let mut pop = || pool.pop().map(Candidate::row);
        assert_eq!([pop(), pop(), pop()], [Some(9), None, None]);
    }
}
