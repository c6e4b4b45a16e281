//! The middles of partitions: found by k-means, kept as bytes, and compared all at once.

use super::super::codes::quantize;
use super::super::kernel::lists::{GROUP, MAX_ACROSS, SIDE};
use super::super::kernel::{Kernel, Query, Width};
use super::super::memory::LINE;
use super::super::random::Random;
use super::super::space::squared_length;

/// Times that all of the sample look for their centre.
const ROUNDS: usize = 6;
/// How much worse a second partition is for lying on the same side of a row as the first (λ of SOAR, Sun et al. 2023): what one
/// hides from a query the other shall show.
const APART: f32 = 1.0;
/// The byte of 0.
const MIDDLE: u8 = 64;

#[derive(Clone)]
pub(super) struct Centres {
    dims: usize,
    count: usize,
    /// Of the grid of bytes.
    step: f32,
    /// As [`Kernel::across`] takes them.
    bytes: Vec<u8>,
    /// Half of the squared length of each.
    halves: Vec<f32>,
}

/// Inner products of one vector and all centres.
#[derive(Default)]
pub(super) struct Products {
    query: Option<Query>,
    sums: Vec<i32>,
    pub values: Vec<f32>,
    /// The same less half of each centre's squared length: the higher, the nearer.
    scores: Vec<f32>,
}

impl Centres {
    /// Coordinates of a centre as it is kept.
    fn stride(dims: usize) -> usize {
        dims.next_multiple_of(GROUP)
    }

    pub(super) fn len(dims: usize, count: usize) -> usize {
        count.next_multiple_of(SIDE) * Self::stride(dims)
    }

    /// Of a sample of vectors, at least as many as there shall be centres; the same on every machine.
    pub(super) fn learn(sample: &[f32], dims: usize, count: usize, kernel: Kernel, random: &mut Random) -> Self {
        let rows = sample.len() / dims;
        let row = |i: usize| &sample[i * dims..][..dims];
        let highest = sample.iter().fold(0f32, |highest, value| highest.max(value.abs()));
        let step = if highest > 0.0 { highest / f32::from(MAX_ACROSS - MIDDLE) } else { 1.0 };
        let chosen = random.permutation(rows);
        let mut means: Vec<f32> = chosen[..count].iter().flat_map(|i| row(*i as usize)).copied().collect();
        let mut centres = Self::pack(&means, dims, step);
        let mut products = Products::default();
        for _ in 0..ROUNDS {
            let (mut sums, mut members) = (vec![0f32; means.len()], vec![0u32; count]);
            for i in 0..rows {
                let nearest = centres.nearest(row(i), kernel, &mut products);
                members[nearest] += 1;
                kernel.add(&mut sums[nearest * dims..][..dims], 1.0, row(i));
            }
            for (centre, members) in members.into_iter().enumerate() {
                let mean = &mut means[centre * dims..][..dims];
                if members == 0 {
                    mean.copy_from_slice(row(random.below(rows)));
                } else {
                    let sums = &sums[centre * dims..][..dims];
                    mean.iter_mut().zip(sums).for_each(|(mean, sum)| *mean = sum / members as f32);
                }
            }
            centres = Self::pack(&means, dims, step);
        }
        centres
    }

    fn pack(means: &[f32], dims: usize, step: f32) -> Self {
        let count = means.len() / dims;
        let mut bytes = vec![MIDDLE; Self::len(dims, count)];
        for (centre, mean) in means.chunks_exact(dims).enumerate() {
            for (coordinate, value) in mean.iter().enumerate() {
                let code = (value / step + f32::from(MIDDLE)).round_ties_even().clamp(0.0, f32::from(MAX_ACROSS));
                bytes[Self::at(dims, centre, coordinate)] = code as u8;
            }
        }
        Self::with(dims, count, step, bytes)
    }

    /// None if they are not what [`Centres::bytes`] and [`Centres::step`] gave.
    pub(super) fn open(dims: usize, count: usize, step: f32, bytes: &[u8]) -> Option<Self> {
        let is_whole = bytes.len() == Self::len(dims, count) && bytes.iter().all(|byte| *byte <= MAX_ACROSS);
        (is_whole && step.is_finite() && step > 0.0).then(|| Self::with(dims, count, step, bytes.to_vec()))
    }

