//! What waits to be sealed has bounds; past them a write waits here before it is accepted, or is refused in words that name
//! the bound. Nothing that was acknowledged depends on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tonic::Status;

use super::caller::Caller;
use super::{Service, status};
use crate::commit::FEW_POINTS;
use crate::index::Index;
use crate::index::headroom::{Bounds, Reservation};

/// Longest wait of a caller without a deadline.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// What writers wait for, and have waited.
#[derive(Debug, Default)]
pub struct Backpressure {
    /// What may wait in a collection.
    pub bounds: Bounds,
    /// Writes that wait now.
    pub waiting: AtomicU64,
    /// Nanoseconds that writes have waited.
    pub waited: AtomicU64,
    /// Writes that were refused.
    pub refused: AtomicU64,
}

/// Counts a write that waits, until it does not any more.
struct Wait<'a> {
    backpressure: &'a Backpressure,
    started: Instant,
}

impl Backpressure {
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, ..Self::default() }
    }

    fn wait(&self) -> Wait<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Wait { backpressure: self, started: Instant::now() }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let waited = self.started.elapsed().as_nanos() as u64;
        self.backpressure.waiting.fetch_sub(1, Ordering::Relaxed);
        self.backpressure.waited.fetch_add(waited, Ordering::Relaxed);
    }
}

impl Service {
    /// Returns when so many vectors may come into the head of `index`; they may until what is returned is dropped.
    pub(super) async fn make_room(
        &self,
        index: &Arc<Index>,
        vectors: usize,
        caller: &Caller,
    ) -> Result<Reservation, Status> {
        let backpressure = &*self.0.backpressure;
        let bytes = vectors as u64 * u64::from(index.settings.dimension) * size_of::<f32>() as u64;
        let (bounds, is_many) = (backpressure.bounds, vectors > FEW_POINTS);
        let refuse = || {
            backpressure.refused.fetch_add(1, Ordering::Relaxed);
            status::backlog(bounds, is_many && self.0.pool.is_asked())
        };
        let mut reserving = std::pin::pin!(async {
            match is_many {
                true => index.reserve_many(bytes, bounds, || self.0.pool.is_asked()).await,
                false => index.reserve(bytes, bounds.always).await,
            }
        });
        // Nearly always there is room, and nothing to be counted.
        if let std::task::Poll::Ready(outcome) = futures::poll!(reserving.as_mut()) {
            return outcome.map_err(|_| refuse());
        }
        let _wait = backpressure.wait();
        let latest = Instant::now() + MAX_WAIT;
        let until = caller.deadline.map_or(latest, |deadline| deadline.min(latest));
        tokio::select! {
            outcome = reserving => outcome.map_err(|_| refuse()),
            () = tokio::time::sleep_until(until.into()) => Err(refuse()),
            () = self.0.drain.started() => Err(status::draining()),
        }
    }
}
