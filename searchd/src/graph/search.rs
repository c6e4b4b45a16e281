//! A search: a walk on packed codes, then the best of what it found by exact distances.
//!
//! Under a filter there are three ways ([`Through`]): a walk over all rows that keeps what is admitted, one over admitted rows
//! only ([`super::two_hop`]), and none, where so few are admitted that the codes of all of them are ranked ([`super::rank`]).

use std::ops::Range;

use super::adjacency::Lists;
use super::codes::{Codes, PackedQuery};
pub use super::filter::{Admits, Filter, Through, mask};
use super::kernel::Kernel;
use super::partitions::Partitions;
use super::partitions::scan::{Scanner, Target};
use super::pool::{Candidate, Pool};
use super::rank::Blocks;
use super::ranking::Ranking;
use super::two_hop::Hops;
use super::walk::{Alone, Guide, Scratch, Terrain};
pub use super::walk::{Effort, Halted};
use super::{Graph, Unchecked};

/// A walk that met too few of the admitted rows (a filter may admit all but the neighbourhood of the query) is walked anew
/// with this many times the candidates.
const AGAIN: usize = 4;
/// Not past this part of the rows: comparing all that are admitted is cheaper then than any walk.
const MAX_WALKED_PART: usize = 16;

/// What is looked for.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    pub query: &'a [f32],
    pub k: usize,
    /// Candidates that the walk keeps; at least `k` are.
    pub ef: usize,
    /// Candidates compared exactly; at least `k` are.
    pub rescored: usize,
    pub filter: Option<Filter<'a>>,
    /// Asked now and then whether to give up.
    pub stop: Option<&'a dyn Fn() -> bool>,
}

/// What a walk found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Proposed<'s> {
    /// The rows worth an exact comparison, the likeliest first.
    pub rows: &'s [u32],
    /// The walk met few of the rows that the filter admits: nearer ones may be elsewhere.
    pub is_short: bool,
}

/// Exact distances of rows, by their numbers as they were built: lower is nearer, on whatever scale.
pub trait Exact {
    fn distance(&self, row: u32) -> f32;
    /// Asks for a row that is soon compared.
    fn prefetch(&self, _row: u32) {}
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    pub distance: f32,
    pub row: u32,
}

/// What one thread needs to search, whatever graphs.
#[derive(Default)]
pub struct Searcher {
    pub(super) scratch: Scratch,
    admitted: Pool,
    hops: Hops,
    scanner: Scanner,
    pub(super) ranking: Ranking,
    pub(super) blocks: Blocks,
    pub(super) turned: Turned,
    found: Vec<u32>,
}

/// A query as a graph's codes are.
#[derive(Default)]
pub(super) struct Turned {
    point: Vec<f32>,
    spare: Vec<f32>,
    query: Option<PackedQuery>,
}

impl Searcher {
    /// What the last search took.
    pub fn effort(&self) -> Effort {
        self.scratch.effort
    }
}

/// Collects what a filter admits while the walk goes on over all rows.
struct Sieve<'a, 'b> {
    rows: &'a [u32],
    filter: Option<Filter<'b>>,
    admitted: &'a mut Pool,
    /// Candidates that an open walk would keep.
    ef: usize,
    stop: Option<&'b dyn Fn() -> bool>,
}

impl Guide for Sieve<'_, '_> {
    #[inline(always)]
    fn met(&mut self, kernel: Kernel, rows: &[u32], distances: &[f32]) {
        let Some(filter) = self.filter else { return };
        for (row, distance) in rows.iter().zip(distances) {
            if self.admitted.takes(*distance) && filter.admits.admits(self.rows[*row as usize]) {
                self.admitted.offer(kernel, &[*row], &[*distance]);
            }
        }
    }

    #[inline(always)]
    fn has_enough(&self, distance: f32) -> bool {
        self.filter.is_some() && self.admitted.is_full() && !self.admitted.takes(distance)
    }

    #[inline(always)]
    fn is_stopped(&self) -> bool {
        self.stop.is_some_and(|stop| stop())
    }

    /// What lies beyond a hole in the middle is so much alike that candidates of the usual number are a lottery.
    fn is_astray(&self, candidates: &[Candidate]) -> bool {
        let Some(filter) = self.filter else { return false };
        // Farther than these the walk met only what happened to be on its way.
        let nearest = &candidates[..self.ef.min(candidates.len())];
        let near = nearest.last().map_or(0, |last| self.admitted.within(last.distance()));
        filter.is_against(near, nearest.len())
    }
}

