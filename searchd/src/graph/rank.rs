//! No walk at all: the codes of every row that a filter admits, ranked. For filters that admit few rows of a graph, but more
//! than are soon compared in full precision, of which a code is a tenth or less; and where they keep out all that is near.

use super::Graph;
use super::codes::PackedQuery;
use super::ranking::{Each, Ranking};
use super::search::{Filter, Searcher, Wanted};
use super::walk::{Effort, Halted};

/// Rows whose codes are compared in one call of a kernel, at the least, while those of as many are on their way.
const BLOCK: usize = 64;
/// Rows of which at least one in so many is compared lie close together.
const CLOSE: usize = 4;
/// Blocks between two questions whether to go on.
const BLOCKS_PER_CHECK: usize = 32;

/// Rows that are compared, and those that are next.
#[derive(Default)]
pub(super) struct Blocks {
    now: Vec<u32>,
    next: Vec<u32>,
}

impl Graph {
    /// Ranks the rows that the filter admits by their squared distances as codes have them, less what is the same for all rows, and
    /// tells `each` of them: the best `wanted.ef` in order, then of more for as long as it asks. False if there were so many that
    /// some of those that it asked for are not known any more.
    ///
    /// # Panics
    /// If the query is not of the graph's dimension, or a listed row not one of the graph's.
    pub fn rank(&self, searcher: &mut Searcher, wanted: &Wanted<'_>, each: Each<'_>) -> Result<bool, Halted> {
        let Searcher { scratch, ranking, blocks, turned, .. } = searcher;
        let (query, _) = self.turn(wanted.query, turned);
        let outcome = self.rank_admitted(query, wanted.ef, wanted.filter.as_ref(), wanted.stop, blocks, ranking);
        scratch.effort = Effort { distances: ranking.ranked(), hops: 0 };
        outcome?;
        let rows = self.rows.get();
        Ok(ranking.tell(|place| rows[place as usize], each))
    }

    /// Leaves the admitted rows in the ranking, the best `first` in order.
    pub(super) fn rank_admitted(
        &self,
        query: &PackedQuery,
        first: usize,
        filter: Option<&Filter<'_>>,
        stop: Option<&dyn Fn() -> bool>,
        blocks: &mut Blocks,
        ranking: &mut Ranking,
    ) -> Result<(), Halted> {
        ranking.reset(first, self.len());
        match filter {
            Some(Filter { listed: Some(listed), .. }) => {
                let (places, mut listed) = (self.places(), listed.chunks(BLOCK));
                self.rank_all(query, stop, blocks, ranking, |block| {
                    block.extend(listed.next().unwrap_or_default().iter().map(|row| places[*row as usize]));
                })
            }
            Some(filter) => {
                let mut all = (0..).step_by(BLOCK).zip(self.rows.get().chunks(BLOCK));
                self.rank_all(query, stop, blocks, ranking, |block| {
                    while block.len() < BLOCK {
                        let Some((first, rows)) = all.next() else { break };
                        let mut admitted = filter.admits.mask(rows);
                        while admitted != 0 {
                            block.push(first + admitted.trailing_zeros());
                            admitted &= admitted - 1;
                        }
                    }
                })
            }
            None => {
                let mut all = (0..self.len() as u32).step_by(BLOCK);
                let end = self.len() as u32;
                self.rank_all(query, stop, blocks, ranking, |block| {
                    block.extend(all.next().into_iter().flat_map(|first| first..end.min(first + BLOCK as u32)));
                })
            }
        }
    }

    /// Has the codes of these rows come from memory. Where they lie close together, all that lies between is read as well: a
    /// processor sees by itself where that leads, and fetches several times as much in a time as by asking here and there.
    fn bring(&self, rows: &[u32]) {
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return };
        match last.checked_sub(*first) {
            Some(span) if (span as usize) < rows.len() * CLOSE => self.codes.touch(*first..*last + 1),
            _ => rows.iter().for_each(|row| self.codes.prefetch(*row)),
        }
    }

    /// Ranks all rows that `fill` gives, some at a time, until it gives none.
    fn rank_all(
        &self,
        query: &PackedQuery,
        stop: Option<&dyn Fn() -> bool>,
        Blocks { now, next }: &mut Blocks,
        ranking: &mut Ranking,
        mut fill: impl FnMut(&mut Vec<u32>),
    ) -> Result<(), Halted> {
        now.clear();
        fill(now);
        for blocks in 1.. {
            next.clear();
            fill(next);
            self.bring(next);
            if now.is_empty() {
                break;
            }
            if !self.believes_codes(now) {
                return Err(Halted::Damaged);
            }
            ranking.rank(self.kernel, &self.codes, query, now, |_| ());
            std::mem::swap(now, next);
            if blocks % BLOCKS_PER_CHECK == 0 && stop.is_some_and(|stop| stop()) {
                return Err(Halted::Stopped);
            }
        }
        Ok(())
    }
}
