//! The room that one class of calls has, and the queue in front of it.
//!
//! Who finds no place waits a moment: those who matter more go first, and among equals the one that came first, until the
//! queue has not been empty for [`QueueConfig::interval`]. Then the gateway is overloaded and the newest goes first,
//! since its caller is the likeliest to be still there, and waits [`QueueConfig::target`] at most. Those who are high or
//! critical may be too many for a moment only: among them it does once the oldest has used up half of its patience. Adaptive
//! LIFO and CoDel as Facebook describes them ("Fail at Scale", 2015). A place that was given is kept until the call has ended.
//!
//! Critical calls do not wait for others to end: some of them may be in flight beyond the limit ([`RESERVE`]). Who comes
//! behind them waits until there are fewer than the limit again, so that they are at the others' cost.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::criticality::Criticality;
use super::gradient::{self, Gradient, Window};
use super::latencies::Latencies;
use place::Begun;

pub use place::Place;

mod place;

/// `[shed.queue]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueueConfig {
    /// Calls of a class that wait at once; past it the one that matters least gives way.
    pub max_waiting: usize,
    /// The longest that a call waits for a place.
    #[serde(with = "humantime_serde")]
    pub patience: Duration,
    /// The same under overload, for what is not high or critical.
    #[serde(with = "humantime_serde")]
    pub target: Duration,
    /// A queue that has not been empty for so long is overload.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            max_waiting: 1024,
            patience: Duration::from_millis(250),
            target: Duration::from_millis(10),
            interval: Duration::from_millis(100),
        }
    }
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The queue is as long as it may be.
    Crowded,
    /// None became free in time.
    Waited,
}

/// Windows' worth of time for which a window waits for calls to end.
const LONGEST_WINDOW: u32 = 20;
/// Of the limit, how many critical calls may be in flight whatever else is.
const RESERVE: f64 = 0.5;

/// Clones are the same room.
#[derive(Clone)]
pub struct Room(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// For a scrape, which does not take the lock.
    seen: Seen,
}

#[derive(Default)]
struct Seen {
    limit: AtomicU64,
    in_flight: AtomicU64,
    waiting: AtomicU64,
}

struct State {
    queue: QueueConfig,
    window: Duration,
    adaptive: bool,
    gradient: Gradient,
    limit: usize,
    ceiling: usize,
    in_flight: usize,
    /// Of these.
    critical: usize,
    peak: usize,
    latencies: Latencies,
    /// Over the calls in `latencies`: how many were in flight when each began.
    beside: u64,
    window_began: Instant,
    waiting: [VecDeque<Waiter>; Criticality::COUNT],
    last_empty: Instant,
}

struct Waiter {
    until: Instant,
    grant: oneshot::Sender<Place>,
}

impl Room {
    /// At most `ceiling` calls, or fewer as they are found to take longer.
    pub fn new(adaptive: &gradient::Config, queue: &QueueConfig, ceiling: usize) -> Self {
        let gradient = Gradient::new(adaptive, ceiling);
        let limit = if adaptive.enabled { gradient.limit() } else { ceiling };
        let now = Instant::now();
        let state = State {
            queue: queue.clone(),
            window: adaptive.window,
            adaptive: adaptive.enabled,
            gradient,
            limit,
            ceiling,
            in_flight: 0,
            critical: 0,
            peak: 0,
            latencies: Latencies::default(),
            beside: 0,
            window_began: now,
            waiting: Default::default(),
            last_empty: now,
        };
        let seen = Seen { limit: AtomicU64::new(limit as u64), ..Seen::default() };
        Self(Arc::new(Shared { state: Mutex::new(state), seen }))
    }

    /// Goes on by other settings, with what was learned of calls, and with those that are in and wait.
    pub(super) fn resize(&self, adaptive: &gradient::Config, queue: &QueueConfig, ceiling: usize) {
        let mut state = self.0.state.lock();
        state.gradient.resize(adaptive, ceiling);
        state.limit = if adaptive.enabled { state.gradient.limit() } else { ceiling };
        (state.queue, state.window, state.adaptive) = (queue.clone(), adaptive.window, adaptive.enabled);
        state.ceiling = ceiling;
        self.show(&state);
    }

