//! A way through the rows of one part for several searches at once, block by block, so that a row comes from memory
//! once for all who compare it.
//!
//! A block is as many rows as stay in a near cache while each search compares them. A search alone shares nothing: its
//! blocks are as long as the time between two looks at the clock allows, and its rows may be in any order.

use std::ops::Range;

/// Rows of one block at most: rows between two looks at the clock.
const BLOCK_ROWS: usize = 1_024;
/// Bytes of vectors in a block of several searches, about.
const BLOCK_BYTES: usize = 128 * 1024;
/// Rows of such a block at least, however long they are.
const LEAST_ROWS: usize = 16;

/// Some rows of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rows<'l> {
    /// All that live and are admitted.
    All(Range<u32>),
    /// These, which lived and were admitted when they were looked up; ascending where there are several searches.
    Listed(&'l [u32]),
}

impl<'l> Rows<'l> {
    fn first(&self) -> Option<u32> {
        match self {
            Self::All(rows) => (!rows.is_empty()).then_some(rows.start),
            Self::Listed(rows) => rows.first().copied(),
        }
    }

    /// The end of a block from `start` on that has at most so many of these rows.
    fn reach(&self, start: u32, block: usize) -> u32 {
        match self {
            Self::All(_) => start.saturating_add(block as u32),
            Self::Listed(rows) => rows.get(block).copied().unwrap_or(u32::MAX),
        }
    }

    /// Takes off the rows before `end`, of which there are at most `block`.
    fn take_before(&mut self, end: u32, block: usize) -> Self {
        match self {
            Self::All(rows) => {
                let taken = rows.start..rows.end.min(end).max(rows.start);
                rows.start = taken.end;
                Self::All(taken)
            }
            Self::Listed(rows) => {
                let count = rows[..block.min(rows.len())].partition_point(|row| *row < end);
                Self::Listed(rows.split_off(..count).unwrap_or_default())
            }
        }
    }

    /// Takes off the next rows, at most so many.
    fn take(&mut self, block: usize) -> Self {
        match self {
            Self::All(rows) => {
                let end = rows.start.saturating_add(block as u32);
                self.take_before(end, block)
            }
            Self::Listed(rows) => Self::Listed(rows.split_off(..block.min(rows.len())).unwrap_or_default()),
        }
    }
}

/// What one search compares.
pub(super) struct Course<'l> {
    /// Which of the searches.
    pub(super) search: usize,
    /// Those of its rows that are in the block.
    pub(super) rows: Rows<'l>,
    rest: Rows<'l>,
}

impl<'l> Course<'l> {
    pub(super) fn new(search: usize, rows: Rows<'l>) -> Self {
        Self { search, rows: Rows::Listed(&[]), rest: rows }
    }
}

pub(super) struct Sweep<'l> {
    courses: Vec<Course<'l>>,
    block: usize,
}

impl<'l> Sweep<'l> {
    pub(super) fn new(courses: Vec<Course<'l>>, dimension: usize) -> Self {
        let fitting = (BLOCK_BYTES / (dimension.max(1) * size_of::<f32>())).clamp(LEAST_ROWS, BLOCK_ROWS);
        let block = if courses.len() > 1 { fitting } else { BLOCK_ROWS };
        Self { courses, block }
    }

    /// Goes on to the next block; false when there is none.
    pub(super) fn advance(&mut self) -> bool {
        if let [alone] = self.courses.as_mut_slice() {
            alone.rows = alone.rest.take(self.block);
            return alone.rows.first().is_some();
        }
        let Some(start) = self.courses.iter().filter_map(|course| course.rest.first()).min() else { return false };
        let reaches = self.courses.iter().map(|course| course.rest.reach(start, self.block));
        let end = reaches.min().unwrap_or(u32::MAX);
        for course in &mut self.courses {
            course.rows = course.rest.take_before(end, self.block);
        }
        true
    }

    /// Who compares what in this block.
    pub(super) fn courses(&self) -> impl Iterator<Item = &Course<'l>> {
        self.courses.iter().filter(|course| course.rows.first().is_some())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_search_compares_its_rows_once_and_blocks_go_upwards(
            lists in prop::collection::vec(
                prop::option::of(prop::collection::btree_set(0u32..5_000, 0..400)), 1..6,
            ),
            len in 0u32..5_000,
            dimension in 1usize..4_000,
        ) {
            let lists: Vec<Option<Vec<u32>>> =
                lists.into_iter().map(|list| list.map(|rows| rows.into_iter().collect())).collect();
            let courses = lists.iter().enumerate().map(|(search, list)| {
                Course::new(search, list.as_ref().map_or(Rows::All(0..len), |rows| Rows::Listed(rows)))
            });
            let mut sweep = Sweep::new(courses.collect(), dimension);
            let (mut seen, mut end) = (vec![Vec::new(); lists.len()], 0);
            while sweep.advance() {
                let mut block = BTreeSet::new();
                for course in sweep.courses() {
                    let rows: Vec<u32> = match &course.rows {
                        Rows::All(rows) => rows.clone().collect(),
                        Rows::Listed(rows) => rows.to_vec(),
                    };
                    prop_assert!(rows.len() <= sweep.block);
                    block.extend(rows.iter().copied());
                    seen[course.search].extend(rows);
                }
                prop_assert!(block.first().is_some_and(|first| *first >= end), "a block after the one before");
                end = block.last().map_or(end, |last| last + 1);
            }
            for (list, seen) in lists.into_iter().zip(seen) {
                prop_assert_eq!(seen, list.unwrap_or_else(|| (0..len).collect()));
            }
        }
    }

    #[test]
    fn rows_of_one_search_may_be_in_any_order() {
        let listed: Vec<u32> = (0..3_000).rev().collect();
        let mut sweep = Sweep::new(vec![Course::new(0, Rows::Listed(&listed))], 8);
        let mut seen = Vec::new();
        while sweep.advance() {
            for course in sweep.courses() {
                let Rows::Listed(rows) = course.rows else { panic!("a list") };
                seen.extend_from_slice(rows);
            }
        }
        assert_eq!(seen, listed);
    }
}
