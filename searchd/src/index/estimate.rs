//! How wrong a graph's estimates are, learned while its proposals are compared exactly, and so when to stop comparing.

/// Comparisons before anything is concluded from them.
const LEAST: u32 = 16;
/// Standard deviations by which an estimate may be wrong. With 3, two in a thousand of the ten nearest that are among
/// the proposals are not compared; with 2.5 seven (texts of 384 dimensions, images of 784).
const DEVIATIONS: f32 = 3.0;

/// Mean and variance of what exact values are above their estimates (Welford 1962).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct EstimateError {
    count: u32,
    mean: f32,
    squares: f32,
}

impl EstimateError {
    pub(super) fn learn(&mut self, estimate: f32, exact: f32) {
        let error = exact - estimate;
        if !error.is_finite() {
            return;
        }
        self.count += 1;
        let before = error - self.mean;
        self.mean += before / self.count as f32;
        self.squares += before * (error - self.mean);
    }

    /// Whether what is estimated so is most probably above `limit`.
    pub(super) fn is_beyond(&self, estimate: f32, limit: f32) -> bool {
        if self.count < LEAST {
            return false;
        }
        let deviation = (self.squares / (self.count - 1) as f32).sqrt();
        estimate + self.mean - DEVIATIONS * deviation > limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_farther_than_estimates_are_wrong_is_beyond() {
        let mut error = EstimateError::default();
        for i in 0..200 {
            assert!(i >= 16 || !error.is_beyond(1e9, 0.0), "too little is known");
            // Half a unit low, give or take a tenth.
            error.learn(i as f32, i as f32 + 0.5 + if i % 2 == 0 { 0.1 } else { -0.1 });
        }
        assert!(!error.is_beyond(10.0, 10.3) && error.is_beyond(10.0, 10.1));
        error.learn(f32::NEG_INFINITY, 3.0);
        assert!(error.is_beyond(10.0, 10.1), "where nothing was estimated nothing is learned");
    }
}
