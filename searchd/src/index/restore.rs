//! Coming back: segments that a checkpoint names, and which slot has which of their rows.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rayon::prelude::*;

use super::segment::Segment;
use super::{Index, Row};

impl Index {
    /// Adds a segment that a checkpoint names. Nothing may be searched before [`Index::restore_rows`].
    pub fn restore_segment(&self, segment: Segment) {
        let _moving = self.moving.lock();
        self.next_part.fetch_max(segment.part() + 1, Ordering::Relaxed);
        self.replace(|parts| parts.segments.push(Arc::new(segment)));
    }

    /// Gives each slot its row in a restored segment, and buries the rows that are no slot's. False when a slot is given a
    /// row that does not exist or belongs to another one.
    pub fn restore_rows(&self, rows: Vec<Option<Row>>) -> bool {
        let _moving = self.moving.lock();
        let parts = self.parts.load();
        let claimed = parts.segments.par_iter().map(|segment| {
            let mut claimed = 0;
            for (row, slot) in segment.vectors.slots().iter().enumerate() {
                let here = Row { part: segment.part(), row: row as u32 };
                if rows.get(*slot as usize).copied().flatten() == Some(here) {
                    claimed += 1;
                } else {
                    segment.dead.insert(row as u32);
                }
            }
            claimed
        });
        // Each row is its slot's or nobody's: so they are as many only if every slot was right.
        let is_right = claimed.sum::<usize>() == rows.iter().flatten().count();
        *self.rows.write() = rows;
        is_right
    }
}
