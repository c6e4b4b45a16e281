//! The space in which a usearch graph compares: see the module of the graph for why.

use crate::engine::settings::{Metric, Settings};
use crate::index::score;
use crate::index::vectors::Vectors;

#[derive(Clone, Copy, Debug)]
pub(super) struct Space {
    metric: Metric,
    dimension: usize,
    /// The longest row: of use for inner products.
    longest: f64,
    /// What rows and queries are multiplied with, so that no half-precision format overflows.
    shrink: f32,
}

impl Space {
    pub(super) fn of(settings: &Settings, vectors: &Vectors) -> Self {
        let mut space =
            Self { metric: settings.metric, dimension: settings.dimension as usize, longest: 0.0, shrink: 1.0 };
        if settings.metric != Metric::Cosine {
            space.longest = vectors.longest();
            if space.longest > 0.0 {
                space.shrink = (1.0 / space.longest) as f32;
            }
        }
        space
    }

    pub(super) fn dimensions(&self) -> usize {
        self.dimension + usize::from(self.metric == Metric::Dot)
    }

    pub(super) fn row(&self, mut point: Vec<f32>) -> Vec<f32> {
        match self.metric {
            Metric::Cosine => score::normalize(&mut point),
            Metric::Euclidean => self.shrink(&mut point),
            Metric::Dot => {
                let rest = (self.longest * self.longest - score::norm(&point).powi(2)).max(0.0).sqrt();
                point.push(rest as f32);
                self.shrink(&mut point);
            }
        }
        point
    }

    /// `query` as the scorer has it.
    pub(super) fn query(&self, query: &[f32]) -> Vec<f32> {
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
