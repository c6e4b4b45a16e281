//! The room that one class of calls has, and the queue in front of it.
//!
//! Who finds no place waits a moment: those who matter more go first, and among equals the one that came first, until the
//! queue has not been empty for [`QueueConfig::interval`]. Then the gateway is overloaded and the newest goes first,
//! since its caller is the likeliest to be still there, and waits [`QueueConfig::target`] at most: adaptive LIFO and
//! CoDel as Facebook describes them ("Fail at Scale", 2015). A place that was given is kept until the call has ended.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::oneshot;

use super::criticality::Criticality;
use super::gradient::{self, Gradient, Window};
use super::latencies::Latencies;

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
    in_flight: usize,
    peak: usize,
    latencies: Latencies,
    window_began: Instant,
    waiting: [VecDeque<Waiter>; Criticality::COUNT],
    last_empty: Instant,
}

struct Waiter {
    until: Instant,
    grant: oneshot::Sender<Place>,
}

/// A call's place. Dropped, it is free for the next.
pub struct Place {
    room: Room,
    entered: Instant,
    state: PlaceState,
}

#[derive(Clone, Copy, PartialEq)]
enum PlaceState {
    /// The call has not been answered.
    Open,
    Answered,
    /// It never was a place.
    Void,
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
            in_flight: 0,
            peak: 0,
            latencies: Latencies::default(),
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
        self.show(&state);
    }

    /// A place now, or after a wait. Dropping the future gives the wait up.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn enter(&self, criticality: Criticality, deadline: Option<Instant>) -> Result<Place, Full> {
        let (until, granted) = match self.ask(criticality, deadline) {
            Ok(place) => return Ok(place),
            Err(waiting) => waiting,
        };
        match tokio::time::timeout_at(until.into(), granted).await {
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
        deadline: Option<Instant>,
    ) -> Result<Place, (Instant, oneshot::Receiver<Place>)> {
        let now = Instant::now();
        let mut state = self.0.state.lock();
        state.forget_gone();
        // Who comes now does not go before who waits, unless it matters more.
        if state.in_flight < state.limit && state.none_before(criticality) {
            state.take();
            self.show(&state);
            return Ok(self.place(now));
        }
        let overloaded = state.is_overloaded(now);
        let hurried = overloaded && criticality < Criticality::High;
        let patience = if hurried { state.queue.target } else { state.queue.patience };
        let until = deadline.map_or(now + patience, |deadline| deadline.min(now + patience));
        let (grant, granted) = oneshot::channel();
        if state.make_way(criticality) {
            state.waiting[criticality as usize].push_back(Waiter { until, grant });
        }
        self.show(&state);
        // A sender that was not queued is gone by now, and says so.
        Err((until, granted))
    }

    fn place(&self, entered: Instant) -> Place {
        Place { room: self.clone(), entered, state: PlaceState::Open }
    }

    /// A call ended; `took` is what is known of how long it waited for others behind this gateway.
    fn leave(&self, took: Option<Duration>) {
        let now = Instant::now();
        let mut state = self.0.state.lock();
        state.in_flight -= 1;
        if let Some(took) = took {
            state.latencies.record(took);
        }
        if state.adaptive {
            state.pass_window(now);
        }
        let overloaded = state.is_overloaded(now);
        while state.in_flight < state.limit {
            let Some(waiter) = state.next(overloaded) else { break };
            if waiter.until <= now {
                continue;
            }
            state.take();
            if let Err(mut place) = waiter.grant.send(self.place(now)) {
                // Its caller has left. Not by dropping the place: that would ask for the lock again.
                place.state = PlaceState::Void;
                state.in_flight -= 1;
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
    fn take(&mut self) {
        self.in_flight += 1;
        self.peak = self.peak.max(self.in_flight);
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

    fn next(&mut self, overloaded: bool) -> Option<Waiter> {
        let queue = self.waiting.iter_mut().rev().find(|queue| !queue.is_empty())?;
        if overloaded { queue.pop_back() } else { queue.pop_front() }
    }

    /// A window lasts until it has seen enough; what is too old by then is forgotten.
    fn pass_window(&mut self, now: Instant) {
        let window = self.window;
        let lasted = now.duration_since(self.window_began);
        if lasted < window || (self.latencies.total() < gradient::MIN_SAMPLES && lasted < window * LONGEST_WINDOW) {
            return;
        }
        let window = Window { median: self.latencies.quantile(0.5), samples: self.latencies.total(), peak: self.peak };
        self.limit = self.gradient.update(window, now);
        self.latencies.clear();
        (self.peak, self.window_began) = (self.in_flight, now);
    }
}

impl Place {
    /// The head of the answer is there: what follows is the client's pace.
    pub fn answered(&mut self) {
        if self.state == PlaceState::Open {
            self.state = PlaceState::Answered;
            let took = self.entered.elapsed();
            self.room.0.state.lock().latencies.record(took);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        match self.state {
            PlaceState::Answered => self.room.leave(None),
            PlaceState::Void => {}
            // Given up, or failed: nothing to learn from, unless it took too long.
            PlaceState::Open => {
                let took = self.entered.elapsed();
                let baseline = self.room.0.state.lock().gradient.baseline();
                self.room.leave(baseline.is_some_and(|usual| took.as_secs_f64() > usual).then_some(took));
            }
        }
    }
}

#[cfg(test)]
mod tests;
