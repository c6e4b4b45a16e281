//! No walk at all: the codes of every row that a filter admits, ranked. For filters that admit few rows of a graph, but more
//! than are soon compared in full precision, of which a code is a tenth or less.

use super::Graph;
use super::adjacency::MAX_DEGREE;
use super::codes::PackedQuery;
use super::pool::Candidate;
use super::search::{Filter, Searcher, Wanted};
use super::walk::{Effort, Halted, Scratch};

/// Blocks of [`MAX_DEGREE`] rows between two questions whether to go on.
const BLOCKS_PER_CHECK: usize = 16;
/// Candidates that are gathered beyond those that are kept, before the worse half is dropped.
const SLACK: usize = 512;

/// How much longer each run is than the one before.
const LONGER: usize = 8;

/// The best candidates of many: unlike a [`super::pool::Pool`] it is not in order meanwhile, so that thousands cost no more
/// for each than a few.
#[derive(Default)]
pub(super) struct Ranking {
    /// In order up to `told`, and all of those better than all of the rest.
    candidates: Vec<Candidate>,
    told: usize,
    kept: usize,
    /// What is not below it is not among the best.
    worst: f32,
}

impl Ranking {
    fn reset(&mut self, kept: usize) {
        self.candidates.clear();
        (self.told, self.kept, self.worst) = (0, kept, f32::INFINITY);
    }

    fn offer(&mut self, rows: &[u32], distances: &[f32]) {
        for (row, distance) in rows.iter().zip(distances) {
            // Equal ones are decided by their rows, when it comes to that.
            if *distance <= self.worst {
                self.candidates.push(Candidate::new(*distance, *row));
            }
        }
        if self.candidates.len() >= 2 * self.kept + SLACK {
            self.drop_worse();
        }
    }

    fn drop_worse(&mut self) {
        if self.kept > 0 && self.candidates.len() > self.kept {
            let (_, worst, _) = self.candidates.select_nth_unstable(self.kept - 1);
            self.worst = worst.distance();
        }
        self.candidates.truncate(self.kept);
    }

    /// The next `count` in order, or as many as are left. To sort no more than is looked at costs a fraction.
    pub(super) fn run(&mut self, count: usize) -> &[Candidate] {
        let rest = &mut self.candidates[self.told..];
        let count = count.min(rest.len());
        if count < rest.len() {
            rest.select_nth_unstable(count);
        }
        rest[..count].sort_unstable();
        self.told += count;
        &self.candidates[self.told - count..self.told]
    }
}

impl Graph {
    /// Tells `each` of the rows that the filter admits, the nearest by their codes first, with their squared distances as the
    /// codes have them, less what is the same for all rows: in runs, the first of `wanted.ef` rows, until it returns false or
    /// has been told of `wanted.rescored`.
    ///
    /// # Panics
    /// If the query is not of the graph's dimension, or a listed row not one of the graph's.
    pub fn rank(
        &self,
        searcher: &mut Searcher,
        wanted: &Wanted<'_>,
        each: &mut dyn FnMut(&[u32], &[f32]) -> bool,
    ) -> Result<(), Halted> {
        let Searcher { scratch, ranking, turned, found, estimates, .. } = searcher;
        let (query, _) = self.turn(wanted.query, turned);
        self.rank_admitted(query, wanted.rescored, wanted.filter.as_ref(), wanted.stop, scratch, ranking)?;
        let (rows, mut length) = (self.rows.get(), wanted.ef.max(1));
        loop {
            let run = ranking.run(length);
            found.clear();
            found.extend(run.iter().map(|candidate| rows[candidate.row() as usize]));
            estimates.clear();
            estimates.extend(run.iter().map(|candidate| candidate.distance()));
            if run.is_empty() || !each(found, estimates) {
                return Ok(());
            }
            length *= LONGER;
        }
    }

    /// Leaves the `kept` admitted rows that are nearest by their codes in the ranking.
    pub(super) fn rank_admitted(
        &self,
        query: &PackedQuery,
        kept: usize,
        filter: Option<&Filter<'_>>,
        stop: Option<&dyn Fn() -> bool>,
        scratch: &mut Scratch,
        ranking: &mut Ranking,
    ) -> Result<(), Halted> {
        ranking.reset(kept);
        scratch.effort = Effort::default();
        match filter {
            Some(Filter { listed: Some(listed), .. }) => {
                let places = self.places();
                self.rank_all(query, listed.iter().map(|row| places[*row as usize]), stop, scratch, ranking)?;
            }
            Some(filter) => {
                let all = (0..).zip(self.rows.get());
                let admitted = all.filter(|(_, row)| (filter.admits)(**row)).map(|(place, _)| place);
                self.rank_all(query, admitted, stop, scratch, ranking)?;
            }
            None => self.rank_all(query, 0..self.len() as u32, stop, scratch, ranking)?,
        }
        ranking.drop_worse();
        Ok(())
    }

    fn rank_all(
        &self,
        query: &PackedQuery,
        mut places: impl Iterator<Item = u32>,
        stop: Option<&dyn Fn() -> bool>,
        scratch: &mut Scratch,
        ranking: &mut Ranking,
    ) -> Result<(), Halted> {
        let Scratch { fresh, sums, distances, effort, .. } = scratch;
        for blocks in 1.. {
            let mut count = 0;
            for (to, place) in fresh[..MAX_DEGREE].iter_mut().zip(&mut places) {
                *to = place;
                count += 1;
            }
            let block = &fresh[..count];
            if !self.believes_codes(block) {
                return Err(Halted::Damaged);
            }
            self.codes.distances(self.kernel, query, block, sums, distances);
            ranking.offer(block, &distances[..count]);
            effort.distances += count;
            if count < MAX_DEGREE {
                break;
            }
            if blocks % BLOCKS_PER_CHECK == 0 && stop.is_some_and(|stop| stop()) {
                return Err(Halted::Stopped);
            }
        }
        Ok(())
    }
}
