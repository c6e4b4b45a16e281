//! The exact answer to a search, by comparing with every point in f64.

use std::cmp::Ordering;
use std::collections::HashSet;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    Cosine,
    Dot,
    Euclidean,
}

impl Metric {
    pub const ALL: [Self; 3] = [Self::Cosine, Self::Dot, Self::Euclidean];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cosine => "cosine",
            Self::Dot => "dot",
            Self::Euclidean => "euclidean",
        }
    }

    /// The score as the contract defines it: similarity, inner product, or distance.
    pub fn score(self, a: &[f32], b: &[f32]) -> f64 {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
        match self {
            Self::Dot => dot(a, b),
            Self::Cosine => dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt()),
            Self::Euclidean => {
                a.iter().zip(b).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum::<f64>().sqrt()
            }
        }
    }

    fn best_first(self, a: f64, b: f64) -> Ordering {
        match self {
            Self::Cosine | Self::Dot => b.total_cmp(&a),
            Self::Euclidean => a.total_cmp(&b),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    pub id: String,
    pub score: f64,
}

/// The `k` nearest of `points` to `query`, best first, ties by id.
pub fn nearest<'a>(
    metric: Metric,
    query: &[f32],
    points: impl IntoIterator<Item = (&'a str, &'a [f32])>,
    k: usize,
) -> Vec<Hit> {
    let mut hits: Vec<Hit> =
        points.into_iter().map(|(id, values)| Hit { id: id.to_owned(), score: metric.score(query, values) }).collect();
    hits.sort_by(|a, b| metric.best_first(a.score, b.score).then_with(|| a.id.cmp(&b.id)));
    hits.truncate(k);
    hits
}

/// The share of the exact ids that were found.
pub fn recall<'a>(exact: impl IntoIterator<Item = &'a str>, found: impl IntoIterator<Item = &'a str>) -> f64 {
    let exact: HashSet<&str> = exact.into_iter().collect();
    let hits = found.into_iter().filter(|id| exact.contains(id)).count();
    hits as f64 / exact.len().max(1) as f64
}
