//! Rows ranked by their codes, for whoever compares them in full precision then.
//!
//! The best are in order. The others are kept as they came: how many of them are worth a comparison is known once the best
//! have been compared, and mostly none are. So a row costs a few instructions here, however many there are.

use super::codes::{Codes, PackedQuery};
use super::kernel::Kernel;
use super::pool::{Candidate, Pool};

/// Others that are kept whatever the number of rows, before the worse half is dropped.
const LEAST_KEPT: usize = 1 << 16;
/// One in so many of all rows is kept, where that is more: as many bytes as a walk's marks take.
const KEPT_PART: usize = 8;
/// How much longer each run of others is than the one before.
const LONGER: usize = 8;
/// Estimates that are looked at together.
const TOGETHER: usize = 16;

/// Is told of rows and their estimated distances; returns the estimate up to which it wants to hear of more.
pub type Each<'a> = &'a mut dyn FnMut(&[u32], &[f32]) -> f32;

#[derive(Default)]
pub struct Ranking {
    best: Pool,
    /// All rows but those that were dropped, the best among them.
    numbers: Vec<u32>,
    distances: Vec<f32>,
    most: usize,
    /// Rows at this distance or farther may have been dropped.
    reach: f32,
    /// Rows that were ranked.
    ranked: usize,
    block: Block,
    run: Vec<Candidate>,
}

/// What one call of a kernel takes and gives.
#[derive(Default)]
pub struct Block {
    pub numbers: Vec<u32>,
    sums: Vec<i32>,
    pub distances: Vec<f32>,
}

impl Ranking {
    /// Begins anew, with the best `first` to be kept in order, among so many rows.
    pub(super) fn reset(&mut self, first: usize, rows: usize) {
        self.best.reset(first);
        self.numbers.clear();
        self.distances.clear();
        self.most = LEAST_KEPT.max(rows / KEPT_PART);
        (self.reach, self.ranked) = (f32::INFINITY, 0);
    }

    /// Ranks some rows. `settle` may change their numbers and distances.
    #[inline]
    pub(super) fn rank(
        &mut self,
        kernel: Kernel,
        codes: &Codes,
        query: &PackedQuery,
        rows: &[u32],
        settle: impl FnOnce(&mut Block),
    ) {
        let Block { numbers, sums, distances } = &mut self.block;
        numbers.clear();
        numbers.extend_from_slice(rows);
        sums.resize(rows.len(), 0);
        distances.resize(rows.len(), 0.0);
        codes.distances(kernel, query, rows, sums, distances);
        settle(&mut self.block);
        let Block { numbers, distances, .. } = &self.block;
        self.best.offer(kernel, numbers, distances);
        self.ranked += rows.len();
        if self.reach.is_infinite() {
            self.numbers.extend_from_slice(numbers);
            self.distances.extend_from_slice(distances);
        } else {
            let nearer = numbers.iter().zip(distances).filter(|(_, distance)| **distance < self.reach);
            nearer.for_each(|(number, distance)| {
                self.numbers.push(*number);
                self.distances.push(*distance);
            });
        }
        if self.numbers.len() >= 2 * self.most {
            self.drop_worse();
        }
    }

    #[cold]
    fn drop_worse(&mut self) {
        let mut order = self.distances.clone();
        let (_, reach, _) = order.select_nth_unstable_by(self.most, f32::total_cmp);
        self.reach = *reach;
        let mut kept = 0;
        for at in 0..self.numbers.len() {
            if self.distances[at] < self.reach {
                (self.numbers[kept], self.distances[kept]) = (self.numbers[at], self.distances[at]);
                kept += 1;
            }
        }
        self.numbers.truncate(kept);
        self.distances.truncate(kept);
    }

    /// Rows that were ranked.
    pub fn ranked(&self) -> usize {
        self.ranked
    }

    /// The best, in order.
    pub(super) fn best(&self) -> &[Candidate] {
        self.best.candidates()
    }

    /// Tells `each` of the best, in order, and then, run by run, of all others up to the estimate that it returned last. No
    /// row of a run is nearer than one of the run before; within a run of others they come in no order. `name` is what rows are
    /// called there. False if some may be missing that are within that estimate.
    pub fn tell(&mut self, name: impl Fn(u32) -> u32, each: Each<'_>) -> bool {
        self.run.clear();
        self.run.extend_from_slice(self.best.candidates());
        let (mut told, mut length) = (Candidate::new(f32::NEG_INFINITY, 0), self.run.len());
        loop {
            let Some(last) = self.run.iter().max() else { return true };
            told = told.max(*last);
            let Block { numbers, distances, .. } = &mut self.block;
            numbers.clear();
            numbers.extend(self.run.iter().map(|candidate| name(candidate.row())));
            distances.clear();
            distances.extend(self.run.iter().map(|candidate| candidate.distance()));
            let limit = each(numbers, distances);
            self.gather(told, limit);
            length *= LONGER;
            if self.run.len() > length {
                self.run.select_nth_unstable(length);
                self.run.truncate(length);
            } else if self.run.is_empty() {
                return self.reach.is_infinite() || limit < self.reach;
            }
        }
    }

