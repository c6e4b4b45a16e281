//! A walk over the rows that a filter admits, as if the others were not there: from a row to its admitted neighbours, and
//! through each of the others to those of that one (two hops; ACORN, Patel et al. 2024).
//!
//! A walk over all rows compares all that it meets to find the few that are admitted; this one looks many more lists up, and
//! compares admitted rows only. It begins where a short walk over all rows ends, so it doesn't matter whether rows at which
//! searches begin are admitted. Where the filter keeps out all that is near the query, it may find nothing.

use super::Graph;
use super::adjacency::{Lists, MAX_DEGREE, Neighbours, Room};
use super::codes::PackedQuery;
use super::kernel::Kernel;
use super::search::Filter;
use super::visited::Visited;
use super::walk::{Guide, HOPS_PER_CHECK, Halted, Scratch, Terrain};

/// Candidates of the walk over all rows that leads to where the query is.
const APPROACH: usize = 16;
/// From a row at least so many admitted ones are gone on to, if so many are within two hops.
const LEAST: usize = 24;
/// How many lists ahead of the one that is read are asked for.
const AHEAD: usize = 4;

/// What such a walk needs on top of a [`Scratch`].
pub(super) struct Hops {
    /// Rows whose neighbours were looked at, or will be because they are admitted.
    crossed: Visited,
    refused: Vec<u32>,
    gathered: Vec<u32>,
    front: Vec<u32>,
    room: Box<Room>,
}

impl Default for Hops {
    fn default() -> Self {
        let (refused, gathered, front) = (Vec::new(), Vec::new(), Vec::new());
        Self { crossed: Visited::default(), refused, gathered, front, room: Box::new([0; MAX_DEGREE]) }
    }
}

struct Stoppable<'a>(Option<&'a dyn Fn() -> bool>);

impl Guide for Stoppable<'_> {
    fn met(&mut self, _: Kernel, _: &[u32], _: &[f32]) {}

    fn has_enough(&self, _: f32) -> bool {
        false
    }

    fn is_stopped(&self) -> bool {
        self.0.is_some_and(|stop| stop())
    }
}

impl Graph {
    /// Leaves the nearest `ef` admitted rows that were met in the scratch's pool. True, and none, if the filter keeps out just
    /// what is near the query.
    pub(super) fn walk_admitted(
        &self,
        query: &PackedQuery,
        ef: usize,
        filter: &Filter<'_>,
        stop: Option<&dyn Fn() -> bool>,
        scratch: &mut Scratch,
        hops: &mut Hops,
    ) -> Result<bool, Halted> {
        let rows = self.rows.get();
        let admits = |row: u32| filter.admits.admits(rows[row as usize]);
        let mut guide = Stoppable(stop);
        self.walk(query, APPROACH, scratch, &mut guide)?;
        hops.front.clear();
        hops.front.extend(scratch.pool.candidates().iter().map(|candidate| candidate.row()));
        scratch.pool.reset(ef);
        let near = hops.front.iter().filter(|row| admits(**row)).count();
        if filter.is_against(near, hops.front.len()) {
            return Ok(true);
        }
        let terrain = self.terrain();
        match self.wary(&mut guide) {
            Ok(mut wary) => terrain.walk_admitted(query, &admits, scratch, hops, &mut wary)?,
            Err(guide) => terrain.walk_admitted(query, &admits, scratch, hops, guide)?,
        }
        Ok(false)
    }
}

impl Terrain<'_, Lists> {
    /// From the front on.
    fn walk_admitted<G: Guide>(
        &self,
        query: &PackedQuery,
        admits: &impl Fn(u32) -> bool,
        scratch: &mut Scratch,
        hops: &mut Hops,
        guide: &mut G,
    ) -> Result<(), Halted> {
        hops.crossed.reset(self.codes.len());
        scratch.visited.reset(self.codes.len());
        hops.gathered.clear();
        for at in 0..hops.front.len() {
            let row = hops.front[at];
            scratch.visited.meets(row);
            hops.crossed.meets(row);
            if admits(row) {
                hops.gathered.push(row);
            }
        }
        self.compare(query, scratch, hops, guide)?;
        for at in 0..hops.front.len() {
            let row = hops.front[at];
            if !admits(row) {
                self.gather(row, admits, scratch, hops, guide)?;
                self.compare(query, scratch, hops, guide)?;
            }
        }
        while let Some(candidate) = scratch.pool.pop() {
            scratch.effort.hops += 1;
            if scratch.effort.hops.is_multiple_of(HOPS_PER_CHECK) && guide.is_stopped() {
                return Err(Halted::Stopped);
            }
            self.gather(candidate.row(), admits, scratch, hops, guide)?;
            self.compare(query, scratch, hops, guide)?;
        }
        Ok(())
    }

    /// Collects admitted rows that were not met before: all that are neighbours, and as many beyond neighbours that are not
    /// admitted as the row has neighbours.
    fn gather<G: Guide>(
        &self,
        row: u32,
        admits: &impl Fn(u32) -> bool,
        scratch: &mut Scratch,
        hops: &mut Hops,
        guide: &G,
    ) -> Result<(), Halted> {
        let Scratch { visited: met, room, .. } = scratch;
        let Hops { crossed, refused, gathered, room: beyond, .. } = hops;
        gathered.clear();
        refused.clear();
        if !guide.believes_list(row) {
            return Err(Halted::Damaged);
        }
        let near = self.adjacency.neighbours(row, room);
        let enough = near.len().max(LEAST);
        for row in near {
            if met.meets(*row) && admits(*row) {
                crossed.meets(*row);
                gathered.push(*row);
            } else if !crossed.has_met(*row) {
                refused.push(*row);
            }
        }
        refused.iter().take(AHEAD).for_each(|row| self.adjacency.prefetch(*row));
        for (at, row) in refused.iter().enumerate() {
            if gathered.len() >= enough {
                break;
            }
            if let Some(next) = refused.get(at + AHEAD) {
                self.adjacency.prefetch(*next);
            }
            crossed.meets(*row);
            if !guide.believes_list(*row) {
                return Err(Halted::Damaged);
            }
            for far in self.adjacency.neighbours(*row, beyond) {
                if met.meets(*far) && admits(*far) {
                    crossed.meets(*far);
                    gathered.push(*far);
                }
            }
        }
        Ok(())
    }

    /// Offers what was gathered to the pool.
    fn compare<G: Guide>(
        &self,
        query: &PackedQuery,
        scratch: &mut Scratch,
        hops: &Hops,
        guide: &G,
    ) -> Result<(), Halted> {
        let Scratch { pool, sums, distances, effort, .. } = scratch;
        for block in hops.gathered.chunks(MAX_DEGREE) {
            if !guide.believes_codes(block) {
                return Err(Halted::Damaged);
            }
            self.codes.distances(self.kernel, query, block, sums, distances);
            pool.offer(self.kernel, block, &distances[..block.len()]);
            effort.distances += block.len();
        }
        Ok(())
    }
}
