//! No walk at all: the codes of every row that a filter admits, ranked. For filters that admit few rows of a graph, but more
//! than are soon compared in full precision, of which a code is a tenth or less.

use super::Graph;
use super::adjacency::MAX_DEGREE;
use super::codes::PackedQuery;
use super::pool::Candidate;
use super::search::Filter;
use super::walk::{Effort, Halted, Scratch};

/// Blocks of [`MAX_DEGREE`] rows between two questions whether to go on.
const BLOCKS_PER_CHECK: usize = 16;
/// Candidates that are gathered beyond those that are kept, before the worse half is dropped.
const SLACK: usize = 512;

/// The best candidates of many: unlike a [`super::pool::Pool`] it is not in order meanwhile, so that thousands cost no more
/// for each than a few.
#[derive(Default)]
pub(super) struct Ranking {
    candidates: Vec<Candidate>,
    kept: usize,
    /// What is not below it is not among the best.
    worst: f32,
}

impl Ranking {
    fn reset(&mut self, kept: usize) {
        self.candidates.clear();
        (self.kept, self.worst) = (kept, f32::INFINITY);
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

    /// Best first.
    fn finish(&mut self) -> &[Candidate] {
        self.drop_worse();
        self.candidates.sort_unstable();
        &self.candidates
    }
}

impl Graph {
    /// The `ef` admitted rows that are nearest by their codes, best first.
    pub(super) fn rank<'r>(
        &self,
        query: &PackedQuery,
        ef: usize,
        filter: &Filter<'_>,
        stop: Option<&dyn Fn() -> bool>,
        scratch: &mut Scratch,
        ranking: &'r mut Ranking,
    ) -> Result<&'r [Candidate], Halted> {
        ranking.reset(ef);
        scratch.effort = Effort::default();
        match filter.listed {
            Some(listed) => {
                let places = self.places();
                self.rank_all(query, listed.iter().map(|row| places[*row as usize]), stop, scratch, ranking)?;
            }
            None => {
                let all = (0..).zip(self.rows.get());
                let admitted = all.filter(|(_, row)| (filter.admits)(**row)).map(|(place, _)| place);
                self.rank_all(query, admitted, stop, scratch, ranking)?;
            }
        }
        Ok(ranking.finish())
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
