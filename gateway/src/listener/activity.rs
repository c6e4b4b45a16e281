//! What a connection is doing, so that an idle one is told from a busy one and a slow head from a slow client.
//!
//! hyper's own header timeout also runs while a kept-alive connection waits for its next request, so it cannot be
//! short against slow heads and long for idle clients at once. This watches the bytes and the requests instead.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;

use super::door::Limit;

/// One connection's state, shared between its socket, its requests and its timer.
#[derive(Debug)]
pub(super) struct Activity {
    opened: Instant,
    in_flight: AtomicUsize,
    /// Milliseconds from `opened` to the last moment that a request was in flight.
    quiet_since: AtomicU64,
    /// Milliseconds from `opened` to the first byte of a head still incomplete, plus one; 0 when there is none.
    head_since: AtomicU64,
    /// The same of an HTTP/2 head, which may come while requests are in flight.
    block_since: AtomicU64,
    /// The head being read took too long: [`HEAD_EXPIRED`] until that is answered, then [`HEAD_REFUSED`].
    head_expired: AtomicU8,
    /// Answers of which a piece was handed out, and no more asked for since: their clients have yet to take it.
    unsent: AtomicUsize,
    /// Milliseconds from `opened` to the last moment that more of any answer was asked for.
    taken_at: AtomicU64,
    /// A request was answered before its body was read: the client may still be sending.
    unread: AtomicBool,
    /// The bound that the client went past, if it did.
    cut: OnceLock<Limit>,
}

const HEAD_EXPIRED: u8 = 1;
const HEAD_REFUSED: u8 = 2;

/// A request in flight: from its head to the last byte of its answer.
pub(super) struct InFlight {
    activity: Arc<Activity>,
    /// Whether it is counted among [`Activity::unsent`].
    unsent: bool,
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            opened: Instant::now(),
            in_flight: AtomicUsize::new(0),
            quiet_since: AtomicU64::new(0),
            head_since: AtomicU64::new(0),
            block_since: AtomicU64::new(0),
            head_expired: AtomicU8::new(0),
            unsent: AtomicUsize::new(0),
            taken_at: AtomicU64::new(0),
            unread: AtomicBool::new(false),
            cut: OnceLock::new(),
        })
    }

    pub(super) fn begin(self: &Arc<Self>) -> InFlight {
        self.head_since.store(0, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        InFlight { activity: self.clone(), unsent: false }
    }

    /// Bytes came in. With no request in flight they begin a head.
    pub(super) fn bytes_in(&self) {
        if self.in_flight.load(Ordering::Acquire) == 0 {
            let now = self.now() + 1;
            // Only the first byte counts: a client that drips bytes does not move its own deadline.
            let _already_running = self.head_since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// The first frame of an HTTP/2 head came in.
    pub(super) fn block_begins(&self) {
        self.block_since.store(self.now() + 1, Ordering::Relaxed);
    }

    /// The last one has.
    pub(super) fn block_ends(&self) {
        self.block_since.store(0, Ordering::Relaxed);
    }

    pub(super) fn is_busy(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) > 0
    }

    /// When the connection becomes idle for `timeout` if nothing more happens; none while a request is in flight.
    pub(super) fn idle_at(&self, timeout: Duration) -> Option<Instant> {
        (!self.is_busy())
            .then(|| self.opened + Duration::from_millis(self.quiet_since.load(Ordering::Relaxed)) + timeout)
    }

    /// When the head being read must be complete.
    pub(super) fn head_due(&self, timeout: Duration) -> Option<Instant> {
        let since = self.block_since.load(Ordering::Relaxed).max(self.head_since.load(Ordering::Relaxed));
        (since > 0).then(|| self.opened + Duration::from_millis(since - 1) + timeout)
    }

    /// When clients have taken nothing of their answers for `timeout`, if none of them does before.
    pub(super) fn stalled_at(&self, timeout: Duration) -> Option<Instant> {
        (self.unsent.load(Ordering::Acquire) > 0)
            .then(|| self.opened + Duration::from_millis(self.taken_at.load(Ordering::Relaxed)) + timeout)
    }

    /// Ends the input: the head took too long.
    pub(super) fn expire_head(&self) {
        let _already_refused =
            self.head_expired.compare_exchange(0, HEAD_EXPIRED, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(super) fn head_expired(&self) -> bool {
        self.head_expired.load(Ordering::Relaxed) != 0
    }

    /// True once, for whoever answers.
    pub(super) fn take_expired(&self) -> bool {
        self.head_expired.swap(HEAD_REFUSED, Ordering::Relaxed) == HEAD_EXPIRED
    }

    pub(super) fn leave_unread(&self) {
        self.unread.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_unread(&self) -> bool {
        self.unread.load(Ordering::Relaxed)
    }

    /// The connection ends for this. The first reason stays.
    pub(super) fn cut(&self, limit: Limit) {
        let _later = self.cut.set(limit);
    }

    pub(super) fn cut_for(&self) -> Option<Limit> {
        self.cut.get().copied()
    }

    fn now(&self) -> u64 {
        self.opened.elapsed().as_millis() as u64
    }
}

impl InFlight {
    /// More of the answer is asked for: what was handed out is on its way.
    pub(super) fn asked(&mut self) {
        self.activity.taken_at.store(self.activity.now(), Ordering::Relaxed);
        if std::mem::take(&mut self.unsent) {
            self.activity.unsent.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// A piece of the answer was handed out.
    pub(super) fn handed(&mut self) {
        if !std::mem::replace(&mut self.unsent, true) {
            self.activity.unsent.fetch_add(1, Ordering::AcqRel);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.unsent {
            self.activity.unsent.fetch_sub(1, Ordering::AcqRel);
        }
        self.activity.quiet_since.store(self.activity.now(), Ordering::Relaxed);
        self.activity.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn idleness_counts_from_the_end_of_the_last_request() {
        let activity = Activity::new();
        let timeout = Duration::from_secs(90);
        let request = activity.begin();
        tokio::time::advance(Duration::from_secs(1000)).await;
        assert_eq!(activity.idle_at(timeout), None);
        drop(request);
        assert_eq!(activity.idle_at(timeout), Some(Instant::now() + timeout));
    }

    #[tokio::test(start_paused = true)]
    async fn answers_stall_when_nobody_takes_any_of_them() {
        let activity = Activity::new();
        let timeout = Duration::from_secs(30);
        let (mut first, mut second) = (activity.begin(), activity.begin());
        first.asked();
        assert_eq!(activity.stalled_at(timeout), None, "it waits for us, not for its client");
        first.handed();
        tokio::time::advance(Duration::from_secs(20)).await;
        second.asked();
        second.handed();
        assert_eq!(activity.stalled_at(timeout), Some(Instant::now() + timeout), "one of them moves");
        drop(first);
        second.asked();
        assert_eq!(activity.stalled_at(timeout), None);
    }

    #[tokio::test(start_paused = true)]
    async fn dripping_bytes_does_not_move_the_deadline_of_a_head() {
        let activity = Activity::new();
        let timeout = Duration::from_secs(10);
        assert_eq!(activity.head_due(timeout), None);
        activity.bytes_in();
        let due = activity.head_due(timeout);
        tokio::time::advance(Duration::from_secs(5)).await;
        activity.bytes_in();
        assert_eq!(activity.head_due(timeout), due);
        drop(activity.begin());
        assert_eq!(activity.head_due(timeout), None);
    }
}
