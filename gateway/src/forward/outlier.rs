//! Which endpoints are worse than their equals. What a health check does not see, calls do: an endpoint that fails,
//! lies or dawdles is left alone for a while, longer each time.
//!
//! Pure: tallies and the time in, verdicts out. The rules are Envoy's (consecutive failures, success rate, a bounded
//! share ejected, growing times), but compare with the median of the others, which means something from two
//! endpoints on, where a standard deviation needs five.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// The settings' section `[upstream.outlier]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub enabled: bool,
    /// Over how long endpoints are compared.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// Calls in a row that broke, hung, could not be sent or were answered with nonsense.
    pub consecutive_failures: u32,
    /// Calls in an interval below which an endpoint is not compared.
    pub calls_min: u64,
    /// How far the share of good answers may lie below the others' median.
    pub success_margin: f64,
    /// How many times the others' median an endpoint's mean latency may be.
    pub latency_factor: f64,
    /// A mean latency that is always good enough.
    #[serde(with = "humantime_serde")]
    pub latency_min: Duration,
    /// The first ejection; each further one in a row takes as much longer.
    #[serde(with = "humantime_serde")]
    pub ejection: Duration,
    #[serde(with = "humantime_serde")]
    pub ejection_max: Duration,
    /// Of the endpoints, that may be ejected at once; one always may, where there are two.
    pub ejected_share_max: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: true,
            interval: Duration::from_secs(10),
            consecutive_failures: 5,
            calls_min: 50,
            success_margin: 0.1,
            latency_factor: 4.0,
            latency_min: Duration::from_millis(20),
            ejection: Duration::from_secs(30),
            ejection_max: Duration::from_secs(300),
            ejected_share_max: 0.5,
        }
    }
}

impl Config {
    /// How many of `endpoints` may be ejected at once: never all.
    pub fn ejected_max(&self, endpoints: usize) -> usize {
        let share = (endpoints as f64 * self.ejected_share_max.clamp(0.0, 1.0)) as usize;
        share.max(1).min(endpoints.saturating_sub(1))
    }
}

/// Why an endpoint is ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    ConsecutiveFailures,
    Latency,
    SuccessRate,
}

impl Reason {
    pub(crate) const ALL: [Self; 3] = [Self::ConsecutiveFailures, Self::Latency, Self::SuccessRate];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::ConsecutiveFailures => "consecutive_failures",
            Self::Latency => "latency",
            Self::SuccessRate => "success_rate",
        }
    }
}

/// What an endpoint's calls of one interval came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub calls: u64,
    pub failures: u64,
    /// Of the calls that are alike enough for it.
    pub timed: u64,
    pub latency: Duration,
}

impl Tally {
    fn success(&self) -> f64 {
        1.0 - self.failures as f64 / self.calls.max(1) as f64
    }

    fn mean_latency(&self) -> f64 {
        self.latency.as_secs_f64() / self.timed.max(1) as f64
    }
}

/// Who is worse than the others, by one interval's tallies; the worst first.
pub fn compare(tallies: &[Tally], config: &Config) -> Vec<(usize, Reason)> {
    let mut outliers: Vec<(f64, usize, Reason)> = Vec::new();
    for (i, tally) in tallies.iter().enumerate() {
        let others = |enough: fn(&Tally) -> u64, value: fn(&Tally) -> f64| {
            let others = tallies.iter().enumerate().filter(|(j, t)| *j != i && enough(t) >= config.calls_min);
            median(others.map(|(_, t)| value(t)).collect())
        };
        if tally.calls >= config.calls_min
            && let Some(median) = others(|t| t.calls, Tally::success)
            && tally.success() < median - config.success_margin
        {
            outliers.push((f64::INFINITY, i, Reason::SuccessRate));
            continue;
        }
        let mean = tally.mean_latency();
        if tally.timed >= config.calls_min
            && mean > config.latency_min.as_secs_f64()
            && let Some(median) = others(|t| t.timed, Tally::mean_latency)
            && mean > median * config.latency_factor
        {
            outliers.push((mean, i, Reason::Latency));
        }
    }
    outliers.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    outliers.into_iter().map(|(_, i, reason)| (i, reason)).collect()
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (lower, upper) = (values.get(values.len().checked_sub(1)? / 2)?, values.get(values.len() / 2)?);
    Some((lower + upper) / 2.0)
}

