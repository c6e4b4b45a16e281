//! How many calls may be in flight at once, found by what they take: while they take as long as they do when there are
//! few, there may be more; when they take longer, they wait for each other somewhere behind, and there are to be fewer.
//!
//! The gradient algorithm of Netflix's concurrency-limits and Envoy's adaptive concurrency, with the median of short
//! windows as its measure, since a mean is moved by a few slow ones. What a call takes alone (the baseline) is learned
//! while few are in flight. While many are, it cannot be seen: when calls have taken longer than they may for a while, it is
//! measured anew with the limit lowered for two windows. The limit begins at its ceiling and is lowered only when
//! calls take longer, never below its floor: who is not overloaded does not notice that there is one.

use std::time::{Duration, Instant};

use serde::Deserialize;

/// `[shed.adaptive]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Off, `max_reads` and `max_writes` are the limits.
    pub enabled: bool,
    /// Calls in flight that are let through whatever they take.
    pub floor: usize,
    /// The limit of a gateway that has just started.
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
            initial: 4096,
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
}

/// The share of the limit from which on it is reached.
const SATURATED: f64 = 0.8;
/// How far more than the limit are in flight while it has just been lowered.
const DRAINS: f64 = 1.1;
/// Fewer say nothing.
pub(super) const MIN_SAMPLES: u32 = 10;
/// The most that one window lowers the limit.
const LOWEST_GRADIENT: f64 = 0.5;
/// The most that one window raises the limit.
const HEADROOM: f64 = 0.15;
/// How fast a baseline follows calls that take longer without waiting for each other.
const DRIFT: f64 = 0.05;

#[derive(Debug)]
pub(super) struct Gradient {
    limit: f64,
    floor: f64,
    ceiling: f64,
    tolerance: f64,
    probe_interval: Duration,
    /// Seconds that a call takes alone.
    baseline: Option<f64>,
    probe: Probe,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Probe {
    /// The baseline may be that of calls that waited for each other.
    Due,
    /// The limit is lowered; what was in flight before still ends.
    Lowered {
        before: f64,
    },
    /// Those that end now began under the lowered limit.
    Measuring {
        before: f64,
    },
    Done {
        at: Instant,
    },
}

impl Gradient {
    pub(super) fn new(config: &Config, ceiling: usize) -> Self {
        let ceiling = ceiling.max(1) as f64;
        let floor = (config.floor.max(1) as f64).min(ceiling);
        Self {
            limit: (config.initial as f64).clamp(floor, ceiling),
            floor,
            ceiling,
            tolerance: config.tolerance.max(1.0),
            probe_interval: config.probe_interval,
            baseline: None,
            probe: Probe::Due,
        }
    }

    /// Goes on by other settings. The limit is kept as far as it may be, and what a call takes alone stays known.
    pub(super) fn resize(&mut self, config: &Config, ceiling: usize) {
        let ceiling = ceiling.max(1) as f64;
        // A limit that nothing has lowered is the ceiling, old or new.
        let was_highest = self.limit >= self.ceiling;
        self.ceiling = ceiling;
        self.floor = (config.floor.max(1) as f64).min(ceiling);
        self.limit = if was_highest { ceiling } else { self.limit.clamp(self.floor, ceiling) };
        (self.tolerance, self.probe_interval) = (config.tolerance.max(1.0), config.probe_interval);
    }

    pub(super) fn limit(&self) -> usize {
        self.limit as usize
    }

    /// Seconds; none while nothing is known.
    pub(super) fn baseline(&self) -> Option<f64> {
        self.baseline
    }