    /// A place now, or after a wait. Dropping the future gives the wait up.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn enter(&self, criticality: Criticality, deadline: Option<std::time::Instant>) -> Result<Place, Full> {
        let (until, granted) = match self.ask(criticality, deadline) {
            Ok(place) => return Ok(place),
            Err(waiting) => waiting,
        };
        match tokio::time::timeout_at(until, granted).await {
            Ok(Ok(place)) => Ok(place),
            // Somebody who matters more, or came later, was given the wait.
            Ok(Err(_evicted)) => Err(Full::Crowded),
            Err(_elapsed) => Err(Full::Waited),
        }
    }

    /// A place, or until when to wait for what.
    fn ask(
        &self,
        criticality: Criticality,
        deadline: Option<std::time::Instant>,
    ) -> Result<Place, (Instant, oneshot::Receiver<Place>)> {
        let now = Instant::now();
        let mut state = self.0.state.lock();
        state.forget_gone();
        if state.in_flight == 0 {
            // Nothing ended lately that would have.
            state.pass_window(now);
        }
        // Who comes now does not go before who waits, unless it matters more.
        if state.has_place(criticality) && state.none_before(criticality) {
            let begun = state.take(criticality, now);
            self.show(&state);
            return Ok(Place::new(self.clone(), begun));
        }
        let overloaded = state.is_overloaded(now);
        let hurried = overloaded && criticality < Criticality::High;
        let patience = if hurried { state.queue.target } else { state.queue.patience };
        let until = deadline.map_or(now + patience, |deadline| (now + patience).min(deadline.into()));
        let (grant, granted) = oneshot::channel();
        if state.make_way(criticality) {
            state.waiting[criticality as usize].push_back(Waiter { until, grant });
        }
        self.show(&state);
        // A sender that was not queued is gone by now, and says so.
        Err((until, granted))
    }

    /// A call ended; `took` is what is known of how long it waited for others behind this gateway.
    fn leave(&self, begun: Begun, took: Option<Duration>) {
        let now = Instant::now();
        let mut state = self.0.state.lock();
        if let Some(took) = took {
            state.record(took, begun.beside);
        }
        state.give_up(begun.criticality);
        state.pass_window(now);
        let overloaded = state.is_overloaded(now);
        while let Some((criticality, waiter)) = state.next(overloaded, now) {
            if waiter.until <= now {
                continue;
            }
            let begun = state.take(criticality, now);
            if let Err(place) = waiter.grant.send(Place::new(self.clone(), begun)) {
                place.forget();
                state.give_up(criticality);
            }
        }
        if state.waiting.iter().all(VecDeque::is_empty) {
            state.last_empty = now;
        }
        self.show(&state);
    }

    fn show(&self, state: &State) {
        let waiting: usize = state.waiting.iter().map(VecDeque::len).sum();
        self.0.seen.limit.store(state.limit as u64, Ordering::Relaxed);
        self.0.seen.in_flight.store(state.in_flight as u64, Ordering::Relaxed);
        self.0.seen.waiting.store(waiting as u64, Ordering::Relaxed);
    }

    /// Calls that may be in flight, that are, and that wait to be.
    pub fn seen(&self) -> [u64; 3] {
        let seen = &self.0.seen;
        [&seen.limit, &seen.in_flight, &seen.waiting].map(|value| value.load(Ordering::Relaxed))
    }
}

impl State {
    fn has_place(&self, criticality: Criticality) -> bool {
        let reserve = (self.limit as f64 * RESERVE) as usize;
        let is_reserved = || criticality == Criticality::Critical && self.critical < reserve;
        self.in_flight < self.limit || (self.in_flight < self.ceiling && is_reserved())
    }

    fn take(&mut self, criticality: Criticality, at: Instant) -> Begun {
        self.in_flight += 1;
        self.critical += usize::from(criticality == Criticality::Critical);
        self.peak = self.peak.max(self.in_flight);
        Begun { at, criticality, beside: self.in_flight }
    }

    fn give_up(&mut self, criticality: Criticality) {
        self.in_flight -= 1;
        self.critical -= usize::from(criticality == Criticality::Critical);
    }

    /// How long a call took that is in flight yet.
    fn record(&mut self, took: Duration, beside: usize) {
        self.latencies.record(took);
        self.beside += beside as u64;
        if self.adaptive {
            self.limit = self.gradient.answered(took, self.in_flight);
        }
    }

    fn none_before(&self, criticality: Criticality) -> bool {
        self.waiting[criticality as usize..].iter().all(VecDeque::is_empty)
    }

    /// Those at the front waited longest; of those whose callers left, nobody is told.
    fn forget_gone(&mut self) {
        for queue in &mut self.waiting {
            while queue.front().is_some_and(|waiter| waiter.grant.is_closed()) {
                queue.pop_front();
            }
        }
    }

    fn is_overloaded(&mut self, now: Instant) -> bool {
        if self.waiting.iter().all(VecDeque::is_empty) {
            self.last_empty = now;
        }
        now.duration_since(self.last_empty) >= self.queue.interval
    }

    /// True when there is room in the queue, if need be by sending away the one that waited longest of those that matter
    /// least, and no more than `criticality`.
    fn make_way(&mut self, criticality: Criticality) -> bool {
        if self.waiting.iter().map(VecDeque::len).sum::<usize>() < self.queue.max_waiting {
            return true;
        }
        let least = self.waiting[..=criticality as usize].iter_mut().find(|queue| !queue.is_empty());
        least.and_then(VecDeque::pop_front).is_some()
    }

    /// The next that there is a place for.
    fn next(&mut self, overloaded: bool, now: Instant) -> Option<(Criticality, Waiter)> {
        let first = Criticality::ALL.into_iter().rev().find(|one| !self.waiting[*one as usize].is_empty())?;
        if !self.has_place(first) {
            return None;
        }
        let queue = &mut self.waiting[first as usize];
        let is_old = queue.front().is_some_and(|oldest| oldest.until.duration_since(now) < self.queue.patience / 2);
        let waiter = if overloaded && is_old { queue.pop_back() } else { queue.pop_front() };
        waiter.map(|waiter| (first, waiter))
    }

    /// A window lasts until it has seen enough; what is too old by then is forgotten.
    fn pass_window(&mut self, now: Instant) {
        let lasted = now.duration_since(self.window_began);
        let longest = self.window * LONGEST_WINDOW;
        if lasted < self.window || (self.latencies.total() < gradient::MIN_SAMPLES && lasted < longest) {
            return;
        }
        let samples = self.latencies.total();
        let beside = self.beside as f64 / f64::from(samples.max(1));
        let window = Window { median: self.latencies.quantile(0.5), samples, peak: self.peak, beside, lasted };
        if self.adaptive {
            self.limit = self.gradient.update(window, now);
        }
        self.latencies.clear();
        (self.beside, self.peak, self.window_began) = (0, self.in_flight, now);
    }
}

#[cfg(test)]
mod storm;
#[cfg(test)]
mod tests;
