//! One limit over many keys: governor's GCRA, its map kept small.

use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};

use super::announce::Standing;
use crate::error::Error;

/// All limits count requests in this many seconds.
pub(super) const WINDOW_SECONDS: u64 = 1;

pub(super) struct Limiter<K: Hash + Eq + Clone, C: Clock> {
    policy: &'static str,
    per_second: NonZeroU32,
    limiter: RateLimiter<K, DashMapStateStore<K>, C, StateInformationMiddleware>,
    clock: C,
    /// Each check adds one key at most, so counting checks bounds the map without asking it for its size.
    checks: AtomicU32,
    max_new_keys: u32,
}

impl<K: Hash + Eq + Clone, C: Clock + Clone> Limiter<K, C> {
    pub(super) fn new(policy: &'static str, per_second: NonZeroU32, max_new_keys: u32, clock: C) -> Self {
        Self {
            policy,
            per_second,
            limiter: RateLimiter::dashmap_with_clock(Quota::per_second(per_second), clock.clone())
                .with_middleware::<StateInformationMiddleware>(),
            clock,
            checks: AtomicU32::new(0),
            max_new_keys: max_new_keys.max(1),
        }
    }

    /// Counts one request. The standing is for the answer's headers, whether the request passes or not.
    pub(super) fn check(&self, key: &K) -> (Standing, Result<(), Error>) {
        self.tidy();
        let limit = self.per_second.get();
        match self.limiter.check_key(key) {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity();
                let missing = u64::from(limit.saturating_sub(remaining));
                let reset = (missing * WINDOW_SECONDS).div_ceil(u64::from(limit));
                (Standing { policy: self.policy, limit, remaining, reset }, Ok(()))
            }
            Err(not_until) => {
                let retry_after = not_until.wait_time_from(self.clock.now());
                let reset = whole_seconds(retry_after);
                let standing = Standing { policy: self.policy, limit, remaining: 0, reset };
                (standing, Err(Error::Limited { policy: self.policy, limit, retry_after }))
            }
        }
    }

    /// Drops the keys that have been at rest long enough to be as good as new.
    fn tidy(&self) {
        if self.checks.fetch_add(1, Ordering::Relaxed) + 1 == self.max_new_keys {
            self.checks.store(0, Ordering::Relaxed);
            self.limiter.retain_recent();
        }
    }
}

/// Rounded up: coming back a moment too early is refused again.
fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn limiter(per_second: u32, max_new_keys: u32) -> (Limiter<u32, FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (Limiter::new("ip", NonZeroU32::new(per_second).unwrap(), max_new_keys, clock.clone()), clock)
    }

    #[test]
    fn a_hundred_pass_and_the_next_waits_exactly_its_turn() {
        let (limiter, clock) = limiter(100, 1000);
        for n in 1..=100 {
            let (standing, passed) = limiter.check(&7);
            assert!(passed.is_ok(), "{n}");
            assert_eq!(standing.remaining, 100 - n);
        }
        let (standing, refused) = limiter.check(&7);
        assert_eq!((standing.remaining, standing.reset), (0, 1));
        let Err(Error::Limited { retry_after, limit: 100, .. }) = refused else { panic!("{refused:?}") };
        assert_eq!(retry_after, Duration::from_millis(10));
        assert!(limiter.check(&8).1.is_ok(), "another key");
        clock.advance(Duration::from_millis(10));
        assert!(limiter.check(&7).1.is_ok());
        assert!(limiter.check(&7).1.is_err());
        clock.advance(Duration::from_secs(1));
        assert_eq!((1..=200).filter(|_| limiter.check(&7).1.is_ok()).count(), 100);
    }

    #[test]
    fn keys_at_rest_are_dropped() {
        let (limiter, clock) = limiter(10, 100);
        for round in 0..50 {
            for key in 0..100 {
                drop(limiter.check(&(round * 100 + key)));
            }
            clock.advance(Duration::from_secs(2));
            assert!(limiter.limiter.len() <= 200, "{}", limiter.limiter.len());
        }
    }
}
