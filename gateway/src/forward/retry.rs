//! What may be tried again, and how often.
//!
//! A call that never left this process may go elsewhere whatever it asks. One that may have been processed is repeated
//! only when it reads. Repeats are paid from a budget, so that a region in trouble is not asked twice for everything.

use std::sync::atomic::{AtomicI64, Ordering};

use serde::Deserialize;

/// The settings' section `[upstream.retry]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Endpoints that one call is sent to at most, the first included.
    pub attempts: u32,
    /// Repeats per call in the long run: 0.2 lets one call in five be repeated.
    pub budget_ratio: f64,
    /// Repeats that a quiet time saves up for a bad moment.
    pub budget_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { attempts: 3, budget_ratio: 0.2, budget_max: 100 }
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
    pub fn new(config: &Config) -> Self {
        let max = i64::from(config.budget_max) * REPEAT;
        let deposit = (config.budget_ratio.clamp(0.0, 1.0) * REPEAT as f64) as i64;
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
        let budget = Budget::new(&Config { attempts: 3, budget_ratio: 0.25, budget_max: 2 });
        assert!(budget.withdraw() && budget.withdraw());
        assert!(!budget.withdraw());
        (0..4).for_each(|_| budget.deposit());
        assert!(budget.withdraw());
        assert!(!budget.withdraw());
    }

    #[test]
    fn the_budget_saves_no_more_than_its_bound() {
        let budget = Budget::new(&Config { attempts: 3, budget_ratio: 1.0, budget_max: 1 });
        (0..100).for_each(|_| budget.deposit());
        assert!(budget.withdraw());
        assert!(!budget.withdraw());
    }
}
