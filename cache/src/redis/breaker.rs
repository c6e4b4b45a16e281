//! Says whether to ask Redis at all.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Answers in a row that came too late before Redis counts as failing: one is a hiccup.
const SLOW_LIMIT: u32 = 3;
/// How long nothing is asked after the first failure; doubled with each that follows, …
const SHORTEST_REST: Duration = Duration::from_millis(500);
/// … up to this.
const LONGEST_REST: Duration = Duration::from_secs(15);

/// Closed while Redis answers. A failure opens it; after a rest one probe is let through, and its outcome decides.
#[derive(Default)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Default)]
struct State {
    slow: u32,
    failures: u32,
    rests_until: Option<Instant>,
}

impl Breaker {
    pub(super) fn admits(&self) -> bool {
        let mut state = self.0.lock();
        let Some(until) = state.rests_until else { return true };
        let now = Instant::now();
        if now < until {
            return false;
        }
        // This one is the probe. Should nothing come of it, there will be another.
        state.rests_until = Some(now + SHORTEST_REST);
        true
    }

    pub(super) fn succeeded(&self) {
        let mut state = self.0.lock();
        if state.failures > 0 {
            tracing::info!("Redis answers again");
        }
        *state = State::default();
    }

    /// True when Redis was well before.
    pub(super) fn failed(&self) -> bool {
        let mut state = self.0.lock();
        let rest = SHORTEST_REST.saturating_mul(1 << state.failures.min(10)).min(LONGEST_REST);
        state.failures += 1;
        state.slow = 0;
        state.rests_until = Some(Instant::now() + rest);
        state.failures == 1
    }

    pub(super) fn was_slow(&self) {
        let mut state = self.0.lock();
        state.slow += 1;
        let too_often = state.slow >= SLOW_LIMIT;
        drop(state);
        if too_often {
            self.failed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn after_a_failure_one_probe_at_a_time_is_let_through() {
        let breaker = Breaker::default();
        assert!(breaker.admits());
        assert!(breaker.failed());
        assert!(!breaker.admits());
        tokio::time::advance(SHORTEST_REST).await;
        assert!(breaker.admits());
        assert!(!breaker.admits(), "one probe");
        assert!(!breaker.failed(), "known to be down");
        tokio::time::advance(SHORTEST_REST).await;
        assert!(!breaker.admits(), "the rest is twice as long");
        tokio::time::advance(SHORTEST_REST).await;
        assert!(breaker.admits());
        breaker.succeeded();
        assert!(breaker.admits() && breaker.admits());
    }

    #[tokio::test(start_paused = true)]
    async fn the_rest_is_bounded() {
        let breaker = Breaker::default();
        (0..100).for_each(|_| {
            breaker.failed();
        });
        tokio::time::advance(LONGEST_REST).await;
        assert!(breaker.admits());
    }

    #[tokio::test(start_paused = true)]
    async fn slowness_is_forgiven_unless_it_stays() {
        let breaker = Breaker::default();
        breaker.was_slow();
        breaker.was_slow();
        breaker.succeeded();
        breaker.was_slow();
        breaker.was_slow();
        assert!(breaker.admits());
        breaker.was_slow();
        assert!(!breaker.admits());
    }
}
