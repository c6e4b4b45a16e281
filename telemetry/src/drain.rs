//! Draining: stop admitting, finish what was admitted, then leave.
//!
//! One [`Drain`] belongs to the process. Whoever accepts work watches [`Drain::started`]; whoever does admitted work
//! holds a [`Drain::admit`] token until it is done. [`Drain::finish`] starts the drain and waits for the tokens.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// A cheap handle; clones are the same drain.
#[derive(Clone, Default)]
pub struct Drain {
    started: CancellationToken,
    admitted: TaskTracker,
}

impl Drain {
    pub fn new() -> Self {
        Self::default()
    }

    /// Resolves once the drain has begun.
    pub async fn started(&self) {
        self.started.cancelled().await;
    }

    pub fn has_started(&self) -> bool {
        self.started.is_cancelled()
    }

    /// The drain waits for this token to be dropped.
    pub fn admit(&self) -> TaskTrackerToken {
        self.admitted.token()
    }

    /// Begins the drain without waiting.
    pub fn start(&self) {
        self.started.cancel();
        self.admitted.close();
    }

    /// Begins the drain and waits until everything admitted is done, at most `patience`. True when all of it was.
    pub async fn finish(&self, patience: Duration) -> bool {
        self.start();
        tokio::time::timeout(patience, self.admitted.wait()).await.is_ok()
    }
}
