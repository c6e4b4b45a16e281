//! Scores: what a client sees, and the rank by which hits are ordered.

use super::kernel::Kernel;
use super::values::Values;
use crate::engine::settings::Metric;

/// Longest vector, by Euclidean norm: with longer ones inner products leave the range of f32.
pub const MAX_NORM: f64 = 1e18;
/// Shortest vector that has a direction in f32.
pub const MIN_NORM: f64 = 1e-18;

/// Compares one query with rows.
pub struct Scorer {
    metric: Metric,
    kernel: Kernel,
    query: Vec<f32>,
}

impl Scorer {
    pub fn new(metric: Metric, kernel: Kernel, query: &[f32]) -> Self {
        let mut query = query.to_vec();
        if metric == Metric::Cosine {
            normalize(&mut query);
        }
        Self { metric, kernel, query }
    }

    /// The query as rows are compared with it: of length one for cosine.
    pub fn query(&self) -> &[f32] {
        &self.query
    }

    /// Whether ranks depend on the norms of rows.
    #[inline]
    pub fn has_norms(&self) -> bool {
        self.metric == Metric::Cosine
    }

    /// Higher is better, whatever the metric.
    #[inline]
    pub fn rank<'r>(&self, row: impl Into<Values<'r>>, inverse_norm: f32) -> f32 {
        let row = row.into();
        match self.metric {
            Metric::Cosine => (self.kernel.dot(&self.query, row) * inverse_norm).clamp(-1.0, 1.0),
            Metric::Dot => self.kernel.dot(&self.query, row),
            Metric::Euclidean => -self.kernel.squared_distance(&self.query, row).sqrt(),
        }
    }
}

impl Scorer {
    /// A rank as a distance: lower is nearer. The square, or the inner product less than nothing.
    pub fn distance(&self, rank: f32) -> f32 {
        match self.metric {
            Metric::Cosine | Metric::Dot => -rank,
            Metric::Euclidean => rank * rank,
        }
    }

    /// What [`Scorer::estimated`] makes of it is this distance.
    pub fn squared(&self, distance: f32) -> f32 {
        match self.metric {
            Metric::Cosine | Metric::Dot => 2.0 * distance,
            Metric::Euclidean => distance,
        }
    }

    /// An estimated squared distance on the same scale, but for a constant.
    pub fn estimated(&self, squared: f32) -> f32 {
        match self.metric {
            Metric::Cosine | Metric::Dot => squared / 2.0,
            Metric::Euclidean => squared,
        }
    }
}

/// The score that a client sees: similarity, or distance.
pub fn score(metric: Metric, rank: f32) -> f32 {
    match metric {
        Metric::Cosine | Metric::Dot => rank,
        // Not `-rank`, which would show a distance of nothing as -0.
        Metric::Euclidean => 0.0 - rank,
    }
}

pub fn norm(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>().sqrt()
}

/// 1 / norm; 0 for a vector without a direction.
pub fn inverse_norm(values: &[f32]) -> f32 {
    let norm = norm(values);
    if norm < MIN_NORM { 0.0 } else { (1.0 / norm) as f32 }
}

pub fn normalize(values: &mut [f32]) {
    let norm = norm(values);
    if norm >= MIN_NORM {
        values.iter_mut().for_each(|value| *value = (f64::from(*value) / norm) as f32);
    }
}
