//! How many calls may be in flight at once, found by what they take: while they take as long as they do when there are
//! few, there may be more; when they take longer, they wait for each other somewhere behind, and there are to be fewer.
//!
//! The gradient algorithm of Netflix's concurrency-limits and Envoy's adaptive concurrency, with the median of short
//! windows as its measure, since a mean is moved by a few slow ones. It is held against how many were in flight when those
//! calls began: what many take says how few would have been right, and that at once, not after they have drained.
//!
//! The limit is near what was in flight lately, so that a sudden storm never finds it open: as TCP does, it begins
//! small and doubles with each round of answers that come in time, until some do not (slow start), and falls back when
//! it is not used (RFC 7661). What a call takes alone (the baseline) is learned while few are in flight. While many are, it
//! cannot be seen: when calls have taken longer than they may for a while, it is measured anew with the limit lowered for
//! a moment. The limit is never below its floor: who is not overloaded does not notice that there is one.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

/// `[shed.adaptive]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Off, `max_reads` and `max_writes` are the limits.
    pub enabled: bool,
    /// Calls in flight that are let through whatever they take.
    pub floor: usize,
    /// The limit of a gateway that has just started, or had little to do; at least the floor.
    pub initial: usize,
    /// How many times the baseline calls may take before there are to be fewer.
    pub tolerance: f64,
    /// How often the limit is looked at.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// How often the baseline is measured anew while the limit is reached.
    #[serde(with = "humantime_serde")]
    pub probe_interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: true,
            floor: 1024,
            initial: 64,
            tolerance: 2.0,
            window: Duration::from_millis(100),
            probe_interval: Duration::from_secs(30),
        }
    }
}

/// What a window showed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) median: Duration,
    pub(super) samples: u32,
    /// The most that were in flight at once.
    pub(super) peak: usize,
    /// How many were in flight when those that ended began, on the average.
    pub(super) beside: f64,
    pub(super) lasted: Duration,
}

/// The share of the limit from which on it is reached.
const SATURATED: f64 = 0.8;
/// The share of the limit up to which it is not used.
const UNUSED: f64 = 0.5;
/// How soon what is not used is given up: to a third of it, in seconds.
const UNUSED_FOR: f64 = 5.0;
/// Fewer say nothing.
pub(super) const MIN_SAMPLES: u32 = 10;
/// The most that one window lowers the limit.
const LOWEST_GRADIENT: f64 = 0.5;
/// The most that one window raises the limit.
const HEADROOM: f64 = 0.15;
/// Of what was taken away, how much a window gives back.
const REGAINED: f64 = 0.5;
/// How fast a baseline follows calls that take longer without waiting for each other.
const DRIFT: f64 = 0.05;
/// The least and the most of the limit to which it is lowered for a measurement.
const LOWERED_TO: [f64; 2] = [0.25, 0.75];
/// How many more than the limit are in flight, some that may pass it included, once it has been lowered for a while.
const LOWERED: f64 = 1.25;
/// Windows for which the limit stays lowered at most.
const LOWERED_FOR: u32 = 3;

