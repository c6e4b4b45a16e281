//! Exact distances from rows in half precision, wherever they are kept: a mapped file, memory.

use half::f16;

use super::Metric;
use super::kernel::{Kernel, prefetch};
use super::memory::LINE;
use super::search::Exact;

/// A query and the rows it is compared with.
pub struct HalfRows<'a> {
    metric: Metric,
    kernel: Kernel,
    values: &'a [f16],
    /// 1 / length of each row for cosine, unless rows are of length one.
    inverse_lengths: Option<&'a [f32]>,
    query: &'a [f32],
}

impl<'a> HalfRows<'a> {
    pub fn new(
        metric: Metric,
        kernel: Kernel,
        values: &'a [f16],
        inverse_lengths: Option<&'a [f32]>,
        query: &'a [f32],
    ) -> Self {
        Self { metric, kernel, values, inverse_lengths, query }
    }
}

impl Exact for HalfRows<'_> {
    /// The negative inner product, or the squared distance.
    fn distance(&self, row: u32) -> f32 {
        let values = &self.values[row as usize * self.query.len()..][..self.query.len()];
        match self.metric {
            Metric::Euclidean => self.kernel.squared_distance(values, self.query),
            Metric::Cosine => {
                let scale = self.inverse_lengths.map_or(1.0, |inverse| inverse[row as usize]);
                -scale * self.kernel.dot(values, self.query)
            }
            Metric::Dot => -self.kernel.dot(values, self.query),
        }
    }

    fn prefetch(&self, row: u32) {
        let bytes = self.query.len() * size_of::<f16>();
        for offset in (0..bytes).step_by(LINE) {
            prefetch(bytemuck::cast_slice(self.values), row as usize * bytes + offset);
        }
    }
}
