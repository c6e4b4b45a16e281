//! One space for all metrics: near means a small squared Euclidean distance, whatever the caller's metric is.
//!
//! Cosine becomes Euclidean on vectors of length one. The inner product does so by one more coordinate, which fills every
//! row up to the length of the longest (Bachrach et al. 2014); that of a query is 0. Then rows are centred, for the part
//! that all have in common tells nothing, and rotated, so that all coordinates can be packed alike.

use super::axes::Axes;
use super::kernel::Kernel;
use super::random::Random;
use super::rotation::Rotation;
use super::{Metric, Rows};

/// Rows looked at to find the centre.
const SAMPLE: usize = 20_000;

#[derive(Clone)]
pub(super) struct Space {
    pub metric: Metric,
    /// Coordinates of the caller's vectors.
    pub dimension: usize,
    /// Length of the longest row; used by the inner product.
    pub longest: f32,
    pub centre: Vec<f32>,
    pub seed: u64,
    /// On what is left beside these points are rotated.
    pub axes: Axes,
    rotation: Rotation,
    kernel: Kernel,
}

impl Space {
    pub(super) fn new(
        metric: Metric,
        dimension: usize,
        longest: f32,
        centre: Vec<f32>,
        seed: u64,
        kernel: Kernel,
    ) -> Self {
        let rotation = Rotation::new(Self::coordinates(metric, dimension), seed, kernel);
        Self { metric, dimension, longest, centre, seed, axes: Axes::default(), rotation, kernel }
    }

    /// Learns the centre and the longest row.
    pub(super) fn learn(metric: Metric, rows: &dyn Rows, seed: u64, kernel: Kernel) -> Self {
        let dimension = rows.dimension();
        let mut values = vec![0.0; dimension];
        let mut longest = 0f32;
        if metric == Metric::Dot {
            for row in 0..rows.len() as u32 {
                rows.read(row, &mut values);
                longest = longest.max(squared_length(&values));
            }
        }
        let mut space = Self::new(metric, dimension, longest.sqrt(), vec![], seed, kernel);
        let sample: Vec<u32> = if rows.len() <= SAMPLE {
            (0..rows.len() as u32).collect()
        } else {
            let mut random = Random::new(seed ^ 0x6365_6e74_7265);
            (0..SAMPLE).map(|_| random.below(rows.len()) as u32).collect()
        };
        let mut sums = vec![0f64; space.dims()];
        let mut point = vec![];
        for row in &sample {
            rows.read(*row, &mut values);
            space.lift(&values, true, &mut point);
            sums.iter_mut().zip(&point).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        let count = sample.len().max(1) as f64;
        space.centre = sums.iter().map(|sum| (sum / count) as f32).collect();
        space
    }

    /// Coordinates of a point of this space.
    pub(super) fn dims(&self) -> usize {
        Self::coordinates(self.metric, self.dimension)
    }

    pub(super) fn coordinates(metric: Metric, dimension: usize) -> usize {
        dimension + usize::from(metric == Metric::Dot)
    }

    /// The point of a row: its coordinates off the axes, rotated, and those along them.
    pub(super) fn row(&self, values: &[f32], point: &mut Vec<f32>, spare: &mut Vec<f32>) {
        self.place(values, point);
        self.turn(point, spare);
    }

    /// The point of a row, not turned.
    pub(super) fn place(&self, values: &[f32], point: &mut Vec<f32>) {
        self.lift(values, true, point);
        self.centre(point);
    }

    /// What a point that is not centred has more than one that is.
    pub(super) fn turned_centre(&self) -> Vec<f32> {
        let (mut point, mut spare) = (self.centre.clone(), vec![]);
        self.turn(&mut point, &mut spare);
        point
    }

    fn turn(&self, point: &mut Vec<f32>, spare: &mut Vec<f32>) {
        let along = self.axes.split(point, self.kernel);
        self.rotation.apply(point, spare);
        point.extend_from_slice(&along[..self.axes.count()]);
    }

    /// The point of a query: centred where distances are asked for. Inner products with centred rows differ from those
    /// with whole ones by the same for all, but only if the query stays as it is.
    pub(super) fn query(&self, values: &[f32], point: &mut Vec<f32>, spare: &mut Vec<f32>) {
        self.lift(values, false, point);
        if self.metric == Metric::Euclidean {
            self.centre(point);
        }
        self.turn(point, spare);
    }

    fn centre(&self, point: &mut [f32]) {
        point.iter_mut().zip(&self.centre).for_each(|(value, centre)| *value -= centre);
    }

    fn lift(&self, values: &[f32], is_row: bool, point: &mut Vec<f32>) {
        point.resize(self.dims(), 0.0);
        point[..self.dimension].copy_from_slice(values);
        match self.metric {
            Metric::Cosine => {
                let length = squared_length(values).sqrt();
                if length > 0.0 {
                    point.iter_mut().for_each(|value| *value /= length);
                }
            }
            Metric::Dot if is_row => {
                let missing = self.longest * self.longest - squared_length(values);
                point[self.dimension] = missing.max(0.0).sqrt();
            }
            Metric::Dot => point[self.dimension] = 0.0,
            Metric::Euclidean => {}
        }
    }
}

pub(super) fn squared_length(values: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0f32; LANES];
    let mut blocks = values.chunks_exact(LANES);
    for block in &mut blocks {
        sums.iter_mut().zip(block).for_each(|(sum, value)| *sum += value * value);
    }
    sums.iter().sum::<f32>() + blocks.remainder().iter().map(|value| value * value).sum::<f32>()
}
