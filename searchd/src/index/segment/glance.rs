//! A glance at a segment of which few hits are to be expected, by a walk that keeps fewer candidates than one for all hits would.
//!
//! While much is stored there are several segments, most of them small beside the largest, and a walk takes nearly as long in a
//! small graph as in a large one. Yet of ten hits less than one is in a segment with a tenth of the rows, where rows come in any
//! order. How many candidates a recall takes is measured with ten of ten in one graph. So once as many hits as are wanted are known
//! from larger parts, fewer are kept; and where that finds more hits than few, since what came of late is what is asked for,
//! the whole walk follows.

use super::super::batch::Search;
use super::Segment;

/// A glance keeps this part of the candidates.
const PART: usize = 3;
/// A segment with at most this part of the rows is glanced at, one after the other.
const SHARE: usize = 4;
/// This part of the hits are few.
const FEW: usize = 4;

impl Segment {
    /// Candidates that a glance keeps, of those that a walk would; none where there is to be none.
    pub(super) fn glance(&self, search: &Search<'_>, candidates: usize) -> Option<usize> {
        let wanted = search.wanted;
        let is_known = search.nearest.len() >= wanted.k;
        let is_small = self.live() * SHARE <= self.live() + search.seen;
        let glanced = (candidates / PART).max(wanted.k);
        (is_known && is_small && wanted.admitted.is_none() && glanced < candidates).then_some(glanced)
    }

    /// What is found by a glance, in order; none where it is little enough for that to be all.
    pub(super) fn glanced(&self, search: &Search<'_>) -> Option<Vec<u32>> {
        let here = search.nearest.hits().filter(|hit| hit.row.part == self.part());
        let mut found: Vec<u32> = here.map(|hit| hit.row.row).collect();
        found.sort_unstable();
        (found.len() > search.wanted.k / FEW).then_some(found)
    }
}
