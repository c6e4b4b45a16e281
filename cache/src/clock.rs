//! Wall-clock time that never steps back, and that stands still in tests that pause tokio's clock.
//!
//! Entries travel between gateways through Redis, so their times are Unix times; but a step of the system's clock must
//! not make old entries young. So the system's clock is read once, and what has passed since is added.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Clones tell the same time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
    started_micros: u64,
}

impl Clock {
    pub fn start() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { started: Instant::now(), started_micros: unix.as_micros() as u64 }
    }

    /// Unix time in microseconds.
    pub fn now(&self) -> u64 {
        self.started_micros + self.started.elapsed().as_micros() as u64
    }
}
