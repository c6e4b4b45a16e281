//! How wrong estimates by codes are, learned while what they rank is compared exactly, and so when to stop comparing.

use super::score::Scorer;

/// Comparisons before anything is concluded from them.
const LEAST: u32 = 16;
/// Standard deviations by which an estimate may be wrong. They are learned from rows whose estimates are low, so where very many
/// rows are alike mean and deviation both come out too favourable: of what is nearest beyond a ball that a filter keeps out 3
/// find .99, 2.5 find .93 and 2 find .57; elsewhere .995 and more, .99, and .98 (texts of 384 dimensions).
const DEVIATIONS: f32 = 3.0;

/// Mean and variance of what exact distances are above their estimates (Welford 1962).
pub(super) struct Estimates<'s> {
    scorer: &'s Scorer,
    /// Estimates that differ by less are equal.
    grain: f32,
    count: u32,
    mean: f32,
    squares: f32,
}

impl<'s> Estimates<'s> {
    pub(super) fn new(scorer: &'s Scorer, grain: f32) -> Self {
        Self { scorer, grain, count: 0, mean: 0.0, squares: 0.0 }
    }

    /// A row with this estimate has that rank.
    pub(super) fn learn(&mut self, estimate: f32, rank: f32) {
        let error = self.scorer.distance(rank) - self.scorer.estimated(estimate);
        if !error.is_finite() {
            return;
        }
        self.count += 1;
        let before = error - self.mean;
        self.mean += before / self.count as f32;
        self.squares += before * (error - self.mean);
    }

    /// The estimate from which on rows most probably are worse than this rank.
    pub(super) fn limit(&self, rank: f32) -> f32 {
        if self.count < LEAST {
            return f32::INFINITY;
        }
        let deviation = (self.squares / (self.count - 1) as f32).sqrt();
        let farthest = self.scorer.distance(rank) - self.mean + DEVIATIONS * deviation;
        self.scorer.squared(farthest) + self.grain
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::settings::Metric;
    use crate::index::kernel::Kernel;

    #[test]
    fn what_is_farther_than_estimates_are_wrong_is_beyond() {
        let scorer = Scorer::new(Metric::Dot, Kernel::detect(), &[1.0]);
        let mut estimates = Estimates::new(&scorer, 0.0);
        for i in 0..200 {
            assert!(i >= 16 || estimates.limit(0.0).is_infinite(), "too little is known");
            // Half a unit low, give or take a tenth; estimates are of squares, which are twice the inner product.
            let exact = i as f32 + 0.5 + if i % 2 == 0 { 0.1 } else { -0.1 };
            estimates.learn(2.0 * i as f32, -exact);
        }
        assert!(estimates.limit(-10.3) > 2.0 * 10.0 && estimates.limit(-10.1) < 2.0 * 10.0);
        estimates.learn(f32::NEG_INFINITY, -3.0);
        assert!(estimates.limit(-10.1) < 2.0 * 10.0, "where nothing was estimated nothing is learned");
        assert!(estimates.limit(f32::NEG_INFINITY).is_infinite(), "while there are too few hits all are wanted");
    }
}
