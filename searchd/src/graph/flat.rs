//! Blocks of rows packed into codes without a graph, for rows that came too lately to be in one: all of them are ranked.
//!
//! Every block has a centre and a grid of its own, learned from its rows, so what comes later may look like nothing that
//! came before. The rotation is one for all, hence a query is turned once: to centre it anew is a subtraction, for a
//! rotation is linear.

use super::codes::{Codes, PackedQuery, Shape};
use super::kernel::{Kernel, Width};
use super::ranking::{Each, Ranking as Ranked};
use super::space::{Space, squared_length};
use super::{Metric, Rows};

/// Below so many dimensions comparing codes saves next to nothing.
const MIN_DIMENSION: usize = 64;
/// From so many on there is enough to average over for four bits.
const MIN_FOUR_BITS: usize = 192;
/// Where the longest row, from the centre, is this many times the usual length, each row gets a step of its own.
const EVEN: f32 = 1.25;
/// Rows that are compared in one call of a kernel.
const BATCH: usize = 256;
/// Some roundings of an f32, as a part of it.
const ROUNDING: f32 = 8.0 * f32::EPSILON;
/// The deviation of an estimate for a step and a query of one: twice that of what is uniform in a step.
const NOISE: f32 = 0.577;
const SEED: u64 = 0x666c_6174;

/// Packs blocks of one collection, which can be ranked together.
pub struct Packer {
    space: Space,
    width: Width,
    kernel: Kernel,
}

/// Packed rows.
pub struct Block {
    codes: Codes,
    /// Turned, as the rows are.
    centre: Vec<f32>,
    /// Of the row that is farthest from the centre.
    squared_length: f32,
    /// The widest step of the grids.
    step: f32,
}

/// A query, and how near the rows of the blocks that it was compared with are to it: squared distances, or minus twice the inner
/// product.
pub struct Ranking {
    /// Turned, not centred.
    point: Vec<f32>,
    centred: Vec<f32>,
    query: Option<PackedQuery>,
    ranked: Ranked,
    /// What estimates tell apart at the best. Rows that are alike have one error for all of a block, which therefore cannot be
    /// learned from comparing some of them.
    grain: f32,
}

impl Packer {
    /// None where codes save too little.
    pub fn new(metric: Metric, dimension: usize) -> Option<Self> {
        let kernel = Kernel::detect();
        let width = if dimension < MIN_FOUR_BITS { Width::Eight } else { Width::Four };
        // Without a longest row the coordinate that fills rows up is 0: nothing is ranked by lengths here.
        let space = || Space::new(metric, dimension, 0.0, vec![], SEED, kernel);
        (dimension >= MIN_DIMENSION).then(|| Self { space: space(), width, kernel })
    }

    pub fn pack(&self, rows: &dyn Rows) -> Block {
        let dims = self.space.dims();
        let (mut values, mut point, mut spare) = (vec![0.0; rows.dimension()], vec![], vec![]);
        let mut points = Vec::with_capacity(rows.len() * dims);
        let mut sums = vec![0f64; dims];
        for row in 0..rows.len() as u32 {
            rows.read(row, &mut values);
            self.space.row(&values, &mut point, &mut spare);
            sums.iter_mut().zip(&point).for_each(|(sum, value)| *sum += f64::from(*value));
            points.extend_from_slice(&point);
        }
        let count = rows.len().max(1) as f64;
        let centre: Vec<f32> = sums.iter().map(|sum| (sum / count) as f32).collect();
        let (mut squares, mut longest, mut highest) = (0f64, 0f32, 0f32);
        for point in points.chunks_exact_mut(dims) {
            point.iter_mut().zip(&centre).for_each(|(value, centre)| *value -= centre);
            let length = squared_length(point);
            squares += f64::from(length);
            longest = longest.max(length.sqrt());
            highest = point.iter().fold(highest, |highest, value| highest.max(value.abs()));
        }
        let usual = (squares / count).sqrt() as f32;
        let is_even = self.width == Width::Eight || longest <= EVEN * usual;
        let lengths = self.has_distances() || !is_even;
        let shape = Shape::fit(self.width, dims, lengths, usual / (dims as f32).sqrt(), highest);
        let codes = Codes::fill(shape, rows.len(), |row, point| {
            point.clear();
            point.extend_from_slice(&points[row * dims..][..dims]);
        });
        let step = if shape.own_step() { shape.step * longest } else { shape.step };
        Block { codes, centre, squared_length: longest * longest, step }
    }

    /// A ranking of about so many rows, the best `first` of them in order.
    ///
    /// # Panics
    /// If the query is not of the packer's dimension.
    pub fn ranking(&self, query: &[f32], first: usize, rows: usize) -> Ranking {
        let (mut point, mut spare, mut ranked) = (vec![], vec![], Ranked::default());
        self.space.query(query, &mut point, &mut spare);
        ranked.reset(first, rows);
        Ranking { point, centred: spare, query: None, ranked, grain: 0.0 }
    }

    /// Whether rows are ranked by their distances, for which the query can be centred as they are: what all have in common
    /// is no part of the error then.
    fn has_distances(&self) -> bool {
        self.space.metric != Metric::Dot
    }

    /// Ranks those `rows` of a block; `first` is the number of its first row among all.
    pub fn rank(&self, block: &Block, first: u32, rows: &[u32], ranking: &mut Ranking) {
        let Ranking { point, centred, query, ranked, grain } = ranking;
        let offset = if self.has_distances() {
            centred.clear();
            centred.extend(point.iter().zip(&block.centre).map(|(value, centre)| value - centre));
            block.codes.pack(centred, query.get_or_insert_with(|| block.codes.empty_query()));
            // |q - r|² of two vectors of length one is 2 - 2⟨q, r⟩.
            squared_length(centred) - if self.space.metric == Metric::Cosine { 2.0 } else { 0.0 }
        } else {
            if query.is_none() {
                block.codes.pack(point, query.insert(block.codes.empty_query()));
            }
            -2.0 * point.iter().zip(&block.centre).map(|(value, centre)| value * centre).sum::<f32>()
        };
        let towards = if self.has_distances() { &*centred } else { &*point };
        let noise = NOISE * block.step * squared_length(towards).sqrt();
        *grain = grain.max(noise).max(ROUNDING * (offset.abs() + block.squared_length));
        let Some(query) = query else { return };
        let has_lengths = block.codes.shape.lengths && !self.has_distances();
        for rows in rows.chunks(BATCH) {
            ranked.rank(self.kernel, &block.codes, query, rows, |ranked| {
                for (number, distance) in ranked.numbers.iter_mut().zip(&mut ranked.distances) {
                    let length = if has_lengths { block.codes.squared_length(*number) } else { 0.0 };
                    *distance += offset - length;
                    *number += first;
                }
            });
        }
    }
}

impl Block {
    pub fn bytes(&self) -> usize {
        self.codes.bytes().len() + self.centre.len() * size_of::<f32>()
    }
}

impl Ranking {
    /// See [`Ranked::tell`].
    pub fn tell(&mut self, each: Each<'_>) -> bool {
        self.ranked.tell(|number| number, each)
    }

    /// Rows that were compared by their codes.
    pub fn ranked(&self) -> usize {
        self.ranked.ranked()
    }

    /// Estimates that differ by less are equal.
    pub fn grain(&self) -> f32 {
        self.grain
    }
}