    fn with(dims: usize, count: usize, step: f32, bytes: Vec<u8>) -> Self {
        let mut centres = Self { dims, count, step, bytes, halves: vec![] };
        let mut values = vec![0.0; dims];
        centres.halves = (0..count)
            .map(|centre| {
                centres.read(centre, &mut values);
                squared_length(&values) / 2.0
            })
            .collect();
        centres
    }

    /// Where a coordinate of a centre is.
    fn at(dims: usize, centre: usize, coordinate: usize) -> usize {
        let block = centre / SIDE * SIDE * Self::stride(dims);
        block + coordinate / GROUP * SIDE * GROUP + centre % SIDE * GROUP + coordinate % GROUP
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn step(&self) -> f32 {
        self.step
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn read(&self, centre: usize, values: &mut [f32]) {
        for (coordinate, value) in values.iter_mut().enumerate() {
            let code = self.bytes[Self::at(self.dims, centre, coordinate)];
            *value = (f32::from(code) - f32::from(MIDDLE)) * self.step;
        }
    }

    /// The inner products of a vector, rounded to bytes, and all centres.
    pub(super) fn products(&self, vector: &[f32], kernel: Kernel, products: &mut Products) {
        let Products { query, sums, values, .. } = products;
        let stride = Self::stride(self.dims);
        let fits = |query: &Query| query.padded == stride.next_multiple_of(LINE);
        let query = match query.take_if(|query| fits(query)) {
            Some(same) => products.query.insert(same),
            None => products.query.insert(Query::empty(stride, Width::Eight)),
        };
        let unit = quantize(&vector[..self.dims], stride, query) * self.step;
        sums.resize(self.count.next_multiple_of(SIDE), 0);
        kernel.across(&self.bytes, &query.values[..stride], sums);
        let zero = i32::from(MIDDLE) * query.sum;
        values.clear();
        values.extend(sums[..self.count].iter().map(|sum| unit * (sum - zero) as f32));
    }

    /// The nearest centre; products and scores are left behind.
    pub(super) fn nearest(&self, vector: &[f32], kernel: Kernel, products: &mut Products) -> usize {
        self.products(vector, kernel, products);
        let Products { values, scores, .. } = products;
        scores.clear();
        scores.extend(values.iter().zip(&self.halves).map(|(product, half)| product - half));
        highest(scores)
    }

    /// The nearest centre of a row, and the one that serves best beside it: near, and not on the same side.
    pub(super) fn assign(&self, vector: &[f32], kernel: Kernel, products: &mut [Products; 2]) -> [u32; 2] {
        let [products, across] = products;
        let first = self.nearest(vector, kernel, products);
        if self.count == 1 {
            return [first as u32; 2];
        }
        let mut left = vec![0.0; self.dims];
        self.read(first, &mut left);
        left.iter_mut().zip(vector).for_each(|(left, value)| *left = value - *left);
        let along = kernel.inner(&left, &vector[..self.dims]);
        let weight = APART / squared_length(&left).max(f32::MIN_POSITIVE);
        self.products(&left, kernel, across);
        // Half of the squared distance is what is the same for all, less the score.
        for (score, across) in products.scores.iter_mut().zip(&across.values) {
            let aside = along - across;
            *score -= weight * aside * aside / 2.0;
        }
        products.scores[first] = f32::NEG_INFINITY;
        [first as u32, highest(&products.scores) as u32]
    }
}

/// Where the highest is, the first of equals; by lanes, for it is asked for every row.
fn highest(values: &[f32]) -> usize {
    const LANES: usize = 16;
    let higher = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        lanes.iter_mut().zip(block).for_each(|(lane, value)| *lane = higher(*lane, *value));
    }
    let highest = rest.iter().chain(&lanes).fold(f32::NEG_INFINITY, |a, b| higher(a, *b));
    values.iter().position(|value| *value >= highest).unwrap_or(0)
}
