//! How long calls of one class take: a histogram over the last half minute, of which quantiles are asked.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Counts by latency, in slices that are forgotten one by one.
pub(crate) struct Window {
    start: Instant,
    inner: Mutex<Inner>,
}

struct Inner {
    slices: [Slice; SLICES],
    /// The last answer, and for how many more records it stands.
    kept: Option<Duration>,
    kept_for: u32,
}

#[derive(Clone, Copy)]
struct Slice {
    number: u64,
    counts: [u32; BUCKETS],
}

impl Window {
    pub(crate) fn new() -> Self {
        let empty = Slice { number: 0, counts: [0; BUCKETS] };
        Self { start: Instant::now(), inner: Mutex::new(Inner { slices: [empty; SLICES], kept: None, kept_for: 0 }) }
    }

    pub(crate) fn record(&self, latency: Duration, now: Instant) {
        let number = self.number(now);
        let mut inner = self.inner.lock();
        let slice = &mut inner.slices[place(number)];
        if slice.number != number {
            *slice = Slice { number, counts: [0; BUCKETS] };
        }
        let count = &mut slice.counts[bucket(latency)];
        *count = count.saturating_add(1);
        inner.kept_for = inner.kept_for.saturating_sub(1);
    }

    /// The latency that this share of calls stays within, too high by at most an eighth. None until
    /// [`SAMPLES_MIN`] calls say so.
    pub(crate) fn quantile(&self, share: f64, now: Instant) -> Option<Duration> {
        let number = self.number(now);
        let mut inner = self.inner.lock();
        if inner.kept_for == 0 {
            inner.kept = inner.quantile(share, number);
            inner.kept_for = KEPT_FOR;
        }
        inner.kept
    }

    fn number(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs() / SLICE_SECONDS
    }
}

impl Inner {
    fn quantile(&self, share: f64, number: u64) -> Option<Duration> {
        let recent = || self.slices.iter().filter(|slice| slice.number + (SLICES as u64) > number);
        let total: u64 = recent().flat_map(|slice| slice.counts).map(u64::from).sum();
        if total < SAMPLES_MIN {
            return None;
        }
        let rank = ((total as f64 * share).ceil() as u64).clamp(1, total);
        let mut seen = 0;
        (0..BUCKETS).find_map(|bucket| {
            seen += recent().map(|slice| u64::from(slice.counts[bucket])).sum::<u64>();
            (seen >= rank).then(|| upper_bound(bucket))
        })
    }
}

fn place(number: u64) -> usize {
    usize::try_from(number % SLICES as u64).expect("less than the number of slices")
}

/// Eight buckets for each doubling, from 64 µs on.
fn bucket(latency: Duration) -> usize {
    let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).clamp(1 << FIRST_BIT, (1 << LAST_BIT) - 1);
    let octave = 63 - micros.leading_zeros() - FIRST_BIT;
    let within = (micros >> (octave + FIRST_BIT - 3)) & 7;
    octave as usize * 8 + usize::try_from(within).expect("three bits")
}

fn upper_bound(bucket: usize) -> Duration {
    let (octave, within) = (bucket / 8, bucket % 8);
    Duration::from_micros((within as u64 + 9) << (octave as u32 + FIRST_BIT - 3))
}

const SLICES: usize = 6;
const SLICE_SECONDS: u64 = 5;
const FIRST_BIT: u32 = 6;
/// A minute: longer latencies are all the same.
const LAST_BIT: u32 = 26;
const BUCKETS: usize = (LAST_BIT - FIRST_BIT) as usize * 8;
/// A 95th percentile of fewer is one of the largest that happened to come.
pub(crate) const SAMPLES_MIN: u64 = 100;
/// Records for which a quantile is not computed anew.
const KEPT_FOR: u32 = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn old_latencies_are_forgotten() {
        let window = Window::new();
        let now = window.start;
        assert_eq!(window.quantile(0.95, now), None);
        (0..200).for_each(|_| window.record(Duration::from_millis(100), now));
        let p95 = window.quantile(0.95, now).unwrap();
        assert!((100..=113).contains(&p95.as_millis()), "{p95:?}");
        let later = now + Duration::from_secs(SLICE_SECONDS * SLICES as u64);
        (0..200).for_each(|_| window.record(Duration::from_millis(1), later));
        let p95 = window.quantile(0.95, later).unwrap();
        assert!(p95 < Duration::from_millis(2), "{p95:?}");
    }

    proptest! {
        #[test]
        fn a_quantile_is_the_exact_one_or_an_eighth_more(mut micros in proptest::collection::vec(64u64..60_000_000, 100..400)) {
            let window = Window::new();
            micros.iter().for_each(|m| window.record(Duration::from_micros(*m), window.start));
            let told = window.quantile(0.95, window.start).unwrap();
            micros.sort_unstable();
            let rank = (micros.len() as f64 * 0.95).ceil() as usize;
            let exact = micros[rank - 1];
            let told = told.as_micros() as u64;
            prop_assert!(told > exact && told <= exact + exact / 8 + 1, "{told} for {exact}");
        }
    }
}
