//! The form of vectors inside a graph.
//!
//! A code is fitted to the rows of one segment, always in the same way, so building and opening a segment come to the
//! same code without storing it.

use super::graph::Rows;
use super::score;
use crate::engine::settings::{Metric, Quantization, Settings};

/// Below this, signs alone tell too little: such collections get bytes.
const MIN_BITS_DIMENSION: usize = 256;

#[derive(Clone, Debug)]
pub(super) enum Code {
    Bf16 {
        space: Space,
    },
    /// The sign of each coordinate's difference from the mean.
    Bits {
        space: Space,
        mean: Vec<f32>,
    },
    /// One byte a coordinate, `scale` times its value.
    Bytes {
        space: Space,
        scale: f32,
    },
    F16 {
        space: Space,
    },
    F32 {
        space: Space,
    },
}

/// A vector in its coded form.
pub(super) enum Coded {
    Bits(Vec<u8>),
    Bytes(Vec<i8>),
    Floats(Vec<f32>),
}

/// The space in which the graph compares: see the module of the graph for why.
#[derive(Clone, Copy, Debug)]
pub(super) struct Space {
    metric: Metric,
    dimension: usize,
    /// The longest row: of use for inner products.
    longest: f64,
    /// What rows and queries are multiplied with, so that no half-precision format overflows.
    shrink: f32,
}

impl Code {
    pub(super) fn fit(settings: &Settings, rows: &dyn Rows) -> Self {
        let dimension = settings.dimension as usize;
        let mut space = Space { metric: settings.metric, dimension, longest: 0.0, shrink: 1.0 };
        if settings.metric != Metric::Cosine {
            space.longest = rows.longest();
            if space.longest > 0.0 {
                space.shrink = (1.0 / space.longest) as f32;
            }
        }
        match settings.quantization {
            Quantization::None => Self::F32 { space },
            Quantization::Bf16 => Self::Bf16 { space },
            Quantization::F16 => Self::F16 { space },
            Quantization::Binary if dimension >= MIN_BITS_DIMENSION => {
                let mean = mean(&space, rows);
                Self::Bits { space, mean }
            }
            // Products of bytes, rather than of codebooks, is what this engine has to offer for small memory.
            Quantization::Int8 | Quantization::Binary | Quantization::Pq => {
                let scale = bytes_scale(&space, rows);
                Self::Bytes { space, scale }
            }
        }
    }

    /// Numbers, or bits, of a coded vector.
    pub(super) fn dimensions(&self) -> usize {
        match self {
            // Packed bits come in whole bytes.
            Self::Bits { space, .. } => space.dimensions().next_multiple_of(8),
            Self::Bf16 { space } | Self::Bytes { space, .. } | Self::F16 { space } | Self::F32 { space } => {
                space.dimensions()
            }
        }
    }

    /// How many times more candidates the code needs than full precision and a true metric do.
    pub(super) fn oversampling(&self) -> usize {
        match (self, self.space().metric) {
            (Self::Bits { .. }, _) => 8,
            (_, Metric::Dot) => 2,
            (_, Metric::Cosine | Metric::Euclidean) => 1,
        }
    }

    pub(super) fn row(&self, values: &[f32]) -> Coded {
        self.code(self.space().row(values))
    }

    /// `query` as the scorer has it.
    pub(super) fn query(&self, query: &[f32]) -> Coded {
        self.code(self.space().query(query))
    }

    fn space(&self) -> &Space {
        match self {
            Self::Bf16 { space }
            | Self::Bits { space, .. }
            | Self::Bytes { space, .. }
            | Self::F16 { space }
            | Self::F32 { space } => space,
        }
    }

    fn code(&self, point: Vec<f32>) -> Coded {
        match self {
            Self::Bf16 { .. } | Self::F16 { .. } | Self::F32 { .. } => Coded::Floats(point),
            Self::Bytes { scale, .. } => {
                Coded::Bytes(point.iter().map(|value| (value * scale).round().clamp(-127.0, 127.0) as i8).collect())
            }
            Self::Bits { mean, .. } => {
                let mut bits = vec![0u8; point.len().div_ceil(8)];
                for (i, (value, mean)) in point.iter().zip(mean).enumerate() {
                    bits[i / 8] |= u8::from(value > mean) << (i % 8);
                }
                Coded::Bits(bits)
            }
        }
    }
}

impl Space {
    fn dimensions(&self) -> usize {
        self.dimension + usize::from(self.metric == Metric::Dot)
    }

    fn row(&self, values: &[f32]) -> Vec<f32> {
        let mut point = values.to_vec();
        match self.metric {
            Metric::Cosine => score::normalize(&mut point),
            Metric::Euclidean => self.shrink(&mut point),
            Metric::Dot => {
                let rest = (self.longest * self.longest - score::norm(values).powi(2)).max(0.0).sqrt();
                point.push(rest as f32);
                self.shrink(&mut point);
            }
        }
        point
    }

    fn query(&self, query: &[f32]) -> Vec<f32> {
        let mut point = query.to_vec();
        match self.metric {
            Metric::Cosine => {}
            Metric::Euclidean => self.shrink(&mut point),
            Metric::Dot => {
                // The query's length does not change the order; length one is what rows have at most.
                score::normalize(&mut point);
                point.push(0.0);
            }
        }
        point
    }

    fn shrink(&self, point: &mut [f32]) {
        point.iter_mut().for_each(|value| *value *= self.shrink);
    }
}

fn mean(space: &Space, rows: &dyn Rows) -> Vec<f32> {
    let mut sums = vec![0f64; space.dimensions()];
    for row in sample(rows.len()) {
        for (sum, value) in sums.iter_mut().zip(space.row(rows.row(row))) {
            *sum += f64::from(value);
        }
    }
    let count = sample(rows.len()).count().max(1) as f64;
    sums.into_iter().map(|sum| (sum / count) as f32).collect()
}

/// Few coordinates are far larger than the rest; cutting those off keeps steps fine for all others.
fn bytes_scale(space: &Space, rows: &dyn Rows) -> f32 {
    let mut sizes: Vec<f32> = sample(rows.len()).flat_map(|row| space.row(rows.row(row))).map(f32::abs).collect();
    if sizes.is_empty() {
        return 1.0;
    }
    let at = (sizes.len() as f64 * KEPT_SHARE) as usize;
    let at = at.min(sizes.len() - 1);
    let (_, size, _) = sizes.select_nth_unstable_by(at, f32::total_cmp);
    if *size > 0.0 { 127.0 / *size } else { 1.0 }
}

/// Rows that are looked at, evenly spread.
fn sample(rows: usize) -> impl Iterator<Item = u32> {
    (0..rows as u32).step_by(rows.div_ceil(MAX_SAMPLE).max(1))
}

const MAX_SAMPLE: usize = 4_096;
const KEPT_SHARE: f64 = 0.9995;
