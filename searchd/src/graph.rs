//! Nearfield's own graph index: one flat graph over rows packed into a few bits, searched by one thread at a time without
//! locks, then rescored from full precision that is kept elsewhere.
//!
//! A query and the rows become points of one space ([`space`]), where all metrics are Euclidean and coordinates look
//! alike after a random rotation, so that four bits for each of them, or two, or one, rank neighbours well enough. The graph is
//! built over eight-bit codes in batches ([`build`]), is proven to reach every row ([`reach`]) and renumbered in the order
//! of a breadth-first walk, so that rows that are met together lie together. It never changes then. A search ([`search`])
//! keeps its candidates in one sorted array and compares all new neighbours of a row in one call of a kernel
//! ([`kernel`]), which is chosen at run time and gives the same sums on every machine. Where dimensions are few it goes by lists
//! around centres instead ([`partitions`]).

pub mod adjacency;
mod axes;
pub mod build;
mod checks;
pub mod codes;
pub mod exact;
pub mod file;
mod filter;
pub mod flat;
pub mod kernel;
pub mod memory;
mod partitions;
mod pool;
mod prune;
mod random;
mod rank;
pub mod ranking;
mod reach;
mod rotation;
pub mod search;
mod space;
mod two_hop;
mod visited;
mod walk;

#[cfg(test)]
mod tests;

use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use adjacency::Lists;
use axes::Axes;
use build::Plan;
use build::grow::Source;
use checks::Checks;
use codes::{Codes, Shape};
use kernel::Kernel;
pub use kernel::Width;
use memory::Words;
use partitions::Partitions;
use random::Random;
use space::Space;

/// Most rows of a graph: a candidate names its row in 31 bits, and lists are counted in 32.
pub const MAX_ROWS: usize = 1 << 24;
/// Most coordinates: the sums of products stay within 32 bits.
pub const MAX_DIMENSION: usize = 1 << 15;

/// Rows at which searches may begin, beside the one in the middle: far apart, so that one of them is near.
const ENTRIES: usize = 31;
/// Rows looked at to choose the grid of codes.
const SAMPLE: usize = 4_096;
/// Coordinates beyond this many standard deviations are cut off.
const HIGHEST: f32 = 5.0;

/// What near means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    Cosine,
    Dot,
    Euclidean,
}

/// Rows in full precision, numbered from 0.
pub trait Rows: Sync {
    fn len(&self) -> usize;
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    fn dimension(&self) -> usize;
    /// Writes the row's values, `dimension` of them.
    fn read(&self, row: u32, into: &mut [f32]);
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    #[error("{0} rows don't fit into one graph")]
    Rows(usize),
    #[error("{0} coordinates are none or too many")]
    Dimension(usize),
    #[error("nobody needs it any more")]
    Stopped,
}

pub struct Graph {
    space: Space,
    codes: Codes,
    lists: Lists,
    /// The caller's number of each row, in the order of the graph.
    rows: Words,
    /// The other way round; made when it is first asked for.
    places: OnceLock<Box<[u32]>>,
    /// Where searches begin.
    entries: Vec<u32>,
    /// What a search without a filter goes by in place of a walk, if there are any.
    partitions: Option<Partitions>,
    kernel: Kernel,
    /// None once all of it is known to be sound.
    unchecked: Option<Unchecked>,
    /// Rows that brought their neighbours when it was built; 0 for one that was opened.
    inherited: usize,
}

/// What a walk has to check before it believes it.
struct Unchecked {
    checks: Checks,
    /// Where lists, codes, and what is in the lists of partitions begin in what the checks are of.
    lists: usize,
    codes: usize,
    partitions: [usize; 2],
}

impl Graph {
    /// The graph of `rows`; the same for the same rows and plan, on every machine and any number of threads.
    pub fn build(metric: Metric, rows: &dyn Rows, width: Width, plan: &Plan) -> Result<Self, BuildError> {
        Self::grow(metric, rows, width, plan, &[])
    }