    /// The limit after a window that ended `now`.
    pub(super) fn update(&mut self, window: Window, now: Instant) -> usize {
        if window.samples < MIN_SAMPLES {
            return self.limit();
        }
        let (took, peak) = (window.median.as_secs_f64(), window.peak as f64);
        let late = self.baseline.is_some_and(|baseline| took > baseline * self.tolerance);
        if late && peak > self.floor && !self.is_probing() {
            // What is more than was in flight is no limit yet. One more, or a small limit that grows by less would stay.
            self.limit = self.limit.min(peak + 1.0);
        }
        let saturated = peak >= self.limit * SATURATED;
        // What ends now began when more were let in, and says nothing of the limit that there is.
        let drains = peak > self.limit * DRAINS;
        match self.probe {
            Probe::Lowered { before } => self.probe = Probe::Measuring { before },
            Probe::Measuring { before } => {
                (self.baseline, self.limit) = (Some(took), before);
                self.probe = Probe::Done { at: now };
            }
            // Nothing is known yet: no more than what is surely not too many.
            Probe::Due if saturated && self.baseline.is_none() => self.lower(self.floor),
            Probe::Done { at } if saturated && late && now.duration_since(at) >= self.probe_interval => {
                self.lower(self.limit * LOWEST_GRADIENT);
            }
            Probe::Due | Probe::Done { .. } => {
                if let Probe::Due = self.probe {
                    self.probe = Probe::Done { at: now };
                }
                // As many as the floor do not wait for each other: what they take is what a call takes, whatever that is.
                self.follow(took, peak > self.floor);
                if saturated && !drains {
                    self.step(took);
                }
            }
        }
        self.limit()
    }

    fn is_probing(&self) -> bool {
        matches!(self.probe, Probe::Lowered { .. } | Probe::Measuring { .. })
    }

    fn lower(&mut self, to: f64) {
        self.probe = Probe::Lowered { before: self.limit };
        self.limit = to.max(self.floor);
    }

    /// `many` are in flight: taking longer then is what it is about, and no new baseline.
    fn follow(&mut self, took: f64, many: bool) {
        let baseline = self.baseline.unwrap_or(took);
        let weight = if took < baseline { LOWEST_GRADIENT } else { DRIFT };
        let next = if many && took > baseline { baseline } else { baseline + weight * (took - baseline) };
        self.baseline = Some(next);
    }