/// Checks what was not checked yet on behalf of another guide.
pub(super) struct Wary<'a, G> {
    guide: &'a mut G,
    unchecked: &'a Unchecked,
    lists: &'a Lists,
    codes: &'a Codes,
}

impl<G: Guide> Guide for Wary<'_, G> {
    fn met(&mut self, kernel: Kernel, rows: &[u32], distances: &[f32]) {
        self.guide.met(kernel, rows, distances);
    }

    fn has_enough(&self, distance: f32) -> bool {
        self.guide.has_enough(distance)
    }

    fn is_stopped(&self) -> bool {
        self.guide.is_stopped()
    }

    fn is_astray(&self, candidates: &[Candidate]) -> bool {
        self.guide.is_astray(candidates)
    }

    fn admits(&mut self, row: u32) -> bool {
        self.guide.admits(row)
    }

    fn believes_list(&self, row: u32) -> bool {
        self.unchecked.believes_list(self.lists, row)
    }

    fn believes_codes(&self, rows: &[u32]) -> bool {
        self.unchecked.believes_codes(self.codes, rows)
    }

    fn believes_partition(&self, partitions: &Partitions, blocks: Range<usize>) -> bool {
        let parts = partitions.bytes_of(blocks).into_iter().zip(self.unchecked.partitions);
        parts.into_iter().all(|(bytes, start)| self.unchecked.checks.pass(start + bytes.start..start + bytes.end))
    }
}

impl Unchecked {
    fn believes_list(&self, lists: &Lists, row: u32) -> bool {
        let bytes = lists.bytes_of(row);
        self.checks.pass(self.lists + bytes.start..self.lists + bytes.end)
    }

    fn believes_codes(&self, codes: &Codes, rows: &[u32]) -> bool {
        rows.iter().all(|row| {
            let bytes = codes.bytes_of(*row);
            self.checks.pass(self.codes + bytes.start..self.codes + bytes.end)
        })
    }
}

impl Graph {
    /// Walks, and believes nothing that was not checked.
    #[inline(always)]
    pub(super) fn walk<G: Guide>(
        &self,
        query: &PackedQuery,
        ef: usize,
        scratch: &mut Scratch,
        guide: &mut G,
    ) -> Result<(), Halted> {
        let terrain = self.terrain();
        match self.wary(guide) {
            Ok(mut wary) => terrain.walk(query, ef, scratch, &mut wary),
            Err(guide) => terrain.walk(query, ef, scratch, guide),
        }
    }

