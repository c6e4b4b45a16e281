//! Latencies of a short time, counted in buckets of about a tenth of their size: what a quantile of the last moment costs
//! is one increment a request.

use std::time::Duration;

/// Buckets to each doubling.
const STEPS: u32 = 8;
/// From 1 µs to over an hour.
const BUCKETS: usize = 32 * STEPS as usize;

/// Recorded and read under a lock of its owner.
#[derive(Clone, Debug)]
pub(super) struct Latencies {
    counts: Box<[u32; BUCKETS]>,
    total: u32,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { counts: Box::new([0; BUCKETS]), total: 0 }
    }
}

impl Latencies {
    pub(super) fn record(&mut self, latency: Duration) {
        let bucket = bucket(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
        self.counts[bucket] = self.counts[bucket].saturating_add(1);
        self.total = self.total.saturating_add(1);
    }

    pub(super) fn total(&self) -> u32 {
        self.total
    }

    /// The latency that a share `quantile` of them is not above, at most a tenth too high; zero when there are none.
    pub(super) fn quantile(&self, quantile: f64) -> Duration {
        let rank = (quantile * f64::from(self.total)).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= rank {
                return Duration::from_micros(upper(index));
            }
        }
        Duration::ZERO
    }

    pub(super) fn clear(&mut self) {
        self.counts.fill(0);
        self.total = 0;
    }
}

/// The position of the highest bit chooses the doubling, the three bits behind it the step.
fn bucket(micros: u32) -> usize {
    let doubling = micros.max(1).ilog2();
    let step = if doubling >= 3 { (micros >> (doubling - 3)) & 7 } else { (micros << (3 - doubling)) & 7 };
    (doubling * STEPS + step) as usize
}

/// The highest latency of a bucket.
fn upper(index: usize) -> u64 {
    let (doubling, step) = (index as u32 / STEPS, index as u64 % u64::from(STEPS));
    ((u64::from(STEPS) + step + 1) << doubling) / u64::from(STEPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_at_most_an_eighth_too_high() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile(0.5), Duration::ZERO);
        for micros in 1..=10_000_u64 {
            latencies.record(Duration::from_micros(micros));
        }
        for quantile in [0.1, 0.5, 0.9, 0.99, 1.0] {
            let exact = quantile * 10_000.0;
            let found = latencies.quantile(quantile).as_micros() as f64;
            assert!((exact..=exact * 1.125 + 1.0).contains(&found), "{quantile}: {found}");
        }
        latencies.clear();
        assert_eq!((latencies.total(), latencies.quantile(0.5)), (0, Duration::ZERO));
        latencies.record(Duration::from_secs(90_000));
        assert!(latencies.quantile(0.5) > Duration::from_secs(3600));
    }
}
