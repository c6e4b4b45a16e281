//! How near the process is to the end of what it has, from readings, as a pure function of them and of how it was: what
//! rises at once falls slowly, or shedding and its effect would chase each other.

use std::num::NonZeroU32;
use std::time::Duration;

use serde::Deserialize;

/// `[shed.pressure]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub enabled: bool,
    /// Between two readings.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// The share of the CPU from which on users are throttled.
    pub throttle_at: f64,
    /// The share of CPU or memory from which on idle streams are closed.
    pub close_idle_at: f64,
    /// The share of CPU, memory or connections from which on new connections are refused.
    pub refuse_at: f64,
    /// How far a reading has to fall below its threshold to be below it again.
    pub hysteresis: f64,
    /// The 99th percentile of the time to the head of a read's answer from which on users are throttled.
    #[serde(with = "humantime_serde")]
    pub p99: Duration,
    /// Requests a second of one user while users are throttled.
    pub user_per_second: NonZeroU32,
    /// Streams without a request for longer are idle.
    #[serde(with = "humantime_serde")]
    pub idle: Duration,
    /// Idle streams that are closed at a time.
    pub close_at_most: usize,
    /// The share of what is not premium traffic that is shed while new connections are refused.
    pub shed_share: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: true,
            interval: Duration::from_millis(500),
            throttle_at: 0.85,
            close_idle_at: 0.90,
            refuse_at: 0.95,
            hysteresis: 0.05,
            p99: Duration::from_millis(100),
            user_per_second: NonZeroU32::new(10).unwrap_or(NonZeroU32::MIN),
            idle: Duration::from_secs(300),
            close_at_most: 100,
            shed_share: 0.2,
        }
    }
}

/// What is done; each level does what those below it do, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Level {
    #[default]
    Calm,
    /// Users are throttled.
    Throttle,
    /// Idle streams are closed.
    CloseIdle,
    /// New connections are refused, and a share of what is not premium traffic is shed.
    Refuse,
}

impl Level {
    const ALL: [Self; 4] = [Self::Calm, Self::Throttle, Self::CloseIdle, Self::Refuse];

    pub(super) fn from_number(number: u8) -> Self {
        Self::ALL.get(usize::from(number)).copied().unwrap_or(Self::Refuse)
    }
}

/// Shares are 0 to 1; what cannot be read is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Readings {
    pub(super) cpu: Option<f64>,
    pub(super) memory: Option<f64>,
    pub(super) connections: f64,
    pub(super) p99: Option<Duration>,
}

impl Readings {
    /// The level that these readings alone ask for, with each threshold lowered by `slack`.
    fn level(&self, config: &Config, slack: f64) -> Level {
        let of = |share: Option<f64>, from: Level| {
            let share = share.unwrap_or(0.0);
            let at = [
                (Level::Refuse, config.refuse_at),
                (Level::CloseIdle, config.close_idle_at),
                (Level::Throttle, config.throttle_at),
            ];
            let reached = at.into_iter().find(|(level, at)| *level >= from && share > at - slack);
            reached.map_or(Level::Calm, |(level, _)| level)
        };
        let late = self.p99.is_some_and(|p99| p99.as_secs_f64() > config.p99.as_secs_f64() * (1.0 - slack));
        let late = if late { Level::Throttle } else { Level::Calm };
        of(self.cpu, Level::Throttle)
            .max(of(self.memory, Level::CloseIdle))
            .max(of(Some(self.connections), Level::Refuse))
            .max(late)
    }
}

/// Readings in a row that raise the level: one is a hiccup.
const RISES_AFTER: u32 = 2;
/// Readings in a row that lower it, by one step.
const FALLS_AFTER: u32 = 6;

#[derive(Debug, Default)]
pub(super) struct Pressure {
    level: Level,
    above: u32,
    below: u32,
}

impl Pressure {
    /// From where it stood by other settings.
    pub(super) fn at(level: Level) -> Self {
        Self { level, ..Self::default() }
    }

    pub(super) fn observe(&mut self, readings: &Readings, config: &Config) -> Level {
        let rising = readings.level(config, 0.0);
        let falling = readings.level(config, config.hysteresis);
        self.above = if rising > self.level { self.above + 1 } else { 0 };
        self.below = if falling < self.level { self.below + 1 } else { 0 };
        if self.above >= RISES_AFTER {
            (self.level, self.above) = (rising, 0);
        } else if self.below >= FALLS_AFTER {
            (self.level, self.below) = (Level::from_number(self.level as u8 - 1), 0);
        }
        self.level
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(cpu: f64, memory: f64, connections: f64, p99_ms: u64) -> Readings {
        let p99 = Some(Duration::from_millis(p99_ms));
        Readings { cpu: Some(cpu), memory: Some(memory), connections, p99 }
    }

    #[test]
    fn each_resource_asks_for_what_the_specification_says() {
        let check = |cpu, memory, connections, p99, expected| {
            let level = readings(cpu, memory, connections, p99).level(&Config::default(), 0.0);
            assert_eq!(level, expected, "cpu {cpu} memory {memory} connections {connections} p99 {p99}");
        };
        check(0.85, 0.90, 0.95, 100, Level::Calm);
        check(0.86, 0.0, 0.0, 0, Level::Throttle);
        check(0.91, 0.0, 0.0, 0, Level::CloseIdle);
        check(0.96, 0.0, 0.0, 0, Level::Refuse);
        check(0.0, 0.89, 0.0, 0, Level::Calm);
        check(0.0, 0.91, 0.0, 0, Level::CloseIdle);
        check(0.0, 0.96, 0.0, 0, Level::Refuse);
        check(0.0, 0.0, 0.94, 0, Level::Calm);
        check(0.0, 0.0, 0.96, 0, Level::Refuse);
        check(0.0, 0.0, 0.0, 101, Level::Throttle);
        check(0.86, 0.91, 0.0, 101, Level::CloseIdle);
        assert_eq!(Readings::default().level(&Config::default(), 0.0), Level::Calm);
    }

    #[test]
    fn one_reading_is_a_hiccup_and_relief_comes_step_by_step() {
        let (config, mut pressure) = (Config::default(), Pressure::default());
        let (high, calm) = (readings(0.99, 0.0, 0.0, 0), readings(0.5, 0.0, 0.0, 0));
        let mut observe = |readings: &Readings| pressure.observe(readings, &config);
        assert_eq!(observe(&high), Level::Calm);
        assert_eq!(observe(&calm), Level::Calm);
        assert_eq!(observe(&high), Level::Calm);
        assert_eq!(observe(&high), Level::Refuse);
        for expected in [Level::CloseIdle, Level::Throttle, Level::Calm] {
            for _ in 1..FALLS_AFTER {
                assert!(observe(&calm) > expected);
            }
            assert_eq!(observe(&calm), expected);
        }
        assert_eq!(observe(&calm), Level::Calm);
    }

    #[test]
    fn a_reading_about_a_threshold_does_not_flap() {
        let (config, mut pressure) = (Config::default(), Pressure::default());
        let mut changes = 0;
        let mut last = Level::Calm;
        for n in 0..1000 {
            let level = pressure.observe(&readings(0.85 + f64::from(n % 5 - 1) * 0.01, 0.0, 0.0, 0), &config);
            changes += u32::from(level != last);
            last = level;
        }
        assert_eq!((changes, last), (1, Level::Throttle));
    }
}
