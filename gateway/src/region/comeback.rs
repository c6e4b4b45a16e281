//! How a region that was lost gets its clients back: in steps, so that its cold caches and those who come back with it do
//! not make it ill again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::decision::Health;

/// The settings' section `[topology.comeback]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The share of its clients that a step gives back.
    pub step: f64,
    /// Between two steps; the first is taken at once.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { step: 0.1, interval: Duration::from_secs(300) }
    }
}

/// One region's way back.
#[derive(Debug)]
pub(super) struct Comeback {
    /// [`WELL`], [`LOST`], or the time at which it came back, in milliseconds and above both.
    stands: AtomicU64,
    began: Instant,
}

const WELL: u64 = 0;
const LOST: u64 = 1;

impl Default for Comeback {
    fn default() -> Self {
        Self { stands: AtomicU64::new(WELL), began: Instant::now() }
    }
}

impl Comeback {
    /// The share of its clients that a region is given, 0 to 1, which is seen to be of this health now.
    pub(super) fn share(&self, health: Health, config: &Config) -> f64 {
        let stands = self.stands.load(Ordering::Relaxed);
        match health {
            // Nobody who looks is on the way to change it at the same time but for the same reason.
            Health::Unhealthy if stands != LOST => self.stands.store(LOST, Ordering::Relaxed),
            Health::Healthy if stands > WELL => return self.share_at(stands, self.now(), config),
            Health::Absent | Health::Healthy | Health::Unhealthy | Health::Unknown => {}
        }
        1.0
    }

    fn share_at(&self, stands: u64, now: u64, config: &Config) -> f64 {
        let since = if stands == LOST { now } else { stands };
        let share = share_after(Duration::from_millis(now.saturating_sub(since)), config);
        let next = if share < 1.0 { since } else { WELL };
        if next != stands {
            // Who comes second finds it done.
            let _ = self.stands.compare_exchange(stands, next, Ordering::Relaxed, Ordering::Relaxed);
        }
        share
    }

    fn now(&self) -> u64 {
        LOST + 1 + u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX / 2)
    }
}

fn share_after(elapsed: Duration, config: &Config) -> f64 {
    let steps = 1.0 + (elapsed.as_secs_f64() / config.interval.as_secs_f64().max(f64::MIN_POSITIVE)).floor();
    (steps * config.step).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_come_back_in_steps() {
        let share = |minutes: u64| share_after(Duration::from_secs(60 * minutes), &Config::default());
        let rounded = |minutes| (share(minutes) * 100.0).round();
        assert_eq!([0, 4, 5, 14, 15, 44, 45, 500].map(rounded), [10.0, 10.0, 20.0, 30.0, 40.0, 90.0, 100.0, 100.0]);
        let at_once = Config { interval: Duration::ZERO, ..Config::default() };
        assert_eq!(share_after(Duration::from_millis(1), &at_once), 1.0);
    }

    #[test]
    fn only_a_region_that_was_lost_has_a_way_back_and_one_lost_again_begins_anew() {
        let (region, config) = (Comeback::default(), Config::default());
        assert_eq!(region.share(Health::Unknown, &config), 1.0);
        assert_eq!(region.share(Health::Healthy, &config), 1.0);
        region.share(Health::Unhealthy, &config);
        assert_eq!(region.share(Health::Healthy, &config), 0.1);
        let since = region.stands.load(Ordering::Relaxed);
        assert_eq!(region.share_at(since, since + 600_000, &config), 0.1 * 3.0);
        region.share(Health::Unhealthy, &config);
        assert_eq!(region.share(Health::Healthy, &config), 0.1);
        let since = region.stands.load(Ordering::Relaxed);
        assert_eq!(region.share_at(since, since + 3_000_000, &config), 1.0);
        assert_eq!(region.share(Health::Healthy, &config), 1.0);
    }
}
