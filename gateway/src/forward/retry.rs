//! What may be tried again, and how often.
//!
//! A call that never left this process may go elsewhere whatever it asks. One that may have been processed is repeated
//! only when it reads. Repeats are paid from a budget, so that a region in trouble is not asked twice for everything.
//! A read that is late is asked for twice at once (a hedge, after Dean and Barroso, "The Tail at Scale"), from a smaller
//! budget.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use serde::Deserialize;

/// The settings' section `[upstream.retry]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Endpoints that one call is sent to at most, the first included.
    pub attempts: u32,
    /// Repeats per call in the long run: 0.2 lets one call in five be repeated.
    pub budget_ratio: f64,
    /// Repeats that a quiet time saves up for a bad moment.
    pub budget_max: u32,
    /// The longest pause before a call's first repeat; twice as long before each further one. The pause itself is random
    /// up to that, so that calls that failed together do not come back together.
    #[serde(with = "humantime_serde")]
    pub backoff: Duration,
    #[serde(with = "humantime_serde")]
    pub backoff_max: Duration,
    /// A read that is silent for so long, and for four times what its kind takes, hangs: it is asked elsewhere too.
    #[serde(with = "humantime_serde")]
    pub patience: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            attempts: 3,
            budget_ratio: 0.2,
            budget_max: 100,
            backoff: Duration::from_millis(5),
            backoff_max: Duration::from_millis(100),
            patience: Duration::from_secs(1),
        }
    }
}

impl Config {
    /// The pause before repeat `number`, counted from 0: a random part of what doubles with each.
    pub(crate) fn pause(&self, number: u32) -> Duration {
        let longest = self.backoff.saturating_mul(1 << number.min(16)).min(self.backoff_max);
        longest.mul_f64(rand::random::<f64>())
    }
}

/// The settings' section `[upstream.hedge]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hedging {
    pub enabled: bool,
    /// A read that takes longer than this share of its kind did in the last half minute is asked for twice.
    pub quantile: f64,
    /// Never earlier than this.
    #[serde(with = "humantime_serde")]
    pub delay_min: Duration,
    /// Hedges per call in the long run.
    pub budget_ratio: f64,
    /// Hedges that a quiet time saves up.
    pub budget_max: u32,
}

impl Default for Hedging {
    fn default() -> Self {
        Self { enabled: true, quantile: 0.95, delay_min: Duration::from_millis(2), budget_ratio: 0.05, budget_max: 20 }
    }
}

/// Whether a call may be sent a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Safety {
    /// It changes something: only when it certainly was not processed.
    Once,
    /// It changes nothing.
    Repeatable,
}

/// A token bucket that calls fill and repeats empty.
#[derive(Debug)]
pub struct Budget {
    /// In thousandths of a repeat.
    tokens: AtomicI64,
    deposit: i64,
    max: i64,
}

impl Budget {
    /// Earns `ratio` of a repeat a call, and keeps `max` at most.
    pub fn new(ratio: f64, max: u32) -> Self {
        let max = i64::from(max) * REPEAT;
        let deposit = (ratio.clamp(0.0, 1.0) * REPEAT as f64) as i64;
        Self { tokens: AtomicI64::new(max), deposit, max }
    }

    /// A call was made.
    pub fn deposit(&self) {
        let add = |tokens: i64| (tokens < self.max).then(|| (tokens + self.deposit).min(self.max));
        let _ = self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// May a call be repeated? True takes its price.
    pub fn withdraw(&self) -> bool {
        let take = |tokens: i64| (tokens >= REPEAT).then(|| tokens - REPEAT);
        self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

const REPEAT: i64 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_runs_out_and_is_earned_again() {
        let budget = Budget::new(0.25, 2);
        assert!(budget.withdraw() && budget.withdraw());
        assert!(!budget.withdraw());
        (0..4).for_each(|_| budget.deposit());
        assert!(budget.withdraw());
        assert!(!budget.withdraw());
    }

    #[test]
    fn pauses_differ_and_grow_up_to_their_bound() {
        let config = Config::default();
        let longest = |number| (0..200).map(|_| config.pause(number)).max().unwrap();
        assert!(longest(0) <= config.backoff && longest(0) > config.backoff / 2);
        assert!(longest(2) > config.backoff && longest(2) <= config.backoff * 4);
        assert!(longest(60) > config.backoff_max / 2 && longest(60) <= config.backoff_max);
    }

    #[test]
    fn the_budget_saves_no_more_than_its_bound() {
        let budget = Budget::new(1.0, 1);
        (0..100).for_each(|_| budget.deposit());
        assert!(budget.withdraw());
        assert!(!budget.withdraw());
    }
}