    fn step(&mut self, took: f64) {
        let Some(baseline) = self.baseline else { return };
        let gradient = (baseline * self.tolerance / took.max(f64::EPSILON)).clamp(LOWEST_GRADIENT, 1.0);
        // Room for a few more, or a limit that is reached could never grow.
        let headroom = self.limit.sqrt().min(self.limit * HEADROOM);
        self.limit = (self.limit * gradient + headroom).clamp(self.floor, self.ceiling);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `servers` that each take `took` a call, one call at a time, behind a queue: what a full limit gives.
    fn run(gradient: &mut Gradient, servers: f64, took: f64, windows: u32, start: Instant) -> Instant {
        for window in 1..=windows {
            let limit = gradient.limit();
            let median = took * (limit as f64 / servers).max(1.0);
            let median = Duration::from_secs_f64(median);
            gradient.update(Window { median, samples: 100, peak: limit }, start + window * WINDOW);
        }
        start + windows * WINDOW
    }

    const WINDOW: Duration = Duration::from_millis(100);

    fn gradient(floor: usize, initial: usize) -> Gradient {
        Gradient::new(&Config { floor, initial, tolerance: 1.2, ..Config::default() }, 4096)
    }

    #[test]
    fn the_limit_settles_a_little_above_what_is_served_at_once_wherever_it_began() {
        for initial in [8, 64, 1000] {
            let mut gradient = gradient(4, initial);
            run(&mut gradient, 20.0, 0.02, 30, Instant::now());
            assert!((20..=32).contains(&gradient.limit()), "from {initial}: {}", gradient.limit());
        }
    }

    /// Milliseconds of a storm at five times what 32 servers answer, 40 ms each: what was answered in each half second, and the
    /// limit at its end. Calls are queued behind the gateway in the order in which they come.
    fn storm(gradient: &mut Gradient, millis: u64) -> Vec<u32> {
        let start = Instant::now();
        let mut free = [0_u64; 32];
        let mut open = std::collections::VecDeque::new();
        let (mut took, mut peak, mut served) = (Vec::new(), 0, Vec::new());
        for now in 0..millis {
            while open.front().is_some_and(|(_, ends)| *ends <= now) {
                let (began, _) = open.pop_front().unwrap();
                took.push(Duration::from_millis(now - began));
                if served.len() as u64 <= now / 500 {
                    served.push(0);
                }
                *served.last_mut().unwrap() += 1;
            }
            for _ in 0..4 {
                if open.len() < gradient.limit() {
                    let server = free.iter_mut().min().unwrap();
                    *server = (*server).max(now) + 40;
                    open.push_back((now, *server));
                }
            }
            peak = peak.max(open.len());
            if now % 100 == 99 && !took.is_empty() {
                took.sort();
                let (median, samples) = (took[took.len() / 2], took.len() as u32);
                gradient.update(Window { median, samples, peak }, start + Duration::from_millis(now));
                (peak, took) = (open.len(), Vec::new());
            }
        }
        served
    }

    #[test]
    fn a_sudden_storm_is_cut_down_without_starving_what_is_behind() {
        let mut gradient = gradient(4, 4096);
        // Ten at a time, before: what a call takes alone is known.
        for window in 1..20 {
            let before = Window { median: Duration::from_millis(40), samples: 100, peak: 10 };
            gradient.update(before, Instant::now() - Duration::from_secs(10) + window * WINDOW);
        }
        let served = storm(&mut gradient, 10_000);
        // 400 in each half second are all that there can be; in the first the servers begin empty.
        assert!(served[1..].iter().all(|served| *served >= 380), "{served:?}");
        assert!((32..=56).contains(&gradient.limit()), "{}", gradient.limit());
    }

    #[test]
    fn it_follows_servers_that_come_and_go() {
        let mut gradient = gradient(4, 64);
        let now = run(&mut gradient, 20.0, 0.02, 30, Instant::now());
        let now = run(&mut gradient, 100.0, 0.02, 100, now);
        assert!((100..=140).contains(&gradient.limit()), "{}", gradient.limit());
        run(&mut gradient, 10.0, 0.02, 30, now);
        assert!((10..=20).contains(&gradient.limit()), "{}", gradient.limit());
    }

    #[test]
    fn calls_that_take_longer_by_nature_are_no_reason_for_fewer() {
        let mut gradient = gradient(4, 64);
        let now = run(&mut gradient, 20.0, 0.02, 30, Instant::now());
        // Ten times as long each: seen with the next measurement of the baseline.
        run(&mut gradient, 20.0, 0.2, 400, now);
        assert!((20..=32).contains(&gradient.limit()), "{}", gradient.limit());
    }

    #[test]
    fn by_default_nothing_is_lowered_before_calls_take_twice_as_long_and_never_below_the_floor() {
        let config = Config::default();
        let mut gradient = Gradient::new(&config, 4096);
        let start = Instant::now();
        let mut update = |millis, peak, window| {
            let window = start + window * WINDOW;
            gradient.update(Window { median: Duration::from_millis(millis), samples: 100, peak }, window)
        };
        assert_eq!(update(10, 50, 1), 4096);
        // As many as the floor may take as long as they like.
        assert_eq!(update(500, config.floor, 2), 4096);
        assert_eq!(update(19, 3000, 3), 4096);
        let lowered = update(500, 3000, 4);
        assert!((1024..3000).contains(&lowered), "{lowered}");
        for window in 5..1000 {
            let limit = update(500, 1024, window);
            assert!(limit >= 1024, "{limit}");
        }
    }

    #[test]
    fn who_takes_longer_at_the_floor_is_not_kept_there() {
        let mut gradient = gradient(4, 64);
        let now = run(&mut gradient, 20.0, 0.02, 30, Instant::now());
        // All at once five times as long, however few are in flight: found long before the next measurement.
        run(&mut gradient, 20.0, 0.1, 100, now);
        assert!(gradient.limit() >= 16, "{}", gradient.limit());
    }

    #[test]
    fn what_is_not_used_is_not_changed_and_bounds_hold() {
        let mut unused = gradient(4, 64);
        for _ in 0..100 {
            let window = Window { median: Duration::from_secs(1), samples: 100, peak: 10 };
            assert_eq!(unused.update(window, Instant::now()), 64);
        }
        let mut few = gradient(4, 64);
        let window = Window { median: Duration::from_secs(1), samples: 9, peak: 64 };
        assert_eq!(few.update(window, Instant::now()), 64);
        let mut low = gradient(16, 64);
        run(&mut low, 1.0, 0.02, 100, Instant::now());
        // What calls take alone is not seen below the floor: the limit is what that makes of it.
        assert!((16..=23).contains(&low.limit()), "{}", low.limit());
        let mut high = Gradient::new(&Config { floor: 4, initial: 8, ..Config::default() }, 300);
        run(&mut high, 1e6, 0.02, 1000, Instant::now());
        assert_eq!(high.limit(), 300);
    }
}