#[derive(Debug)]
pub(super) struct Gradient {
    limit: f64,
    floor: f64,
    initial: f64,
    ceiling: f64,
    tolerance: f64,
    probe_interval: Duration,
    /// Seconds that a call takes alone.
    baseline: Option<f64>,
    growth: Growth,
    /// The last window lowered the limit.
    falls: bool,
    probe: Probe,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Growth {
    /// By one with each answer in time, and down by one with each that is late.
    Doubling {
        /// The highest limit so far.
        highest: f64,
    },
    /// By a few with each window, or half of what was taken away when that was too much.
    Careful {
        /// The limit before it was lowered.
        known: f64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Probe {
    /// The baseline may be that of calls that waited for each other.
    Due,
    /// The limit is lowered, until those that end began under it.
    Lowered {
        before: f64,
        windows: u32,
        /// Of the window before it: seconds that calls took, and how many were in flight when they began.
        took: f64,
        beside: f64,
    },
    Done {
        at: Instant,
    },
}

impl Gradient {
    pub(super) fn new(config: &Config, ceiling: usize) -> Self {
        let mut gradient = Self {
            limit: 0.0,
            floor: 0.0,
            initial: 0.0,
            ceiling: 0.0,
            tolerance: 0.0,
            probe_interval: Duration::ZERO,
            baseline: None,
            growth: Growth::Doubling { highest: 0.0 },
            falls: false,
            probe: Probe::Due,
        };
        gradient.resize(config, ceiling);
        gradient
    }

    /// Goes on by other settings. The limit is kept as far as it may be, and what a call takes alone stays known.
    pub(super) fn resize(&mut self, config: &Config, ceiling: usize) {
        self.ceiling = ceiling.max(1) as f64;
        self.floor = (config.floor.max(1) as f64).min(self.ceiling);
        self.initial = (config.initial as f64).clamp(self.floor, self.ceiling);
        let least = if matches!(self.growth, Growth::Careful { .. }) { self.floor } else { self.initial };
        self.limit = self.limit.clamp(least, self.ceiling);
        (self.tolerance, self.probe_interval) = (config.tolerance.max(1.0), config.probe_interval);
    }

    pub(super) fn limit(&self) -> usize {
        self.limit as usize
    }

    /// Seconds; none while nothing is known.
    pub(super) fn baseline(&self) -> Option<f64> {
        self.baseline
    }

    /// The limit after an answer, while `in_flight` were so with it.
    pub(super) fn answered(&mut self, took: Duration, in_flight: usize) -> usize {
        let (Growth::Doubling { highest }, Some(baseline), false) = (self.growth, self.baseline, self.is_probing())
        else {
            return self.limit();
        };
        if in_flight as f64 >= self.limit * SATURATED {
            let in_time = took.as_secs_f64() <= baseline * self.tolerance;
            let next = if in_time { self.limit + 1.0 } else { self.limit - 1.0 };
            self.limit = next.clamp(self.floor, self.ceiling);
            let highest = highest.max(self.limit);
            let is_over = highest - self.limit >= f64::from(MIN_SAMPLES);
            self.growth = if is_over { Growth::Careful { known: self.limit } } else { Growth::Doubling { highest } };
        }
        self.limit()
    }

    /// The limit after a window that ended `now`.
    pub(super) fn update(&mut self, window: Window, now: Instant) -> usize {
        let (took, peak) = (window.median.as_secs_f64(), window.peak as f64);
        if peak <= self.limit * UNUSED && !self.is_probing() {
            self.fall_back(peak, window.lasted);
        }
        if window.samples < MIN_SAMPLES {
            return self.limit();
        }
        let saturated = peak >= self.limit * SATURATED;
        match self.probe {
            Probe::Lowered { ref mut windows, .. }
                if window.beside > self.limit * LOWERED && *windows < LOWERED_FOR =>
            {
                *windows += 1;
            }
            Probe::Lowered { before, took: took_before, beside, .. } => {
                (self.baseline, self.limit) = (Some(took), before);
                self.probe = Probe::Done { at: now };
                self.step(took_before, beside);
            }
            // Nothing is known yet: no more than what is surely not too many.
            Probe::Due if saturated && self.baseline.is_none() => self.lower(self.floor, window),
            Probe::Done { at } if saturated && self.is_late(took) && now.duration_since(at) >= self.probe_interval => {
                // Fewer than what would be right if the baseline were.
                let right = window.beside * self.baseline.unwrap_or(took) / took;
                let [least, most] = LOWERED_TO.map(|share| self.limit * share);
                self.lower((right * LOWERED_TO[1]).clamp(least, most), window);
            }
            Probe::Due | Probe::Done { .. } => {
                if let Probe::Due = self.probe {
                    self.probe = Probe::Done { at: now };
                }
                // As many as the floor do not wait for each other: what they take is what a call takes, whatever that is.
                self.follow(took, peak > self.floor);
                if saturated {
                    self.step(took, window.beside);
                }
            }
        }
        self.limit()
    }

    fn is_late(&self, took: f64) -> bool {
        self.baseline.is_some_and(|baseline| took > baseline * self.tolerance)
    }

    fn is_probing(&self) -> bool {
        matches!(self.probe, Probe::Lowered { .. })
    }

    fn lower(&mut self, to: f64, window: Window) {
        let (took, beside) = (window.median.as_secs_f64(), window.beside);
        self.probe = Probe::Lowered { before: self.limit, windows: 0, took, beside };
        self.limit = to.max(self.floor);
    }

    /// Most of the limit was not used: so many at once are not known to be answered in time.
    fn fall_back(&mut self, peak: f64, lasted: Duration) {
        let kept = (-lasted.as_secs_f64() / UNUSED_FOR).exp();
        self.limit = self.limit.min((self.limit * kept).max(peak / UNUSED).max(self.initial));
        self.growth = Growth::Doubling { highest: self.limit };
    }

    /// `many` are in flight: taking longer then is what it is about, and no new baseline.
    fn follow(&mut self, took: f64, many: bool) {
        let baseline = self.baseline.unwrap_or(took);
        let weight = if took < baseline { LOWEST_GRADIENT } else { DRIFT };
        let next = if many && took > baseline { baseline } else { baseline + weight * (took - baseline) };
        self.baseline = Some(next);
    }

    fn step(&mut self, took: f64, beside: f64) {
        let Some(baseline) = self.baseline else { return };
        let gradient = baseline * self.tolerance / took.max(f64::EPSILON);
        // Room for a few more, or a limit that is reached could never grow.
        let headroom = self.limit.sqrt().min(self.limit * HEADROOM);
        let next = match self.growth {
            Growth::Doubling { .. } if gradient >= 1.0 => return,
            Growth::Careful { known } if gradient >= 1.0 => self.limit + headroom.max((known - self.limit) * REGAINED),
            growth => {
                let known = if let Growth::Careful { known } = growth
                    && self.falls
                {
                    known
                } else {
                    self.limit
                };
                self.growth = Growth::Careful { known };
                (beside * gradient + headroom).clamp(self.limit * LOWEST_GRADIENT, self.limit + headroom)
            }
        };
        self.falls = next < self.limit;
        self.limit = next.clamp(self.floor, self.ceiling);
    }
}

#[cfg(test)]
mod tests;
