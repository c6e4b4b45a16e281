//! The parts of an index at one moment, and which of their rows a search is about.

use std::sync::Arc;

use super::admitted::Admitted;
use super::batch::Search;
use super::head::{CHUNK_ROWS, Chunk};
use super::plan::{self, Findable};
use super::segment::Segment;
use super::{Row, Wanted};
use crate::search::stop::{Stop, Stopped};

/// The parts at one moment.
#[derive(Clone, Default)]
pub(super) struct Parts {
    /// By ascending part; only the last chunk grows.
    pub(super) head: Vec<Arc<Chunk>>,
    pub(super) segments: Vec<Arc<Segment>>,
    /// The last of the chunks that are in segments now.
    pub(super) sealed: Option<u32>,
}

impl Parts {
    pub(super) fn chunk(&self, part: u32) -> Option<&Arc<Chunk>> {
        let at = self.head.binary_search_by_key(&part, |chunk| chunk.part).ok()?;
        self.head.get(at)
    }

    /// Chunks that no row comes to any more.
    pub(super) fn closed(&self) -> Vec<Arc<Chunk>> {
        let last = self.head.len().saturating_sub(1);
        let is_closed = |(at, chunk): &(usize, &Arc<Chunk>)| *at < last || chunk.len() == CHUNK_ROWS;
        self.head.iter().enumerate().filter(is_closed).map(|(_, chunk)| chunk.clone()).collect()
    }

    /// The same without the chunk that rows come to.
    pub(super) fn without_open_chunk(&self) -> Self {
        Self { head: self.closed(), ..self.clone() }
    }

    /// Segments that may become part of others. One with damaged rows may not: they would be lost without a word.
    pub(super) fn fit(&self) -> Vec<Arc<Segment>> {
        self.segments.iter().filter(|segment| segment.is_fit()).cloned().collect()
    }

    pub(super) fn segment(&self, part: u32) -> Option<&Arc<Segment>> {
        self.segments.iter().find(|segment| segment.part() == part)
    }

    /// Whether it is worth while to look up the rows of what is admitted.
    pub(super) fn pays_to_list(&self, wanted: &Wanted<'_>, admitted: &Admitted) -> bool {
        let waiting = self.waiting();
        let rows = waiting + self.segments.iter().map(|segment| segment.live()).sum::<usize>();
        let share = (admitted.len() as f64 / rows.max(1) as f64).min(1.0);
        let cost = |findable: &dyn Fn(f64) -> Findable| {
            let head = self.head_plan(wanted, findable(share * waiting as f64)).cost();
            let of_segment = |segment: &Segment| segment.plan(wanted, findable(share * segment.live() as f64)).cost();
            head + self.segments.iter().map(|segment| of_segment(segment)).sum::<f64>()
        };
        let listed = cost(&|rows| Findable::Counted(rows.round() as usize));
        plan::pays_to_list(admitted.len(), listed, cost(&Findable::Estimated))
    }

    /// Nanoseconds that a search for anything takes, about.
    pub(super) fn cost(&self, wanted: &Wanted<'_>) -> f64 {
        let head = self.head_plan(wanted, Findable::Estimated(self.waiting() as f64)).cost();
        let of_segment = |segment: &Segment| segment.plan(wanted, Findable::Estimated(segment.live() as f64)).cost();
        head + self.segments.iter().map(|segment| of_segment(segment)).sum::<f64>()
    }

    /// Goes through all parts for all of the searches, one part after the other, and through the largest segments first: what is
    /// found there tells how much of the others is worth a look.
    pub(super) fn search(&self, searches: &mut [&mut Search<'_>], stop: &Stop) -> Result<(), Stopped> {
        self.search_head(searches, stop)?;
        let mut by_size: Vec<(usize, &Segment)> =
            self.segments.iter().map(|segment| (segment.live(), &**segment)).collect();
        by_size.sort_by_key(|(live, _)| std::cmp::Reverse(*live));
        for (live, segment) in by_size {
            segment.search(searches, stop)?;
            searches.iter_mut().for_each(|search| search.seen += live);
        }
        Ok(())
    }
}

/// In which rows the admitted slots are, by part.
pub(super) struct Listed(Vec<(u32, Vec<u32>)>);

impl Listed {
    pub(super) fn of_rows(places: impl Iterator<Item = Row>) -> Self {
        let mut parts: Vec<(u32, Vec<u32>)> = Vec::new();
        let mut last = 0;
        for place in places {
            if parts.get(last).is_none_or(|(part, _)| *part != place.part) {
                last = parts.iter().position(|(part, _)| *part == place.part).unwrap_or(parts.len());
                if last == parts.len() {
                    parts.push((place.part, Vec::new()));
                }
            }
            parts[last].1.push(place.row);
        }
        Self(parts)
    }

    /// Gives the rows of each part in their order.
    pub(super) fn sort(&mut self) {
        self.0.iter_mut().for_each(|(_, rows)| rows.sort_unstable());
    }

    pub(super) fn of(&self, part: u32) -> &[u32] {
        self.0.iter().find(|(known, _)| *known == part).map_or(&[], |(_, rows)| rows)
    }
}
