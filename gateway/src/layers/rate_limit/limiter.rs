//! One limit over many keys: governor's GCRA, its map kept small.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use governor::clock::Clock;
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use nearfield_auth::Principal;
use prometheus_client::metrics::counter::Counter;

use super::announce::Standing;
use super::metrics::Metrics;
use super::shares::{Shares, Taken};
use crate::error::Error;

/// All limits count requests in this many seconds.
pub(super) const WINDOW_SECONDS: u64 = 1;

/// Characters that a key is told by: base64 without padding.
pub(super) const PARTITION_CHARS: usize = 8;

/// Who shares a quota, by a hash that is the same in every gateway: a limiter needs no names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key(pub(super) u128);

impl Key {
    /// The same subject in two tenants is two users.
    pub(crate) fn of_user(principal: &Principal) -> Self {
        Self::of([principal.tenant.as_deref().unwrap_or_default(), &principal.subject])
    }

    /// No two lists of parts give the same bytes.
    pub(super) fn of(parts: [&str; 2]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(&part.len().to_le_bytes()).update(part.as_bytes());
        }
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(u128::from_le_bytes(bytes))
    }

    /// As much of it as tells a caller's quotas apart, in base64.
    pub(super) fn partition(self, room: &mut [u8; PARTITION_CHARS]) -> &str {
        let part = &self.0.to_le_bytes()[..PARTITION_CHARS / 4 * 3];
        let written = base64::engine::general_purpose::STANDARD.encode_slice(part, room).unwrap_or(0);
        std::str::from_utf8(&room[..written]).unwrap_or_default()
    }
}

/// What the limiters of a gateway have in common.
#[derive(Clone)]
pub(crate) struct Means {
    pub(crate) max_new_keys: u32,
    pub(crate) metrics: Metrics,
    /// With the gateways that share the quotas; absent: each has all of them.
    pub(crate) shares: Option<Arc<Shares>>,
}

pub(crate) struct Limiter<C: Clock> {
    policy: &'static str,
    per_second: NonZeroU32,
    limiter: RateLimiter<Key, DashMapStateStore<Key>, C, StateInformationMiddleware>,
    clock: C,
    /// Each check adds one key at most, so counting checks bounds the map without asking it for its size.
    checks: AtomicU32,
    max_new_keys: u32,
    refused: Counter,
    shares: Option<Arc<Shares>>,
}

impl<C: Clock + Clone> Limiter<C> {
    pub(crate) fn new(policy: &'static str, per_second: NonZeroU32, means: &Means, clock: C) -> Self {
        Self {
            policy,
            per_second,
            refused: means.metrics.refused(policy),
            shares: means.shares.clone(),
            limiter: RateLimiter::dashmap_with_clock(Quota::per_second(per_second), clock.clone())
                .with_middleware::<StateInformationMiddleware>(),
            clock,
            checks: AtomicU32::new(0),
            max_new_keys: means.max_new_keys.max(1),
        }
    }

    /// One of this policy and quota: `before`, with all that it has counted, when it is such a one.
    pub(crate) fn renewed(
        before: Option<&Arc<Self>>,
        policy: &'static str,
        per_second: NonZeroU32,
        means: &Means,
        clock: C,
    ) -> Arc<Self> {
        let shares = means.shares.as_ref().map(Arc::as_ptr);
        let same = |before: &&Arc<Self>| {
            let sharing = before.shares.as_ref().map(Arc::as_ptr);
            before.per_second == per_second && before.max_new_keys == means.max_new_keys.max(1) && sharing == shares
        };
        match before.filter(same) {
            Some(before) => before.clone(),
            None => Arc::new(Self::new(policy, per_second, means, clock)),
        }
    }

    /// For `/debug`.
    pub(crate) fn view(&self, plan: &str) -> serde_json::Value {
        let keys = self.limiter.len();
        serde_json::json!({
            "policy": self.policy,
            "plan": plan,
            "per_second": self.per_second,
            "keys_counted": keys,
            "shared": self.shares.is_some(),
        })
    }

    /// Counts a request of so many units. The standing is for the answer's headers, whether the request passes or not.
    ///
    /// `units` above the limit count as all of it: they would never pass otherwise.
    pub(crate) fn check(&self, key: Key, units: u32) -> (Standing, Result<(), Error>) {
        let units = NonZeroU32::new(units).unwrap_or(NonZeroU32::MIN).min(self.per_second);
        let checked = match &self.shares {
            Some(shares) => self.check_shared(shares, key, units),
            None => self.check_local(key, units),
        };
        if checked.1.is_err() {
            self.refused.inc();
        }
        checked
    }

    /// By the share of the quota that this gateway holds; by itself as long as it holds none.
    fn check_shared(&self, shares: &Shares, key: Key, units: NonZeroU32) -> (Standing, Result<(), Error>) {
        let (policy, limit) = (self.policy, self.per_second.get());
        match shares.take(policy, key, limit, units.get(), Instant::now()) {
            Taken::Share { left, sharers } => {
                // So that who loses sight of the others goes on from where it was.
                let _ours = self.limiter.check_key_n(&key, self.times(units, sharers));
                self.tidy();
                let remaining = u32::try_from(left).unwrap_or(0).min(limit);
                let reset = u64::from(remaining < limit);
                (Standing { policy, limit, remaining, reset, partition: None }, Ok(()))
            }
            Taken::Nothing => {
                let standing = Standing { policy, limit, remaining: 0, reset: 1, partition: None };
                let retry_after = Duration::from_secs_f64(f64::from(units.get()) / f64::from(limit));
                (standing, Err(Error::Limited { policy, limit, retry_after }))
            }
            Taken::Alone { sharers } => {
                let checked = self.check_local(key, self.times(units, sharers));
                if checked.1.is_ok() {
                    shares.owe(policy, key, units.get());
                }
                checked
            }
        }
    }

