//! Room for rows that wait to be sealed: writers wait, first come first served, while the head holds as much as it may.
//!
//! What waits costs memory, and every search looks at it; so it has a bound. A writer reserves room before it asks for its
//! change to be committed, and gives the reservation back when its rows are in the head, where they count themselves.
//!
//! There are two bounds. One holds always, for the memory; the other, which is lower, while searches are asked, since each of
//! them goes through all that waits. For that one only writes of many points wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard, Notify};

use super::Index;

/// Between two looks at whether searches are still asked.
const LOOK: Duration = Duration::from_millis(100);

/// Bytes of vectors that may wait to be sealed in a collection; 0 for no bound.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bounds {
    /// Whatever happens.
    pub always: u64,
    /// While searches are asked, for writes of many points.
    pub searched: u64,
}

impl Bounds {
    /// The one that counts now; 0 for none.
    pub fn now(self, is_searched: bool) -> u64 {
        match self {
            Self { always: 0, searched } if is_searched => searched,
            Self { always, searched } if is_searched && searched > 0 => always.min(searched),
            Self { always, .. } => always,
        }
    }

    /// Bytes of writes that may wait for room.
    fn queued(self) -> u64 {
        self.always.max(self.searched)
    }
}

#[derive(Default)]
pub struct Headroom {
    /// Bytes of writes that were let in and are not in the head yet.
    reserved: AtomicU64,
    /// Bytes of writes that wait.
    queued: AtomicU64,
    /// Whose turn it is; others queue for it.
    turn: Mutex<()>,
    /// The same among writes of many points, before they queue with all others.
    turn_of_many: Mutex<()>,
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

    /// The same of a write of many points: before it queues with others it waits, after those that came before, for as long as
    /// `is_searched` and the lower bound leaves no room for it.
    pub async fn reserve_many(
        self: &Arc<Self>,
        bytes: u64,
        bounds: Bounds,
        is_searched: impl Fn() -> bool,
    ) -> Result<Reservation, Crowded> {
        let is_open = || !is_searched() || bounds.searched == 0 || self.has_room(bytes, bounds.searched);
        let _turn = self.await_turn_of_many(bytes, bounds, is_open).await?;
        // With the turn, or the next would not see it.
        self.reserve(bytes, bounds.always).await
    }

    async fn await_turn_of_many(
        &self,
        bytes: u64,
        bounds: Bounds,
        is_open: impl Fn() -> bool,
    ) -> Result<MutexGuard<'_, ()>, Crowded> {
        let headroom = &self.headroom;
        if let Ok(turn) = headroom.turn_of_many.try_lock()
            && is_open()
        {
            return Ok(turn);
        }
        let _queued = headroom.queue(bytes, bounds.queued())?;
        let turn = headroom.turn_of_many.lock().await;
        loop {
            let mut freed = std::pin::pin!(headroom.freed.notified());
            freed.as_mut().enable();
            if is_open() {
                return Ok(turn);
            }
            // Nobody says that searches have ended.
            let _ = tokio::time::timeout(LOOK, freed).await;
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
        (bound == 0 || self.has_room(bytes, bound)).then(|| {
            self.headroom.reserved.fetch_add(bytes, Ordering::AcqRel);
            Reservation { index: self.clone(), bytes }
        })
    }

    fn has_room(&self, bytes: u64, bound: u64) -> bool {
        let held = self.waiting_bytes() + self.headroom.reserved.load(Ordering::Acquire);
        held == 0 || held + bytes <= bound || self.headroom.is_closed.load(Ordering::Acquire)
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

    #[tokio::test]
    async fn writers_of_many_points_leave_room_for_searches_and_others_do_not_wait_for_them() {
        let (index, asked) = (index(), AtomicBool::new(true));
        let bounds = Bounds { always: 10 * ROW, searched: 4 * ROW };
        let many = |bytes| index.reserve_many(bytes, bounds, || asked.load(Ordering::Relaxed));
        let first = many(3 * ROW).now_or_never().unwrap().unwrap_or_else(|_| panic!("room"));
        let mut second = std::pin::pin!(many(2 * ROW));
        let mut third = std::pin::pin!(many(ROW));
        assert!(second.as_mut().now_or_never().is_none());
        assert!(third.as_mut().now_or_never().is_none(), "it would fit, but is not its turn");
        assert_eq!(index.headroom.queued(), 3 * ROW, "whoever seals sees them");
        let few = index.reserve(5 * ROW, bounds.always).now_or_never().unwrap();
        assert!(few.is_ok(), "few points have all the room there is");
        drop(few);
        drop(first);
        assert!(second.await.is_ok());
        asked.store(false, Ordering::Relaxed);
        assert!(third.await.is_ok(), "nobody searches");
        assert_eq!(index.headroom.queued(), 0);
    }

    #[test]
    fn the_bound_that_counts_is_the_lower_one_while_searches_are_asked() {
        let now = |always, searched| [false, true].map(|is_searched| Bounds { always, searched }.now(is_searched));
        assert_eq!([now(8, 3), now(8, 0), now(0, 3), now(2, 3)], [[8, 3], [8, 8], [0, 3], [2, 2]]);
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
