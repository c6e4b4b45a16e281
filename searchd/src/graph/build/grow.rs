//! Growing: rows that were in a graph already bring their neighbours with them, under new numbers. Those of the largest
//! graph stay as they are, and only the others look for their place among them.
//!
//! Where a neighbour is gone, those behind it take its place where no neighbour that is left leads to them (FreshDiskANN prunes
//! what is left, too). A row that no walk meets after that is put in anew.

use super::super::adjacency::{MAX_DEGREE, Neighbours};
use super::super::reach::breadth_first;
use super::super::{Graph, Metric};
use super::{Builder, Lists, Worker};

/// Rows that may be gone of a graph that is grown from, as a part of all; with more of them it is as well built anew.
const MAX_GONE: f64 = 0.3;
/// The longest row of all fills others up where inner products are asked for. When it is longer than a source's by more than
/// this, or shorter, rows are near to others than they were.
const MAX_DRIFT: f32 = 1.05;

/// A graph that some of the rows are in already.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    pub graph: &'a Graph,
    /// The new number of each of its rows, by the caller's numbers; none for one that is gone.
    pub rows: &'a [Option<u32>],
}

impl Source<'_> {
    /// The new number of the row at a place of the graph.
    fn row(&self, place: u32) -> Option<u32> {
        self.rows[self.graph.rows.get()[place as usize] as usize]
    }

    fn live(&self) -> usize {
        self.rows.iter().flatten().count()
    }

    /// Whether its links are worth having in a graph of this metric and longest row.
    pub(in crate::graph) fn is_fit(&self, metric: Metric, dimension: usize, longest: f32) -> bool {
        let space = &self.graph.space;
        let is_like = space.metric == metric && space.dimension == dimension && self.rows.len() == self.graph.len();
        let (long, short) = (longest.max(space.longest), longest.min(space.longest));
        let gone = self.rows.len() - self.live();
        is_like
            && (metric != Metric::Dot || long <= MAX_DRIFT * short)
            && gone as f64 <= MAX_GONE * self.rows.len() as f64
            && self.graph.is_believed()
    }
}

impl Builder<'_> {
    /// Takes over the links of the sources, which share no row, and begins at the largest one's entries. Returns which rows
    /// are inside: they need not look for neighbours.
    pub(super) fn inherit(&mut self, sources: &[Source<'_>]) -> Vec<bool> {
        let mut inside = vec![false; self.codes.len()];
        let Some(largest) = sources.iter().max_by_key(|source| source.live()) else { return inside };
        for source in sources {
            let places: Vec<u32> = (0..source.graph.len() as u32).collect();
            let taken = self.in_parallel(&places, |this, worker, place, lists| this.take(worker, source, place, lists));
            for lists in &taken {
                lists.for_each(|row, list| self.draft.set(row, list));
            }
        }
        let codes = self.codes;
        let by_length = |a: &u32, b: &u32| codes.squared_length(*a).total_cmp(&codes.squared_length(*b));
        let Some(middle) = largest.rows.iter().flatten().copied().min_by(by_length) else { return inside };
        self.entries = vec![middle];
        let entries = largest.graph.entries.iter().filter_map(|place| largest.row(*place));
        self.entries.extend(entries.filter(|row| *row != middle));
        for row in breadth_first(self.draft.rows(), &self.entries, |row| self.draft.list(row)) {
            inside[row as usize] = true;
        }
        inside
    }

    /// The neighbours of a row as they were, with those behind one that is gone in its place.
    fn take(&self, worker: &mut Worker, source: &Source<'_>, place: u32, lists: &mut Lists) {
        let Some(row) = source.row(place) else { return };
        let (mut room, mut behind) = ([0; MAX_DEGREE], [0; MAX_DEGREE]);
        let neighbours = source.graph.lists.neighbours(place, &mut room);
        worker.chosen.clear();
        worker.chosen.extend(neighbours.iter().filter_map(|near| source.row(*near)));
        let gone = || neighbours.iter().filter(|near| source.row(**near).is_none());
        if gone().next().is_some() {
            let mut new = vec![];
            for gone in gone() {
                let next = source.graph.lists.neighbours(*gone, &mut behind);
                new.extend(next.iter().filter_map(|near| source.row(*near)));
            }
            new.sort_unstable();
            new.dedup();
            new.retain(|row| !worker.chosen.contains(row));
            self.add(worker, row, &new);
        } else if worker.chosen.len() > self.draft.room {
            self.shorten(worker, row);
        }
        lists.push(row, &worker.chosen);
    }

    /// Adds to what is chosen for a row what that does not lead to. All of it stays: it was chosen from more than is known here,
    /// and pruned again and again lists would wear out.
    fn add(&self, worker: &mut Worker, row: u32, new: &[u32]) {
        let kept = std::mem::take(&mut worker.chosen);
        self.codes.pack_row(row, &mut worker.query);
        worker.candidates.clear();
        self.measure(worker, row, new);
        // As if nothing could be nearer.
        worker.candidates.extend(kept.iter().map(|near| (f32::NEG_INFINITY, *near)));
        worker.chosen = kept;
        self.choose(worker, row, self.plan.degree);
    }
}
