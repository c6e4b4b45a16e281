//! When the requests of an open loop are due.
//!
//! A runtime's timers tick in milliseconds, which would be added to each request: as much as a search takes. So a thread sleeps from one
//! to the next, and lets one sender go for each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::sync::Semaphore;

/// Requests that arrive at an even rate from when it is started until it is dropped.
pub(crate) struct Arrivals {
    started: Instant,
    rate: f64,
    /// Requests that are due and not taken.
    due: Arc<Semaphore>,
    taken: AtomicUsize,
    is_over: Arc<AtomicBool>,
}

impl Arrivals {
    /// At so many a second.
    pub(crate) fn start(rate: f64) -> Result<Self> {
        let (started, due, is_over) = (Instant::now(), Arc::new(Semaphore::new(0)), Arc::new(AtomicBool::new(false)));
        let (released, ending) = (due.clone(), is_over.clone());
        let release = move || {
            for number in 0.. {
                thread::sleep(at(started, rate, number).saturating_duration_since(Instant::now()));
                if ending.load(Ordering::Relaxed) {
                    return;
                }
                released.add_permits(1);
            }
        };
        thread::Builder::new().name("arrivals".into()).spawn(release).context("starting a thread")?;
        Ok(Self { started, rate, due, taken: AtomicUsize::new(0), is_over })
    }

    /// Returns when the next request is due that nobody has taken, with when that was: senders that are late find it long past.
    pub(crate) async fn next(&self) -> Result<Instant> {
        self.due.acquire().await?.forget();
        Ok(at(self.started, self.rate, self.taken.fetch_add(1, Ordering::Relaxed)))
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

fn at(started: Instant, rate: f64, number: usize) -> Instant {
    started + Duration::from_secs_f64(number as f64 / rate)
}