/// An endpoint's ejections.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ejection {
    current: Option<(Instant, Reason)>,
    /// In a row, of which good intervals take one away each.
    times: u32,
}

impl Ejection {
    /// Ejects until the time returned.
    pub fn eject(&mut self, reason: Reason, now: Instant, config: &Config) -> Instant {
        self.times = self.times.saturating_add(1);
        let until = now + config.ejection.saturating_mul(self.times).min(config.ejection_max);
        self.current = Some((until, reason));
        until
    }

    /// Why, and for how much longer.
    pub fn now(&self, now: Instant) -> Option<(Reason, Duration)> {
        let (until, reason) = self.current?;
        (now < until).then(|| (reason, until - now))
    }

    pub fn times(&self) -> u32 {
        self.times
    }

    /// Ends an ejection whose time has come; true when there was one.
    pub fn end(&mut self, now: Instant) -> bool {
        let over = self.current.is_some_and(|(until, _)| now >= until);
        if over {
            self.current = None;
        }
        over
    }

    /// An interval passed without a reason to eject.
    pub fn forgive(&mut self) {
        if self.current.is_none() {
            self.times = self.times.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(calls: u64, failures: u64, mean_millis: u64) -> Tally {
        let latency = Duration::from_millis(mean_millis * calls);
        Tally { calls, failures, timed: calls, latency }
    }

    fn check(tallies: &[Tally], expected: &[(usize, Reason)]) {
        assert_eq!(compare(tallies, &Config::default()), expected, "{tallies:?}");
    }

    #[test]
    fn the_one_that_is_worse_is_found() {
        check(&[tally(100, 0, 5), tally(100, 0, 5), tally(100, 20, 5)], &[(2, Reason::SuccessRate)]);
        check(&[tally(100, 0, 5), tally(100, 0, 90)], &[(1, Reason::Latency)]);
        check(
            &[tally(100, 0, 5), tally(100, 0, 50), tally(100, 0, 90), tally(100, 30, 5), tally(100, 0, 5)],
            &[(3, Reason::SuccessRate), (2, Reason::Latency), (1, Reason::Latency)],
        );
    }

    #[test]
    fn what_is_alike_or_fast_or_hardly_asked_is_left_alone() {
        check(&[], &[]);
        check(&[tally(100, 100, 5)], &[]);
        check(&[tally(100, 50, 5), tally(100, 52, 5)], &[]);
        check(&[tally(100, 0, 1), tally(100, 0, 15)], &[]);
        check(&[tally(100, 0, 5), tally(20, 20, 500)], &[]);
        check(&[tally(20, 0, 5), tally(100, 40, 500)], &[]);
    }

    #[test]
    fn ejections_grow_up_to_their_bound_and_are_forgiven() {
        let (config, now) = (Config::default(), Instant::now());
        let mut ejection = Ejection::default();
        let seconds: Vec<u64> =
            (0..12).map(|_| (ejection.eject(Reason::Latency, now, &config) - now).as_secs()).collect();
        assert_eq!(seconds[..3], [30, 60, 90]);
        assert_eq!(seconds[11], 300);
        assert!(ejection.now(now).is_some() && ejection.now(now + config.ejection_max).is_none());
        ejection.forgive();
        assert_eq!(ejection.times(), 12, "not while it lasts");
        assert!(!ejection.end(now) && ejection.end(now + config.ejection_max));
        (0..12).for_each(|_| ejection.forgive());
        assert_eq!((ejection.eject(Reason::Latency, now, &config) - now).as_secs(), 30);
    }

    #[test]
    fn never_all_are_ejected() {
        let max = |endpoints| Config::default().ejected_max(endpoints);
        assert_eq!([0, 1, 2, 3, 4, 10].map(max), [0, 0, 1, 1, 2, 5]);
    }
}