    #[inline(always)]
    pub(super) fn terrain(&self) -> Terrain<'_, Lists> {
        let Self { codes, lists, kernel, entries, .. } = self;
        Terrain { codes, adjacency: lists, kernel: *kernel, entries }
    }

    /// A guide that also checks, where there is something to be checked.
    #[inline(always)]
    pub(super) fn wary<'a, G>(&'a self, guide: &'a mut G) -> Result<Wary<'a, G>, &'a mut G> {
        match &self.unchecked {
            Some(unchecked) => Ok(Wary { guide, unchecked, lists: &self.lists, codes: &self.codes }),
            None => Err(guide),
        }
    }

    /// Whether the codes of rows are what was written.
    pub(super) fn believes_codes(&self, rows: &[u32]) -> bool {
        self.unchecked.as_ref().is_none_or(|unchecked| unchecked.believes_codes(&self.codes, rows))
    }

    /// The rows worth an exact comparison: `wanted.rescored` at most, fewer where the walk met fewer that the filter
    /// admits.
    ///
    /// # Panics
    /// If the query is not of the graph's dimension, or a listed row not one of the graph's.
    pub fn propose<'s>(&self, searcher: &'s mut Searcher, wanted: &Wanted<'_>) -> Result<Proposed<'s>, Halted> {
        let Searcher { scratch, admitted, hops, scanner, ranking, blocks, turned, found } = searcher;
        let ef = wanted.ef.max(wanted.k);
        // No more can be found than are kept.
        let rescored = wanted.rescored.clamp(wanted.k, ef);
        let (query, point) = self.turn(wanted.query, turned);
        let target = Target { codes: &self.codes, kernel: self.kernel, point, query, ef };
        let rows = self.rows.get();
        let mut is_short = false;
        let candidates = match (wanted.filter, wanted.stop) {
            (None, None) => {
                self.go(target, scanner, scratch, &mut Alone)?;
                scratch.pool.candidates()
            }
            (None, stop) => {
                self.go(target, scanner, scratch, &mut Sieve { rows, filter: None, admitted, ef, stop })?;
                scratch.pool.candidates()
            }
            (Some(filter), stop) => {
                let enough = filter.enough(self.len(), rescored);
                match filter.through {
                    Through::All if self.look_through(target, filter, stop, scanner, scratch)? => {
                        scratch.pool.candidates()
                    }
                    Through::All => {
                        is_short = self.walk_all(query, ef, enough, filter, stop, scratch, admitted)?;
                        admitted.candidates()
                    }
                    Through::Admitted => {
                        let is_against = self.walk_admitted(query, ef, &filter, stop, scratch, hops)?;
                        is_short = is_against || scratch.pool.candidates().len() < enough;
                        scratch.pool.candidates()
                    }
                    Through::Codes => {
                        self.rank_admitted(query, ef, Some(&filter), stop, blocks, ranking)?;
                        scratch.effort = Effort { distances: ranking.ranked(), hops: 0 };
                        ranking.best()
                    }
                }
            }
        };
        let candidates = &candidates[..candidates.len().min(rescored)];
        found.clear();
        found.extend(candidates.iter().map(|candidate| rows[candidate.row() as usize]));
        Ok(Proposed { rows: found, is_short })
    }

    /// A query as the codes take it, and as a point.
    pub(super) fn turn<'t>(&self, query: &[f32], turned: &'t mut Turned) -> (&'t PackedQuery, &'t [f32]) {
        let Turned { point, spare, query: packed } = turned;
        self.space.query(query, point, spare);
        let packed = packed.get_or_insert_with(|| self.codes.empty_query());
        self.codes.pack(point, packed);
        (packed, point)
    }

    /// Walks over all rows, ever farther, until `enough` that are admitted were met. True if they were not.
    #[expect(clippy::too_many_arguments, reason = "the parts of a searcher are borrowed apart")]
    fn walk_all(
        &self,
        query: &PackedQuery,
        ef: usize,
        enough: usize,
        filter: Filter<'_>,
        stop: Option<&dyn Fn() -> bool>,
        scratch: &mut Scratch,
        admitted: &mut Pool,
    ) -> Result<bool, Halted> {
        let mut walked = filter.widened(ef).min(self.len().max(ef));
        let mut effort = Effort::default();
        loop {
            admitted.reset(ef);
            let mut sieve = Sieve { rows: self.rows.get(), filter: Some(filter), admitted, ef, stop };
            self.walk(query, walked, scratch, &mut sieve)?;
            effort = effort + scratch.effort;
            if sieve.is_astray(scratch.pool.candidates()) {
                scratch.effort = effort;
                return Ok(true);
            }
            let is_short = admitted.within(scratch.pool.reach()) < enough;
            walked *= AGAIN;
            if !is_short || walked > self.len() / MAX_WALKED_PART {
                scratch.effort = effort;
                return Ok(is_short);
            }
        }
    }

    /// The nearest rows found, best first, equals by row. There may be fewer than `k` though more are admitted: the
    /// caller then compares with all that the filter admits.
    ///
    /// # Panics
    /// As for [`Graph::propose`].
    pub fn search(&self, searcher: &mut Searcher, wanted: &Wanted<'_>, exact: &impl Exact) -> Result<Vec<Hit>, Halted> {
        Ok(rescore(self.propose(searcher, wanted)?.rows, wanted.k, exact))
    }
}

fn rescore(rows: &[u32], k: usize, exact: &impl Exact) -> Vec<Hit> {
    const AHEAD: usize = 4;
    rows.iter().take(AHEAD).for_each(|row| exact.prefetch(*row));
    let mut hits: Vec<Hit> = Vec::with_capacity(rows.len());
    for (i, row) in rows.iter().enumerate() {
        if let Some(next) = rows.get(i + AHEAD) {
            exact.prefetch(*next);
        }
        hits.push(Hit { distance: exact.distance(*row), row: *row });
    }
    hits.sort_unstable_by(|a, b| a.distance.total_cmp(&b.distance).then(a.row.cmp(&b.row)));
    hits.truncate(k);
    hits
}
