//! What is open and may be closed when it is idle: WebSockets, and answers that last. How long each has been idle.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// A cheap handle; clones are the same set.
#[derive(Clone, Default)]
pub struct Streams(Arc<Mutex<Open>>);

#[derive(Default)]
struct Open {
    next: u64,
    entries: HashMap<u64, Arc<Entry>>,
}

/// What a stream tells of itself, and how it is told to close.
pub(crate) struct Entry {
    opened: Instant,
    /// Milliseconds from `opened` to the last time that it had something to do.
    used: AtomicU64,
    closing: Mutex<Option<&'static str>>,
    close: Notify,
}

impl Streams {
    pub fn len(&self) -> usize {
        self.0.lock().entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Closes streams, with `reason`, that had nothing to do for longer than `idle`: those idle the longest, at most
    /// `at_most`. How many are being closed.
    pub fn close_idle(&self, idle: Duration, at_most: usize, reason: &'static str) -> usize {
        let open = self.0.lock();
        let mut candidates: Vec<(Duration, &Arc<Entry>)> =
            open.entries.values().map(|entry| (entry.idle(), entry)).filter(|(since, _)| *since > idle).collect();
        candidates.sort_by_key(|(since, _)| std::cmp::Reverse(*since));
        let closed = candidates.iter().take(at_most).map(|(_, entry)| entry.ask_to_close(reason));
        closed.count()
    }

    /// The number of each, how long it has been open and how long idle: those idle the longest, at most `at_most`.
    pub(crate) fn idle_longest(&self, at_most: usize) -> Vec<(u64, Duration, Duration)> {
        let mut all: Vec<(u64, Duration, Duration)> = {
            let open = self.0.lock();
            open.entries.iter().map(|(number, entry)| (*number, entry.opened.elapsed(), entry.idle())).collect()
        };
        all.sort_by_key(|(_, _, idle)| std::cmp::Reverse(*idle));
        all.truncate(at_most);
        all
    }

    pub(crate) fn add(&self) -> Registered {
        let entry = Arc::new(Entry {
            opened: Instant::now(),
            used: AtomicU64::new(0),
            closing: Mutex::new(None),
            close: Notify::new(),
        });
        let mut open = self.0.lock();
        open.next += 1;
        let key = open.next;
        open.entries.insert(key, entry.clone());
        Registered { streams: self.clone(), key, entry }
    }
}

impl Entry {
    fn idle(&self) -> Duration {
        self.opened.elapsed().saturating_sub(Duration::from_millis(self.used.load(Ordering::Relaxed)))
    }

    fn ask_to_close(&self, reason: &'static str) {
        *self.closing.lock() = Some(reason);
        self.close.notify_one();
    }

    pub(crate) fn touch(&self) {
        let since = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.used.store(since, Ordering::Relaxed);
    }

    /// Resolves when this stream is to be closed, with the reason.
    pub(crate) async fn closing(&self) -> &'static str {
        loop {
            self.close.notified().await;
            if let Some(reason) = *self.closing.lock() {
                return reason;
            }
        }
    }
}

/// One stream's place in the set, given up when dropped.
pub(crate) struct Registered {
    streams: Streams,
    key: u64,
    pub(crate) entry: Arc<Entry>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.streams.0.lock().entries.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_idle_are_closed_and_the_busy_are_not() {
        let streams = Streams::default();
        let (idle, busy) = (streams.add(), streams.add());
        busy.entry.used.store(u64::MAX, Ordering::Relaxed);
        assert_eq!(streams.close_idle(Duration::ZERO, 0, "memory"), 0);
        assert_eq!(streams.close_idle(Duration::from_secs(3600), 9, "memory"), 0);
        assert_eq!(streams.close_idle(Duration::ZERO, 9, "memory"), 1);
        assert_eq!(idle.entry.closing().await, "memory");
        drop((idle, busy));
        assert!(streams.is_empty());
    }
}
