//! When work is no longer wanted: its deadline has passed, or whoever asked has gone.

use std::time::Instant;

use tokio_util::sync::CancellationToken;

#[derive(Clone, Debug, Default)]
pub struct Stop {
    pub deadline: Option<Instant>,
    pub cancelled: CancellationToken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    #[error("the caller has gone")]
    Cancelled,
    #[error("the deadline has passed")]
    Deadline,
    #[error("what it needs has not come from the object storage yet, and cannot be fetched now")]
    Unavailable,
}

impl Stop {
    /// Asked between steps of at most some hundred microseconds.
    pub fn check(&self) -> Result<(), Stopped> {
        if self.cancelled.is_cancelled() {
            return Err(Stopped::Cancelled);
        }
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(Stopped::Deadline);
        }
        Ok(())
    }
}