    /// As [`Graph::build`], from what other graphs have of it: the rows of the largest keep their neighbours. The same for
    /// the same sources, too.
    pub fn grow(
        metric: Metric,
        rows: &dyn Rows,
        width: Width,
        plan: &Plan,
        sources: &[Source<'_>],
    ) -> Result<Self, BuildError> {
        Self::build_by(Kernel::detect(), metric, rows, width, plan, sources)
    }

    /// Packs the rows that the graph was built of into codes of another width.
    pub fn repack(&mut self, rows: &dyn Rows, width: Width) {
        let axes = std::mem::take(&mut self.space.axes);
        let grid = Grid::learn(&self.space, rows);
        if Shape::has_axes(width) {
            self.space.axes = if axes.count() > 0 { axes } else { Axes::learn(&self.space, rows, self.kernel) };
        }
        let shape = grid.shape(width, &self.space, has_lengths(self.space.metric));
        let order = self.rows.get();
        self.codes = pack(&self.space, rows, shape, |row| order[row] as usize);
    }

    /// Bytes of a row's codes.
    pub fn row_bytes(metric: Metric, dimension: usize, width: Width) -> usize {
        let dims = Space::coordinates(metric, dimension);
        Shape::fit(width, dims, has_lengths(metric), 1.0, 1.0).stride()
    }

    /// Makes partitions of the rows that the graph was built of, where they make searches faster. Takes about as long as a
    /// tenth of the build.
    ///
    /// # Errors
    /// It was stopped.
    pub fn partition(&mut self, rows: &dyn Rows, stop: Option<&AtomicBool>) -> Result<(), BuildError> {
        let is_worth = Partitions::are_worth(self.space.metric, self.space.dims(), self.len());
        if is_worth { self.partition_any(rows, stop) } else { Ok(()) }
    }

    /// Whatever they are worth.
    fn partition_any(&mut self, rows: &dyn Rows, stop: Option<&AtomicBool>) -> Result<(), BuildError> {
        self.partitions = Some(Partitions::learn(&self.space, rows, self.rows.get(), self.kernel, stop)?);
        Ok(())
    }

    /// Goes without partitions from now on.
    pub fn unite(&mut self) {
        self.partitions = None;
    }

    fn build_by(
        kernel: Kernel,
        metric: Metric,
        rows: &dyn Rows,
        width: Width,
        plan: &Plan,
        sources: &[Source<'_>],
    ) -> Result<Self, BuildError> {
        let (len, dimension) = (rows.len(), rows.dimension());
        if len > MAX_ROWS {
            return Err(BuildError::Rows(len));
        }
        if dimension == 0 || dimension >= MAX_DIMENSION {
            return Err(BuildError::Dimension(dimension));
        }
        let mut space = Space::learn(metric, rows, plan.seed, kernel);
        let grid = Grid::learn(&space, rows);
        let exact = pack(&space, rows, grid.shape(Width::Eight, &space, true), |row| row);
        let middle = build::middle(&exact);
        let fit: Vec<Source<'_>> =
            sources.iter().filter(|source| source.is_fit(metric, dimension, space.longest)).copied().collect();
        let mut draft = build::build(&exact, kernel, plan, middle, &fit)?;
        let mut entries = entries(&exact, kernel, middle, plan.seed);
        reach::repair(&exact, kernel, &mut draft, plan.degree, &mut entries);
        drop(exact);

        let order = reach::breadth_first(len, &entries, |row| draft.list(row));
        debug_assert_eq!(order.len(), len, "every row is reached");
        let mut place = vec![0; len];
        order.iter().enumerate().for_each(|(to, from)| place[*from as usize] = to as u32);
        let moved = |list: &[u32]| list.iter().map(|row| place[*row as usize]).collect::<Vec<u32>>();
        let lists = Lists::new(len, |row| moved(draft.list(order[row])));
        let entries = moved(&entries);
        if Shape::has_axes(width) {
            space.axes = Axes::learn(&space, rows, kernel);
        }
        let shape = grid.shape(width, &space, has_lengths(metric));
        let codes = pack(&space, rows, shape, |row| order[row] as usize);
        let (rows, places, inherited) = (Words::copied(&order), OnceLock::new(), draft.inherited);
        let (partitions, unchecked) = (None, None);
        Ok(Self { space, codes, lists, rows, places, entries, partitions, kernel, unchecked, inherited })
    }

    pub fn len(&self) -> usize {
        self.rows.get().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// False once a walk has come to a block that is not what was written. It must not be searched any more then.
    pub fn is_sound(&self) -> bool {
        self.unchecked.as_ref().is_none_or(|unchecked| !unchecked.checks.have_failed())
    }

    /// Whether all of it was checked when it was opened, or was built here.
    pub fn is_checked(&self) -> bool {
        self.unchecked.is_none()
    }

    /// Whether all of it is what was written; looks at what nobody has looked at yet.
    fn is_believed(&self) -> bool {
        self.unchecked.as_ref().is_none_or(|unchecked| unchecked.checks.pass(unchecked.checks.all()))
    }

    /// Rows that brought their neighbours from another graph when this one was built.
    pub fn inherited(&self) -> usize {
        self.inherited
    }

    pub fn width(&self) -> Width {
        self.codes.shape.width
    }

    /// Whether searches without a filter go by partitions rather than by a walk.
    pub fn is_partitioned(&self) -> bool {
        self.partitions().is_some()
    }

    pub fn metric(&self) -> Metric {
        self.space.metric
    }

    pub fn dimension(&self) -> usize {
        self.space.dimension
    }

    /// Bytes that searches read: codes, axes, lists, partitions and the caller's row numbers.
    pub fn bytes(&self) -> usize {
        let places = self.places.get().map_or(0, |places| places.len());
        let words =
            self.len() + places + self.entries.len() + self.lists.starts().len() + self.space.axes.values().len();
        let partitions = self.partitions.as_ref().map_or(0, Partitions::bytes);
        self.codes.bytes().len() + self.lists.ids().len() + words * size_of::<u32>() + partitions
    }

    /// Where each row is in the order of the graph, by the caller's number.
    fn places(&self) -> &[u32] {
        self.places.get_or_init(|| {
            let mut places = vec![0; self.len()].into_boxed_slice();
            self.rows.get().iter().enumerate().for_each(|(place, row)| places[*row as usize] = place as u32);
            places
        })
    }

    /// Rows that no search can find, by the caller's numbers; a graph as it was built has none.
    pub fn unreachable(&self) -> Vec<u32> {
        use adjacency::{MAX_DEGREE, Neighbours};
        let mut met = vec![false; self.len()];
        let mut next = self.entries.clone();
        let mut room = [0; MAX_DEGREE];
        while let Some(row) = next.pop() {
            if !std::mem::replace(&mut met[row as usize], true) {
                next.extend_from_slice(self.lists.neighbours(row, &mut room));
            }
        }
        self.rows.get().iter().zip(met).filter(|(_, met)| !met).map(|(row, _)| *row).collect()
    }
}

/// What the grid of codes is chosen by.
struct Grid {
    spread: f32,
    highest: f32,
}

impl Grid {
    fn learn(space: &Space, rows: &dyn Rows) -> Self {
        let mut random = Random::new(space.seed ^ 0x6772_6964);
        let (mut values, mut point, mut spare) = (vec![0.0; rows.dimension()], vec![], vec![]);
        let (mut squares, mut highest) = (0f64, 0f32);
        let sample = SAMPLE.min(rows.len());
        for _ in 0..sample {
            rows.read(random.below(rows.len()) as u32, &mut values);
            space.row(&values, &mut point, &mut spare);
            squares += f64::from(space::squared_length(&point));
            highest = point.iter().fold(highest, |highest, value| highest.max(value.abs()));
        }
        let spread = (squares / (sample * space.dims()).max(1) as f64).sqrt() as f32;
        Self { spread, highest: highest.min(HIGHEST * spread) }
    }

    fn shape(&self, width: Width, space: &Space, lengths: bool) -> Shape {
        Shape::fit(width, space.dims(), lengths, self.spread, self.highest).along(&space.axes)
    }
}

/// Whether rows differ by their lengths, so that codes have to carry them.
fn has_lengths(metric: Metric) -> bool {
    metric == Metric::Euclidean
}

fn pack(space: &Space, rows: &dyn Rows, shape: Shape, row: impl Fn(usize) -> usize) -> Codes {
    let (mut values, mut spare) = (vec![0.0; rows.dimension()], vec![]);
    Codes::fill(shape, rows.len(), |to, point| {
        rows.read(row(to) as u32, &mut values);
        space.row(&values, point, &mut spare);
    })
}

/// Rows far from each other: of a random sample, always the one that is farthest from those chosen.
fn entries(codes: &Codes, kernel: Kernel, middle: u32, seed: u64) -> Vec<u32> {
    if codes.is_empty() {
        return vec![];
    }
    let mut random = Random::new(seed ^ 0x0065_6e74_7269_6573);
    let sample: Vec<u32> = (0..ENTRIES * 8).map(|_| random.below(codes.len()) as u32).collect();
    let (mut sums, mut distances) = (vec![0; sample.len()], vec![0.0; sample.len()]);
    let mut nearest = vec![f32::INFINITY; sample.len()];
    let mut query = codes.empty_query();
    let mut chosen = vec![middle];
    while chosen.len() <= ENTRIES {
        let last = chosen[chosen.len() - 1];
        codes.pack_row(last, &mut query);
        codes.distances(kernel, &query, &sample, &mut sums, &mut distances);
        let length = codes.squared_length(last);
        nearest.iter_mut().zip(&distances).for_each(|(nearest, distance)| *nearest = nearest.min(distance + length));
        let farthest = (0..sample.len()).max_by(|a, b| nearest[*a].total_cmp(&nearest[*b]));
        match farthest {
            Some(i) if nearest[i] > 0.0 && !chosen.contains(&sample[i]) => chosen.push(sample[i]),
            _ => break,
        }
    }
    chosen
}