    /// Units are worth more where others count the same key.
    fn times(&self, units: NonZeroU32, sharers: u32) -> NonZeroU32 {
        units.saturating_mul(NonZeroU32::new(sharers).unwrap_or(NonZeroU32::MIN)).min(self.per_second)
    }

    fn check_local(&self, key: Key, units: NonZeroU32) -> (Standing, Result<(), Error>) {
        self.tidy();
        let limit = self.per_second.get();
        // There is always capacity for as many as the limit: the other error does not occur.
        match self.limiter.check_key_n(&key, units).unwrap_or_else(|_insufficient| self.limiter.check_key(&key)) {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity();
                let missing = u64::from(limit.saturating_sub(remaining));
                let reset = (missing * WINDOW_SECONDS).div_ceil(u64::from(limit));
                (Standing { policy: self.policy, limit, remaining, reset, partition: None }, Ok(()))
            }
            Err(not_until) => {
                let retry_after = not_until.wait_time_from(self.clock.now());
                let reset = whole_seconds(retry_after);
                let standing = Standing { policy: self.policy, limit, remaining: 0, reset, partition: None };
                (standing, Err(Error::Limited { policy: self.policy, limit, retry_after }))
            }
        }
    }

    /// Drops the keys that have been at rest long enough to be as good as new.
    fn tidy(&self) {
        if self.checks.fetch_add(1, Ordering::Relaxed) + 1 == self.max_new_keys {
            self.checks.store(0, Ordering::Relaxed);
            let before = self.limiter.len();
            self.limiter.retain_recent();
            // After a flood of new keys: its memory goes back, too.
            if before - self.limiter.len().min(before) > self.max_new_keys as usize / 2 {
                self.limiter.shrink_to_fit();
            }
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

    impl Means {
        /// Without other gateways.
        pub(crate) fn alone() -> Self {
            Self { max_new_keys: 1_000, metrics: Metrics::default(), shares: None }
        }
    }

    fn limiter(per_second: u32, max_new_keys: u32) -> (Limiter<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        let means = Means { max_new_keys, ..Means::alone() };
        (Limiter::new("ip", NonZeroU32::new(per_second).unwrap(), &means, clock.clone()), clock)
    }

    #[test]
    fn a_hundred_pass_and_the_next_waits_exactly_its_turn() {
        let (limiter, clock) = limiter(100, 1000);
        for n in 1..=100 {
            let (standing, passed) = limiter.check(Key(7), 1);
            assert!(passed.is_ok(), "{n}");
            assert_eq!(standing.remaining, 100 - n);
        }
        let (standing, refused) = limiter.check(Key(7), 1);
        assert_eq!((standing.remaining, standing.reset), (0, 1));
        let Err(Error::Limited { retry_after, limit: 100, .. }) = refused else { panic!("{refused:?}") };
        assert_eq!(retry_after, Duration::from_millis(10));
        assert!(limiter.check(Key(8), 1).1.is_ok(), "another key");
        clock.advance(Duration::from_millis(10));
        assert!(limiter.check(Key(7), 1).1.is_ok());
        assert!(limiter.check(Key(7), 1).1.is_err());
        clock.advance(Duration::from_secs(1));
        assert_eq!((1..=200).filter(|_| limiter.check(Key(7), 1).1.is_ok()).count(), 100);
    }

    #[test]
    fn what_costs_more_takes_more_and_at_most_all() {
        let (limiter, clock) = limiter(100, 1000);
        assert_eq!(limiter.check(Key(7), 11).0.remaining, 89);
        assert!(limiter.check(Key(7), 90).1.is_err());
        assert_eq!(limiter.check(Key(7), 0).0.remaining, 88, "nothing is for nothing");
        assert!(limiter.check(Key(7), 5_000).1.is_err());
        clock.advance(Duration::from_secs(1));
        assert_eq!(limiter.check(Key(7), 5_000).0.remaining, 0);
    }

    #[test]
    fn a_flood_of_new_keys_costs_bounded_memory_and_no_honest_key_its_state() {
        let (limiter, clock) = limiter(10, 100);
        let mut honest = (0..10).filter(|_| limiter.check(Key(7), 1).1.is_ok()).count();
        for key in 1000..31_000 {
            drop(limiter.check(Key(key), 1));
            clock.advance(Duration::from_micros(100));
            if key % 500 == 0 {
                honest += usize::from(limiter.check(Key(7), 1).1.is_ok());
                // Those of the last second, and as many as come between two looks at all of them.
                assert!(limiter.limiter.len() <= 10_000 + 100, "{}", limiter.limiter.len());
            }
        }
        assert!((39..=40).contains(&honest), "of 10 at once and 10 a second for 3 s: {honest}");
        clock.advance(Duration::from_secs(2));
        (0..100).for_each(|key| drop(limiter.check(Key(key), 1)));
        assert!(limiter.limiter.len() <= 200, "{}", limiter.limiter.len());
    }

    #[test]
    fn keys_at_rest_are_dropped() {
        let (limiter, clock) = limiter(10, 100);
        for round in 0..50 {
            for key in 0..100 {
                drop(limiter.check(Key(round * 100 + key), 1));
            }
            clock.advance(Duration::from_secs(2));
            assert!(limiter.limiter.len() <= 200, "{}", limiter.limiter.len());
        }
    }
}
