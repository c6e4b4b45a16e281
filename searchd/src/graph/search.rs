//! A search: a walk on packed codes, then the best of what it found by exact distances.

use super::adjacency::Lists;
use super::codes::{Codes, PackedQuery};
use super::kernel::Kernel;
use super::pool::Pool;
use super::walk::{Alone, Guide, Scratch, Terrain};
pub use super::walk::{Effort, Halted};
use super::{Graph, Unchecked};

/// The first walk under a filter keeps at most this many times the candidates of an open one.
const MAX_WIDENING: f32 = 16.0;
/// A filtered walk may look at this many times the rows that would do if those admitted were spread evenly, for they
/// often are not.
const CORRELATION: f32 = 8.0;
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

/// Which rows may be found.
#[derive(Clone, Copy)]
pub struct Filter<'a> {
    /// By the row's number as it was built.
    pub admits: &'a dyn Fn(u32) -> bool,
    /// The part of all rows that is admitted, as well as is known.
    pub fraction: f32,
}

impl Filter<'_> {
    /// Candidates to keep at first where an open walk keeps `ef`.
    fn widened(&self, ef: usize) -> usize {
        let kept_out = (1.0 / self.fraction - 1.0).max(0.0);
        let widening = (1.0 + CORRELATION * kept_out).min(MAX_WIDENING);
        (ef as f32 * widening) as usize
    }

    /// Of `rows` rows, how many a walk must have met that are admitted, for its best `rescored` to be the best there are.
    /// Half of what is admitted does: the part is an estimate.
    fn enough(&self, rows: usize, rescored: usize) -> usize {
        rescored.min((self.fraction * rows as f32 / 2.0) as usize)
    }
}

/// What a walk found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    scratch: Scratch,
    admitted: Pool,
    point: Vec<f32>,
    spare: Vec<f32>,
    query: Option<PackedQuery>,
    found: Vec<u32>,
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
    stop: Option<&'b dyn Fn() -> bool>,
}

impl Guide for Sieve<'_, '_> {
    #[inline(always)]
    fn met(&mut self, kernel: Kernel, rows: &[u32], distances: &[f32]) {
        let Some(filter) = self.filter else { return };
        for (row, distance) in rows.iter().zip(distances) {
            if self.admitted.takes(*distance) && (filter.admits)(self.rows[*row as usize]) {
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
}

/// Checks what was not checked yet on behalf of another guide.
struct Wary<'a, G> {
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

    fn believes_list(&self, row: u32) -> bool {
        let Unchecked { checks, lists, .. } = self.unchecked;
        let bytes = self.lists.bytes_of(row);
        checks.pass(lists + bytes.start..lists + bytes.end)
    }

    fn believes_codes(&self, rows: &[u32]) -> bool {
        let Unchecked { checks, codes, .. } = self.unchecked;
        rows.iter().all(|row| {
            let bytes = self.codes.bytes_of(*row);
            checks.pass(codes + bytes.start..codes + bytes.end)
        })
    }
}

impl Graph {
    /// Walks, and believes nothing that was not checked.
    #[inline(always)]
    fn walk<G: Guide>(
        &self,
        query: &PackedQuery,
        ef: usize,
        scratch: &mut Scratch,
        guide: &mut G,
    ) -> Result<(), Halted> {
        let Self { codes, lists, kernel, entries, .. } = self;
        let terrain = Terrain { codes, adjacency: lists, kernel: *kernel, entries };
        match &self.unchecked {
            None => terrain.walk(query, ef, scratch, guide),
            Some(unchecked) => terrain.walk(query, ef, scratch, &mut Wary { guide, unchecked, lists, codes }),
        }
    }

    /// The rows worth an exact comparison: `wanted.rescored` at most, fewer where the walk met fewer that the filter
    /// admits.
    ///
    /// # Panics
    /// If the query is not of the graph's dimension.
    pub fn propose<'s>(&self, searcher: &'s mut Searcher, wanted: &Wanted<'_>) -> Result<Proposed<'s>, Halted> {
        let Searcher { scratch, admitted, point, spare, query, found } = searcher;
        let ef = wanted.ef.max(wanted.k);
        // No more can be found than are kept.
        let rescored = wanted.rescored.clamp(wanted.k, ef);
        self.space.query(wanted.query, point, spare);
        let query = query.get_or_insert_with(|| self.codes.empty_query());
        self.codes.pack(point, query);
        let rows = self.rows.get();
        let mut is_short = false;
        let candidates = match (wanted.filter, wanted.stop) {
            (None, None) => {
                self.walk(query, ef, scratch, &mut Alone)?;
                scratch.pool.candidates()
            }
            (None, stop) => {
                self.walk(query, ef, scratch, &mut Sieve { rows, filter: None, admitted, stop })?;
                scratch.pool.candidates()
            }
            (Some(filter), stop) => {
                let enough = filter.enough(self.len(), rescored);
                let mut walked = filter.widened(ef).min(self.len().max(ef));
                let mut effort = Effort::default();
                loop {
                    admitted.reset(ef);
                    let mut sieve = Sieve { rows, filter: Some(filter), admitted, stop };
                    self.walk(query, walked, scratch, &mut sieve)?;
                    effort = effort + scratch.effort;
                    // Farther than its last candidate the walk met only what happened to be on its way.
                    is_short = admitted.within(scratch.pool.reach()) < enough;
                    walked *= AGAIN;
                    if !is_short || walked > self.len() / MAX_WALKED_PART {
                        break;
                    }
                }
                scratch.effort = effort;
                admitted.candidates()
            }
        };
        found.clear();
        found.extend(candidates.iter().take(rescored).map(|candidate| rows[candidate.row() as usize]));
        Ok(Proposed { rows: found, is_short })
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
