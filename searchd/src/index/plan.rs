//! Which way a search takes through one part of the index, decided by cost, and the trail that it leaves.
//!
//! Few admitted rows are best compared one by one; many are found by the graph, which wades through the rest as well;
//! what lies between, and every search that asks to be exact, goes over all rows. A way that finds fewer hits than
//! there are is never the last one: see [`super::segment::Segment::search`].

use std::time::Duration;

/// What a search does with a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Nothing: it has no row that may be found.
    Skip,
    /// Compares the admitted rows, by their numbers.
    Rows,
    /// Ranks the admitted rows by their codes in the graph, and compares the best.
    Codes,
    /// Lets a walk over the admitted rows of the graph propose, and compares what it proposed.
    TwoHop,
    /// The same of a walk over all rows of the graph.
    Graph,
    /// Looks at every row, and compares those that are admitted.
    Scan,
}

impl Way {
    /// From the least to the most thorough.
    pub const ALL: [Self; 6] = [Self::Skip, Self::Rows, Self::Codes, Self::TwoHop, Self::Graph, Self::Scan];

    pub fn name(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Rows => "rows",
            Self::Codes => "codes",
            Self::TwoHop => "two-hop",
            Self::Graph => "graph",
            Self::Scan => "scan",
        }
    }
}

/// How many live rows of a part may be found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Findable {
    /// The numbers of the rows are known.
    Counted(usize),
    /// From a sample, or from the collection as a whole.
    Estimated(f64),
}

impl Findable {
    pub fn number(self) -> f64 {
        match self {
            Self::Counted(rows) => rows as f64,
            Self::Estimated(rows) => rows,
        }
    }
}

/// What the ways by which a graph proposes would cost, in nanoseconds; absent where one is closed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Proposing {
    pub codes: Option<f64>,
    pub two_hop: Option<f64>,
    pub graph: Option<f64>,
}

/// A way, and what each would cost, in nanoseconds; absent where it is closed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    pub way: Way,
    pub rows: Option<f64>,
    pub proposing: Proposing,
    pub scan: f64,
}

impl Plan {
    /// The cheapest way through a part of so many `rows`, dead ones included. `proposing` is what the graph would cost;
    /// nothing where there is none, or where the search must be exact. Costs are good to a factor of two, so is the choice.
    pub fn cheapest(rows: usize, findable: Findable, row: Row, proposing: Proposing) -> Self {
        let gaps = (1.0 - findable.number() / rows.max(1) as f64).max(0.0);
        let scan = rows as f64 * ROW_IN_ORDER + findable.number() * (row.compare() + gaps * row.reach());
        let counted = matches!(findable, Findable::Counted(_));
        let rows = counted.then(|| findable.number() * row.compare_at_random());
        let mut plan = Self { way: Way::Scan, rows, proposing, scan };
        plan.way = match findable {
            Findable::Counted(0) => Way::Skip,
            _ => plan.costs().min_by(|a, b| a.1.total_cmp(&b.1)).map_or(Way::Scan, |(way, _)| way),
        };
        plan
    }

    /// The ways that are open.
    pub fn costs(&self) -> impl Iterator<Item = (Way, f64)> {
        let Proposing { codes, two_hop, graph } = self.proposing;
        let ways = [Way::Rows, Way::Codes, Way::TwoHop, Way::Graph, Way::Scan];
        let costs = [self.rows, codes, two_hop, graph, Some(self.scan)];
        ways.into_iter().zip(costs).filter_map(|(way, cost)| Some((way, cost?)))
    }

    /// Nanoseconds of the way chosen.
    pub fn cost(&self) -> f64 {
        self.costs().find(|(way, _)| *way == self.way).map_or(0.0, |(_, cost)| cost)
    }
}

/// Whether it pays to look up in which rows the admitted slots are, which makes their numbers exact and opens
/// [`Way::Rows`]. `listed` and `otherwise` are what the search would cost with and without.
pub fn pays_to_list(admitted: usize, listed: f64, otherwise: f64) -> bool {
    let listing = admitted as f64 * LIST_ROW;
    // A filter often admits rows of few segments only; so some looking up is worth while even where all of them
    // together would not be compared.
    listing + listed <= otherwise || listing <= otherwise / 8.0
}

/// A row as it is compared in full precision: its coordinates, and the bytes that they take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    pub dimension: usize,
    pub bytes: usize,
}

// All of these are from `graph_bench --costs` on sets of 384 and 784 dimensions, on a machine with AVX-512, in CPU time: a
// search by each way, divided by the rows that it compared or the candidates that it kept.

impl Row {
    pub fn of_floats(dimension: usize) -> Self {
        Self { dimension, bytes: dimension * size_of::<f32>() }
    }

    /// Nanoseconds to compare it with the query, wherever it is.
    pub(super) fn compare_at_random(self) -> f64 {
        self.reach() + self.compare()
    }

    /// Nanoseconds where it follows the one before, or is in a cache: 53 for 384 dimensions, 115 for 784.
    fn compare(self) -> f64 {
        5.0 + 0.14 * self.dimension as f64
    }

    /// Nanoseconds on top of that where it lies apart: 60 to 130 for 384 floats, 100 to 280 for 784, by how many are
    /// compared and who else uses the memory.
    fn reach(self) -> f64 {
        20.0 + 0.05 * self.bytes as f64
    }
}

/// Nanoseconds to turn a query, as codes are.
pub(super) const TURN: f64 = 5_000.0;

/// Nanoseconds to compare a row's code with the query, of whatever width: 10 for 384 dimensions, 20 for 784.
pub(super) fn compare_code(dimension: usize) -> f64 {
    2.0 + 0.022 * dimension as f64
}

/// Nanoseconds to look whether the next row is admitted.
const ROW_IN_ORDER: f64 = 2.0;
/// Nanoseconds to look up the row of a slot.
const LIST_ROW: f64 = 8.0;

/// A part of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All rows that are not sealed yet.
    Head,
    Segment(u32),
}

/// What was done in one part.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub part: Part,
    /// Dead ones, too.
    pub rows: usize,
    pub live: usize,
    pub findable: Findable,
    pub plan: Plan,
    /// The graph had proposed too few; every row was looked at after all.
    pub fell_back: bool,
    /// Distances that the graph computed, where it counts them.
    pub computed: Option<usize>,
    /// Rows that the graph proposed.
    pub proposed: usize,
    /// Rows compared in full precision.
    pub compared: usize,
    pub took: Duration,
}

/// What a search did, part by part.
pub type Trail = Vec<Step>;

#[cfg(test)]
mod tests {
    use super::*;

    fn way(findable: Findable, exact: bool) -> Way {
        // A graph that costs the inverse of the share.
        let graph = (!exact).then_some(100_000.0 * 100_000.0 / findable.number().max(1.0));
        Plan::cheapest(100_000, findable, Row::of_floats(384), Proposing { graph, ..Proposing::default() }).way
    }

    #[test]
    fn the_fewer_are_admitted_the_less_the_graph_is_worth() {
        assert_eq!(way(Findable::Counted(0), false), Way::Skip);
        assert_eq!(way(Findable::Counted(10), false), Way::Rows);
        assert_eq!(way(Findable::Counted(90_000), false), Way::Graph);
        assert_eq!(way(Findable::Estimated(10.0), false), Way::Scan);
        assert_eq!(way(Findable::Estimated(90_000.0), false), Way::Graph);
    }

    #[test]
    fn an_exact_search_uses_no_graph() {
        for findable in [10, 1_000, 10_000, 100_000] {
            assert_ne!(way(Findable::Counted(findable), true), Way::Graph);
        }
    }
}
