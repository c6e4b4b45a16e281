//! Room for rows that wait to be sealed: writers wait, first come first served, while the head holds as much as it may.
//!
//! What waits costs memory, and every search looks at it; so it has a bound. A writer reserves room before it asks for its
//! change to be committed, and gives the reservation back when its rows are in the head, where they count themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::{Mutex, Notify};

use super::Index;

#[derive(Default)]
pub struct Headroom {
    /// Bytes of writes that were let in and are not in the head yet.
    reserved: AtomicU64,
    /// Bytes of writes that wait.
    queued: AtomicU64,
    /// Whose turn it is; others queue for it.
    turn: Mutex<()>,
    /// The head shrank, or a reservation was given back.
    freed: Notify,
    /// The collection is gone: nobody needs to wait.
    is_closed: AtomicBool,
}

/// Too much waits already for one more to wait.
#[derive(Debug, PartialEq, Eq)]
pub struct Crowded;

/// Room that is held for one write.
pub struct Reservation {
    index: Arc<Index>,
    bytes: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.index.headroom.reserved.fetch_sub(self.bytes, Ordering::AcqRel);
        self.index.headroom.freed.notify_waiters();
    }
}

/// A write in the queue.
struct Queued<'a> {
    headroom: &'a Headroom,
    bytes: u64,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.headroom.queued.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl Headroom {
    /// To be called when the head has shrunk.
    pub(super) fn freed(&self) {
        self.freed.notify_waiters();
    }

    /// Lets everybody in; they will find the collection gone.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.freed.notify_waiters();
    }

    /// Bytes of writes that wait.
    pub fn queued(&self) -> u64 {
        self.queued.load(Ordering::Acquire)
    }

    fn queue(&self, bytes: u64, bound: u64) -> Result<Queued<'_>, Crowded> {
        let before = self.queued.fetch_add(bytes, Ordering::AcqRel);
        let queued = Queued { headroom: self, bytes };
        if before > 0 && before + bytes > bound { Err(Crowded) } else { Ok(queued) }
    }
}

impl Index {
    /// Bytes of vectors that wait to be sealed.
    pub fn waiting_bytes(&self) -> u64 {
        self.waiting_rows() as u64 * u64::from(self.settings.dimension) * size_of::<f32>() as u64
    }

    /// Rows that wait to be sealed, dead ones included.
    pub fn waiting_rows(&self) -> usize {
        self.parts.load().waiting()
    }

    /// Resolves when so many bytes of vectors may come into the head, which then holds at most `bound` of them; 0 for no
    /// bound. What is larger by itself is let in when nothing else waits. As much again may wait for it.
    pub async fn reserve(self: &Arc<Self>, bytes: u64, bound: u64) -> Result<Reservation, Crowded> {
        let headroom = &self.headroom;
        // Nobody is overtaken: who finds the turn taken queues for it.
        if let Ok(_turn) = headroom.turn.try_lock()
            && let Some(reservation) = self.try_reserve(bytes, bound)
        {
            return Ok(reservation);
        }
        let _queued = headroom.queue(bytes, bound)?;
        let _turn = headroom.turn.lock().await;
        loop {
            let mut freed = std::pin::pin!(headroom.freed.notified());
            // From here on it is heard of, whatever comes between the look and the wait.
            freed.as_mut().enable();
            if let Some(reservation) = self.try_reserve(bytes, bound) {
                return Ok(reservation);
            }
            freed.await;
        }
    }

    /// Resolves when the head holds at most `bound` bytes; 0 for no bound.
    pub async fn await_headroom(&self, bound: u64) {
        loop {
            let mut freed = std::pin::pin!(self.headroom.freed.notified());
            freed.as_mut().enable();
            if bound == 0 || self.waiting_bytes() <= bound || self.headroom.is_closed.load(Ordering::Acquire) {
                return;
            }
            freed.await;
        }
    }

    /// To be called by whoever has the turn.
    fn try_reserve(self: &Arc<Self>, bytes: u64, bound: u64) -> Option<Reservation> {
        let headroom = &self.headroom;
        let held = self.waiting_bytes() + headroom.reserved.load(Ordering::Acquire);
        let is_open = bound == 0 || held == 0 || held + bytes <= bound || headroom.is_closed.load(Ordering::Acquire);
        is_open.then(|| {
            headroom.reserved.fetch_add(bytes, Ordering::AcqRel);
            Reservation { index: self.clone(), bytes }
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::engine::settings::Settings;
    use crate::index::kernel::Kernel;

    /// Bytes of one row.
    const ROW: u64 = 8;

    fn index() -> Arc<Index> {
        let message = nearfield_proto::v1::CollectionSettings { dimension: 2, ..Default::default() };
        Arc::new(Index::new(Settings::from_message(&message).unwrap(), Kernel::detect()))
    }

    #[test]
    fn writers_come_in_order_and_what_they_hold_never_passes_the_bound() {
        let index = index();
        let bound = 10 * ROW;
        let first = index.reserve(6 * ROW, bound).now_or_never().unwrap().unwrap_or_else(|_| panic!("room"));
        let mut large = std::pin::pin!(index.reserve(5 * ROW, bound));
        let mut small = std::pin::pin!(index.reserve(ROW, bound));
        assert!(large.as_mut().now_or_never().is_none());
        assert!(small.as_mut().now_or_never().is_none(), "it would fit, but is not its turn");
        assert!(index.reserve(5 * ROW, bound).now_or_never().is_some_and(|crowded| crowded.is_err()));
        assert_eq!(index.headroom.queued(), 6 * ROW);
        // As when its rows are in the head.
        (0..6).for_each(|slot| index.put(slot, &[1.0, 2.0]));
        drop(first);
        assert_eq!(index.waiting_bytes(), 6 * ROW);
        assert!(large.as_mut().now_or_never().is_none());
        index.headroom.close();
        assert!(large.now_or_never().is_some_and(|let_in| let_in.is_ok()));
        assert!(small.now_or_never().is_some_and(|let_in| let_in.is_ok()));
        assert_eq!(index.headroom.queued(), 0);
    }

    #[test]
    fn what_is_larger_than_the_bound_comes_in_alone() {
        let index = index();
        let huge = index.reserve(100, 10).now_or_never().unwrap();
        assert!(index.reserve(1, 10).now_or_never().is_none());
        drop(huge);
        assert!(index.reserve(1, 10).now_or_never().is_some());
        assert!(index.reserve(u64::MAX / 2, 0).now_or_never().is_some(), "0 is no bound");
    }
}
