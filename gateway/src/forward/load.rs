//! The load that an endpoint last told of itself, and how many of its clients it should be spared.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::HeaderMap;
use nearfield_proto::load::{LOAD_METADATA, LoadReport};

/// What an endpoint told lately.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Told {
    /// The share of its search threads' time that is spent, 0 to 1.
    pub utilization: f64,
    /// How long a search waits for a thread there.
    pub queue_delay: Duration,
}

impl Told {
    /// The share of its clients' reads that go to the next endpoint: none while searches hardly wait, more the longer
    /// they do, never all, so that it goes on telling and keeps its caches warm.
    fn spilled_share(&self) -> f64 {
        let over = self.queue_delay.saturating_sub(QUEUE_DELAY_CALM).as_secs_f64();
        (over / (QUEUE_DELAY_FULL - QUEUE_DELAY_CALM).as_secs_f64()).min(SPILLED_SHARE_MAX)
    }
}

/// The last report, in one word: when it came, utilization in thousandths, queue delay in hundreds of microseconds.
pub(crate) struct Load {
    start: Instant,
    word: AtomicU64,
}

impl Load {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), word: AtomicU64::new(0) }
    }

    /// Takes the report out of an answer's trailers: it concerns nobody outside.
    pub(crate) fn take(&self, trailers: &mut HeaderMap) {
        let report = trailers.remove(LOAD_METADATA).as_ref().and_then(LoadReport::from_header);
        if let Some(report) = report {
            let queue_delay = Duration::try_from_secs_f64(report.queue_delay_ms() / 1_000.0).unwrap_or_default();
            self.put(Told { utilization: report.application_utilization, queue_delay }, Instant::now());
        }
    }

    fn put(&self, told: Told, now: Instant) {
        // Never 0, which says that nothing was told.
        let millis = u64::from(self.millis(now)).max(1);
        let utilization = (told.utilization.clamp(0.0, 1.0) * 1_000.0) as u64;
        let delay = u64::try_from(told.queue_delay.as_micros() / DELAY_UNIT_MICROS).unwrap_or(u64::MAX);
        let word = millis << 32 | utilization << 16 | delay.min(u64::from(u16::MAX));
        self.word.store(word, Ordering::Relaxed);
    }

    /// What was told; none when that is too long ago to mean anything.
    pub(crate) fn told(&self) -> Option<Told> {
        self.at(Instant::now())
    }

    fn at(&self, now: Instant) -> Option<Told> {
        let word = self.word.load(Ordering::Relaxed);
        let age = u64::from(self.millis(now)).saturating_sub(word >> 32);
        let fresh = word != 0 && u128::from(age) <= LIFETIME.as_millis();
        fresh.then(|| Told {
            utilization: f64::from((word >> 16) as u16) / 1_000.0,
            queue_delay: Duration::from_micros(u64::from(word as u16) * DELAY_UNIT_MICROS as u64),
        })
    }

    /// The share of the endpoint's clients that it should be spared now.
    pub(crate) fn spilled_share(&self) -> f64 {
        self.told().map_or(0.0, |told| told.spilled_share())
    }

    /// Wraps after 49 days, when one report may live too long or too short.
    fn millis(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.start).as_millis() as u32
    }
}

/// A report older than two health checks is none.
const LIFETIME: Duration = Duration::from_secs(12);
/// Searches that wait no longer than this wait as they should.
const QUEUE_DELAY_CALM: Duration = Duration::from_millis(5);
/// From here on as many are spared as may be.
const QUEUE_DELAY_FULL: Duration = Duration::from_millis(25);
const SPILLED_SHARE_MAX: f64 = 0.9;
const DELAY_UNIT_MICROS: u128 = 100;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(millis: u64) -> Told {
        Told { utilization: 0.5, queue_delay: Duration::from_millis(millis) }
    }

    #[test]
    fn a_report_is_taken_from_the_trailers_and_read_back() {
        let load = Load::new();
        assert_eq!(load.told(), None);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        trailers.insert(LOAD_METADATA, LoadReport::new(0.25, 7.5).to_header());
        load.take(&mut trailers);
        assert_eq!(trailers.len(), 1, "nobody outside sees it");
        assert_eq!(load.told(), Some(Told { utilization: 0.25, queue_delay: Duration::from_micros(7_500) }));
        assert_eq!(load.at(Instant::now() + LIFETIME + Duration::from_secs(1)), None, "it is forgotten");
        trailers.insert(LOAD_METADATA, "!!".parse().unwrap());
        load.take(&mut trailers);
        assert!(load.told().is_some(), "what is no report changes nothing");
    }

    #[test]
    fn longer_queues_spare_more_clients_but_never_all() {
        assert_eq!(told(0).spilled_share(), 0.0);
        assert_eq!(told(5).spilled_share(), 0.0);
        assert_eq!(told(15).spilled_share(), 0.5);
        assert_eq!(told(60_000).spilled_share(), SPILLED_SHARE_MAX);
    }

    proptest! {
        #[test]
        fn what_is_told_survives_the_word(utilization in 0.0..=1.0f64, millis in 0u64..6_000) {
            let load = Load::new();
            let now = Instant::now();
            load.put(Told { utilization, queue_delay: Duration::from_millis(millis) }, now);
            let read = load.at(now).unwrap();
            prop_assert!((read.utilization - utilization).abs() <= 0.001);
            prop_assert_eq!(read.queue_delay, Duration::from_millis(millis));
        }
    }
}
