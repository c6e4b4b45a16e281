//! The few directions along which rows differ the most, or all lie, and on which they are kept well.
//!
//! What one or two bits of a coordinate tell of an inner product is wrong by so much of the lengths of both vectors. Real
//! vectors lie mostly along a few directions: images, texts, whatever a model makes of them. So a row's coordinates on those
//! (its principal components) are kept in eight bits each, and bits are of what is left, of a row and of a query, which
//! is far shorter.

use super::kernel::Kernel;
use super::random::Random;
use super::space::Space;
use super::{Metric, Rows};

/// Most axes: their coordinates are one load of the narrowest kernel.
pub(super) const MAX_AXES: usize = 16;
/// An axis for so many dimensions: then they take a sixth of a bit for each of these.
const DIMENSIONS_PER_AXIS: usize = 48;
/// Fewer axes than this are not worth a second sum for every distance.
const MIN_AXES: usize = 2;
/// With fewer rows for each dimension axes take more memory than their coordinates.
const ROWS_PER_DIMENSION: usize = 4;

/// Axes that hold less than this of what rows differ by take more time than better estimates save: texts of 384 dimensions have
/// a fifth on eight, images of 784 three quarters on sixteen.
const WORTH: f64 = 0.3;

/// Rows that the axes are learned from, and values of these.
const SAMPLE: usize = 4_096;
const SAMPLED_VALUES: usize = 4 << 20;
/// Times that all rows of the sample are projected. After so many an axis has most of what the best one has.
const ROUNDS: usize = 4;
/// Shorter than this, of vectors that were of length one, is nothing but rounding.
const NOTHING: f32 = 1e-5;

/// Orthogonal directions of length one; of none, everything is left.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Axes {
    /// One after the other.
    values: Vec<f32>,
    dims: usize,
    /// Of the grid on which rows' coordinates are kept.
    step: f32,
}

impl Axes {
    /// None if they are not what [`Axes::values`] and [`Axes::step`] gave.
    pub(super) fn open(values: Vec<f32>, dims: usize, step: f32) -> Option<Self> {
        let is_whole = values.len().is_multiple_of(dims.max(1)) && values.len() <= MAX_AXES * dims;
        let is_sane = values.iter().all(|value| value.is_finite()) && step.is_finite() && step >= 0.0;
        (is_whole && is_sane).then_some(Self { values, dims, step })
    }

    /// Those of a space's rows, in front of its rotation. The same for the same rows on every machine.
    pub(super) fn learn(space: &Space, rows: &dyn Rows, kernel: Kernel) -> Self {
        let dims = space.dims();
        let count = (dims / DIMENSIONS_PER_AXIS).min(MAX_AXES);
        if count < MIN_AXES || rows.len() < dims * ROWS_PER_DIMENSION {
            return Self::default();
        }
        let (sample, longest) = sample(space, rows, kernel);
        let mut random = Random::new(space.seed ^ 0x6178_6573);
        let mut axes = Self { values: Vec::with_capacity(count * dims), dims, step: 0.0 };
        if space.metric != Metric::Euclidean {
            // Queries are not centred where only inner products are asked for: they have the centre in them.
            axes.add(space.centre.clone(), kernel);
        }
        let fixed = axes.count();
        while axes.count() < count {
            axes.add((0..dims).map(|_| random.next() as f32 / u64::MAX as f32 - 0.5).collect(), kernel);
        }
        for _ in 0..ROUNDS {
            axes.turn(&sample, fixed, kernel);
        }
        let (mut highest, mut held, mut whole) = (0f32, 0f64, 0f64);
        for row in sample.chunks_exact(dims) {
            whole += f64::from(kernel.inner(row, row));
            for axis in axes.iter() {
                let along = kernel.inner(axis, row);
                held += f64::from(along * along);
                highest = highest.max(along.abs());
            }
        }
        axes.step = highest * longest / 127.0;
        if held >= WORTH * whole { axes } else { Self::default() }
    }

    /// Each of them, but for the first `fixed`, becomes what the rows on its side add up to, less what those before it have.
    fn turn(&mut self, sample: &[f32], fixed: usize, kernel: Kernel) {
        let mut sums = vec![0f32; self.values.len()];
        for row in sample.chunks_exact(self.dims) {
            for (axis, sum) in self.iter().zip(sums.chunks_exact_mut(self.dims)).skip(fixed) {
                kernel.add(sum, kernel.inner(axis, row), row);
            }
        }
        let count = self.count();
        self.values.truncate(fixed * self.dims);
        for sum in sums.chunks_exact(self.dims).skip(fixed) {
            self.add(sum.to_vec(), kernel);
        }
        // Rows may lie in fewer directions than there are axes: what is missing stays so.
        self.values.resize(count * self.dims, 0.0);
    }

    /// Adds what of a vector is in none of them, in length one; nothing where that is nothing.
    fn add(&mut self, mut vector: Vec<f32>, kernel: Kernel) {
        let whole = length(&vector, kernel);
        if whole == 0.0 {
            return;
        }
        vector.iter_mut().for_each(|value| *value /= whole);
        // Twice, for the first time leaves roundings of what it takes off.
        for _ in 0..2 {
            for axis in self.values.chunks_exact(self.dims) {
                let along = kernel.inner(axis, &vector);
                kernel.add(&mut vector, -along, axis);
            }
        }
        let left = length(&vector, kernel);
        if left > NOTHING {
            self.values.extend(vector.iter().map(|value| value / left));
        }
    }

    fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.dims.max(1))
    }

    pub(super) fn count(&self) -> usize {
        self.values.len() / self.dims.max(1)
    }

    pub(super) fn values(&self) -> &[f32] {
        &self.values
    }

    pub(super) fn step(&self) -> f32 {
        self.step
    }

    /// Takes off a point what of it lies along the axes, and returns how far along each, as many as there are.
    pub(super) fn split(&self, point: &mut [f32], kernel: Kernel) -> [f32; MAX_AXES] {
        let mut coordinates = [0.0; MAX_AXES];
        for (axis, coordinate) in self.iter().zip(&mut coordinates) {
            *coordinate = kernel.inner(axis, point);
            kernel.add(point, -*coordinate, axis);
        }
        coordinates
    }
}

/// Some rows as the space has them, in lengths of the longest, and that.
fn sample(space: &Space, rows: &dyn Rows, kernel: Kernel) -> (Vec<f32>, f32) {
    let dims = space.dims();
    let mut random = Random::new(space.seed ^ 0x7361_6d70_6c65);
    let count = SAMPLE.min(rows.len()).min(SAMPLED_VALUES / dims);
    let mut sample = Vec::with_capacity(count * dims);
    let (mut values, mut point) = (vec![0.0; rows.dimension()], vec![]);
    for _ in 0..count {
        rows.read(random.below(rows.len()) as u32, &mut values);
        space.place(&values, &mut point);
        sample.extend_from_slice(&point);
    }
    let longest = sample.chunks_exact(dims).map(|row| length(row, kernel)).fold(0f32, f32::max);
    if longest > 0.0 {
        sample.iter_mut().for_each(|value| *value /= longest);
    }
    (sample, longest)
}

fn length(values: &[f32], kernel: Kernel) -> f32 {
    kernel.inner(values, values).sqrt()
}