    /// Leaves those of the others in the run that are within the limit and were not told of.
    fn gather(&mut self, told: Candidate, limit: f32) {
        self.run.clear();
        let (blocks, rest) = self.distances.as_chunks::<TOGETHER>();
        let (numbers, last) = self.numbers.as_chunks::<TOGETHER>();
        for (numbers, distances) in numbers.iter().zip(blocks) {
            // Mostly none is, and a block is passed over by a few instructions. Where many are, no branch would be foreseen.
            if distances.iter().fold(false, |is_near, distance| is_near | (*distance <= limit)) {
                let mut near = [Candidate::default(); TOGETHER];
                let mut count = 0;
                for (number, distance) in numbers.iter().zip(distances) {
                    near[count] = Candidate::new(*distance, *number);
                    count += usize::from((*distance <= limit) & (near[count] > told));
                }
                self.run.extend_from_slice(&near[..count]);
            }
        }
        let last = last.iter().zip(rest).filter(|(_, distance)| **distance <= limit);
        let last = last.map(|(number, distance)| Candidate::new(*distance, *number));
        self.run.extend(last.filter(|candidate| *candidate > told));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::graph::codes::Shape;
    use crate::graph::kernel::Width;

    /// A ranking of rows that are as far as they are said to be.
    fn ranking(first: usize, most: Option<usize>, distances: &[f32]) -> Ranking {
        let kernel = Kernel::detect();
        let codes = Codes::fill(Shape::fit(Width::Eight, 16, false, 1.0, 1.0), 1, |_, point| {
            point.clear();
            point.resize(16, 0.0);
        });
        let query = codes.empty_query();
        let mut ranking = Ranking::default();
        ranking.reset(first, distances.len());
        ranking.most = most.unwrap_or(ranking.most);
        for (at, distances) in distances.chunks(50).enumerate() {
            ranking.rank(kernel, &codes, &query, &vec![0; distances.len()], |block| {
                block.distances.copy_from_slice(distances);
                block.numbers.iter_mut().zip(at as u32 * 50..).for_each(|(number, row)| *number = row);
            });
        }
        ranking
    }

    proptest! {
        #[test]
        fn all_within_the_last_limit_are_told_once_whatever_was_asked_for_before(
            distances in prop::collection::vec((-40i8..40).prop_map(f32::from), 0..700),
            limits in prop::collection::vec((-40i8..60).prop_map(f32::from), 1..6),
            first in 1usize..60,
            most in prop::option::of(1usize..400),
        ) {
            let mut ranking = ranking(first, most, &distances);
            prop_assert_eq!(ranking.ranked(), distances.len());
            let (mut told, mut asked, mut last) = (Vec::new(), limits.iter().cycle(), f32::INFINITY);
            let mut runs = 0;
            let is_whole = ranking.tell(|number| number, &mut |rows, estimates| {
                told.extend(rows.iter().copied().zip(estimates.iter().copied()));
                runs += 1;
                // It may ask for more, or less, a few times.
                last = if runs < limits.len() { asked.next().copied().unwrap_or(0.0) } else { limits[0] };
                last
            });
            let mut rows: Vec<u32> = told.iter().map(|(row, _)| *row).collect();
            rows.sort_unstable();
            rows.dedup();
            prop_assert_eq!(rows.len(), told.len(), "each once");
            prop_assert!(told.iter().all(|(row, estimate)| distances[*row as usize] == *estimate));
            let within = (0..distances.len() as u32).filter(|row| distances[*row as usize] <= last);
            let missing = within.filter(|row| rows.binary_search(row).is_err()).count();
            if distances.is_empty() {
                prop_assert_eq!((runs, is_whole), (0, true));
            } else if is_whole {
                prop_assert_eq!(missing, 0);
            }
            prop_assert!(is_whole || most.is_some(), "nothing is dropped of so few");
            let best = distances.len().min(first);
            prop_assert!(told[..best].is_sorted_by(|a, b| (a.1, a.0) <= (b.1, b.0)), "the best come in order");
        }
    }
}
