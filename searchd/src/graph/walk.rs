//! The walk through a graph towards a query: always on to the nearest candidate that has not been looked at.

use std::ops::Range;

use super::adjacency::{MAX_DEGREE, Neighbours, Room};
use super::codes::{Codes, PackedQuery};
use super::kernel::Kernel;
use super::partitions::Partitions;
use super::pool::{Candidate, Pool};
use super::visited::Visited;

/// Rows asked for before the first is compared; the kernel asks for the others as it goes.
const PREFETCHED: usize = 8;
/// Hops between two questions whether to go on: a walk that goes astray is known by then.
pub(super) const HOPS_PER_CHECK: usize = 16;

/// Who watches a walk.
pub(super) trait Guide {
    /// Rows were compared with the query.
    fn met(&mut self, kernel: Kernel, rows: &[u32], distances: &[f32]);
    /// Whether nothing better is to be hoped for when the nearest candidate left is this far.
    fn has_enough(&self, distance: f32) -> bool;
    /// Whether to give up.
    fn is_stopped(&self) -> bool;
    /// Whether what is looked for is not where the walk goes, by the best candidates so far; asked as often as
    /// [`Guide::is_stopped`].
    fn is_astray(&self, _candidates: &[Candidate]) -> bool {
        false
    }
    /// Whether a row may be found; asked of those that lists of partitions are left with.
    #[inline(always)]
    fn admits(&mut self, _row: u32) -> bool {
        true
    }
    /// Whether the row's list of neighbours is what was written; asked before it is read.
    #[inline(always)]
    fn believes_list(&self, _row: u32) -> bool {
        true
    }
    /// The same of the codes of rows.
    #[inline(always)]
    fn believes_codes(&self, _rows: &[u32]) -> bool {
        true
    }
    /// The same of blocks of partitions.
    #[inline(always)]
    fn believes_partition(&self, _partitions: &Partitions, _blocks: Range<usize>) -> bool {
        true
    }
}

/// Nobody.
pub(super) struct Alone;

impl Guide for Alone {
    fn met(&mut self, _: Kernel, _: &[u32], _: &[f32]) {}
    fn has_enough(&self, _: f32) -> bool {
        false
    }
    fn is_stopped(&self) -> bool {
        false
    }
}

/// Why a walk came to no end.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Halted {
    #[error("search stopped before its end")]
    Stopped,
    #[error("the graph is damaged")]
    Damaged,
}

/// What a walk needs and the next one uses again.
pub(super) struct Scratch {
    pub pool: Pool,
    pub effort: Effort,
    pub visited: Visited,
    pub fresh: Vec<u32>,
    pub sums: Vec<i32>,
    pub distances: Vec<f32>,
    pub room: Box<Room>,
}

/// What the last walk took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effort {
    pub distances: usize,
    pub hops: usize,
}

impl std::ops::Add for Effort {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { distances: self.distances + other.distances, hops: self.hops + other.hops }
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            pool: Pool::default(),
            effort: Effort::default(),
            visited: Visited::default(),
            fresh: vec![0; MAX_DEGREE],
            sums: vec![0; MAX_DEGREE],
            distances: vec![0.0; MAX_DEGREE],
            room: Box::new([0; MAX_DEGREE]),
        }
    }
}

/// The graph that is walked.
pub(super) struct Terrain<'a, A> {
    pub codes: &'a Codes,
    pub adjacency: &'a A,
    pub kernel: Kernel,
    pub entries: &'a [u32],
}

impl<A: Neighbours> Terrain<'_, A> {
    /// Leaves the nearest `ef` rows that were met in the scratch's pool.
    pub(super) fn walk<G: Guide>(
        &self,
        query: &PackedQuery,
        ef: usize,
        scratch: &mut Scratch,
        guide: &mut G,
    ) -> Result<(), Halted> {
        let Scratch { pool, visited, fresh, sums, distances, room, effort } = scratch;
        pool.reset(ef);
        visited.reset(self.codes.len());
        *effort = Effort::default();
        for chunk in self.entries.chunks(MAX_DEGREE) {
            let count = visited.sift(chunk, fresh);
            if !guide.believes_codes(&fresh[..count]) {
                return Err(Halted::Damaged);
            }
            self.codes.distances(self.kernel, query, &fresh[..count], sums, distances);
            pool.offer(self.kernel, &fresh[..count], &distances[..count]);
            guide.met(self.kernel, &fresh[..count], &distances[..count]);
            effort.distances += count;
        }
        while let Some(candidate) = pool.pop() {
            if guide.has_enough(candidate.distance()) {
                break;
            }
            effort.hops += 1;
            if effort.hops.is_multiple_of(HOPS_PER_CHECK) {
                if guide.is_stopped() {
                    return Err(Halted::Stopped);
                }
                if guide.is_astray(pool.candidates()) {
                    break;
                }
            }
            if !guide.believes_list(candidate.row()) {
                return Err(Halted::Damaged);
            }
            let count = visited.sift(self.adjacency.neighbours(candidate.row(), room), fresh);
            for row in &fresh[..count.min(PREFETCHED)] {
                self.codes.prefetch(*row);
            }
            if let Some(next) = pool.peek() {
                self.adjacency.prefetch(next);
            }
            if !guide.believes_codes(&fresh[..count]) {
                return Err(Halted::Damaged);
            }
            self.codes.distances(self.kernel, query, &fresh[..count], sums, distances);
            effort.distances += count;
            pool.offer(self.kernel, &fresh[..count], &distances[..count]);
            guide.met(self.kernel, &fresh[..count], &distances[..count]);
        }
        Ok(())
    }
}
