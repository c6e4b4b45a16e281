//! How loaded the search threads are: what a balancer needs to know before clients feel it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// What has been lately.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// The share of the threads' time that was spent on searches, 0 to 1.
    pub utilization: f64,
    /// How long a search waited for a thread.
    pub queue_delay: Duration,
}

pub(super) struct Meter {
    threads: u32,
    began: Instant,
    /// When something was asked for last, in nanoseconds since then.
    asked_nanos: AtomicU64,
    /// Time that searches took, all threads together.
    worked_nanos: AtomicU64,
    /// A moving average.
    waited_nanos: AtomicU64,
    window: Mutex<Window>,
}

struct Window {
    since: Instant,
    worked_nanos: u64,
    utilization: f64,
}

impl Meter {
    pub(super) fn new(threads: usize, now: Instant) -> Self {
        Self {
            threads: u32::try_from(threads.max(1)).unwrap_or(u32::MAX),
            began: now,
            asked_nanos: AtomicU64::new(0),
            worked_nanos: AtomicU64::new(0),
            waited_nanos: AtomicU64::new(0),
            window: Mutex::new(Window { since: now, worked_nanos: 0, utilization: 0.0 }),
        }
    }

    /// Something is asked for.
    pub(super) fn asked(&self, now: Instant) {
        self.asked_nanos.store(nanos(now.saturating_duration_since(self.began)).max(1), Ordering::Relaxed);
    }

    /// Whether something was asked for a moment ago.
    pub(super) fn is_asked(&self, now: Instant) -> bool {
        let asked = self.asked_nanos.load(Ordering::Relaxed);
        asked > 0 && now.saturating_duration_since(self.began) < Duration::from_nanos(asked) + MOMENT
    }

    /// A search got its thread after this long.
    pub(super) fn waited(&self, time: Duration) {
        let waited = nanos(time);
        // Two threads at once may lose one sample to the other, which an average can bear.
        let average = self.waited_nanos.load(Ordering::Relaxed);
        let next = average - average / WAITS + waited / WAITS;
        self.waited_nanos.store(next, Ordering::Relaxed);
    }

    /// A search ended after this long on its thread.
    pub(super) fn worked(&self, time: Duration) {
        self.worked_nanos.fetch_add(nanos(time), Ordering::Relaxed);
    }

    pub(super) fn load(&self, now: Instant) -> Load {
        let mut window = self.window.lock();
        let passed = now.saturating_duration_since(window.since);
        if passed >= WINDOW {
            let worked = self.worked_nanos.load(Ordering::Relaxed);
            let spent = worked.saturating_sub(window.worked_nanos);
            let share = (spent as f64 / (nanos(passed) as f64 * f64::from(self.threads))).min(1.0);
            // What was long ago says nothing; what was just now is smoothed.
            let kept = if passed >= WINDOW * 4 { 0.0 } else { 0.5 };
            let utilization = kept * window.utilization + (1.0 - kept) * share;
            *window = Window { since: now, worked_nanos: worked, utilization };
            if spent == 0 {
                self.waited_nanos.store(0, Ordering::Relaxed);
            }
        }
        let queue_delay = Duration::from_nanos(self.waited_nanos.load(Ordering::Relaxed));
        Load { utilization: window.utilization, queue_delay }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Searches that the average of waiting reaches back over.
const WAITS: u64 = 8;
/// How long searches are taken to go on after one was asked.
const MOMENT: Duration = Duration::from_millis(250);
/// Between two looks at how much of the time was spent.
const WINDOW: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_spent_and_waited_is_told_and_forgotten() {
        let start = Instant::now();
        let meter = Meter::new(2, start);
        for _ in 0..100 {
            meter.waited(Duration::from_millis(10));
        }
        meter.worked(Duration::from_secs(1));
        let load = meter.load(start + Duration::from_secs(1));
        assert_eq!(load.utilization, 0.5);
        assert!((9..=10).contains(&load.queue_delay.as_millis()), "{load:?}");
        // More than there was time for: a search is counted when it ends.
        meter.worked(Duration::from_secs(10));
        let busy = meter.load(start + Duration::from_millis(1_200)).utilization;
        assert_eq!(busy, 0.75, "half of what was, half of what is");
        assert_eq!(meter.load(start + Duration::from_millis(1_201)).utilization, busy);
        assert_eq!(meter.load(start + Duration::from_secs(9)), Load::default());
        assert!(!meter.is_asked(start), "nothing ever was");
        meter.asked(start + Duration::from_secs(9));
        assert!(meter.is_asked(start + Duration::from_millis(9_249)));
        assert!(!meter.is_asked(start + Duration::from_millis(9_250)));
    }
}
