//! Builds the indexes of collections that came with the start or have just become large enough, in the background.
//!
//! Records are read in small blocks, each under the lock that keeps writes off for that long. A search needs not wait:
//! what is not read yet it looks up in the records themselves.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};

use crate::engine::{Address, Slot};
use crate::store::Store;

/// Records read under one lock: about a fifth of a millisecond.
const BLOCK: Slot = 64;

/// Collections whose index lacks something, each once: they are queued when that begins to be so. Bounded by the number
/// of collections.
#[derive(Default)]
pub struct Backlog {
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

#[derive(Default)]
struct Waiting {
    collections: VecDeque<(Address, u64)>,
    closed: bool,
}

impl Backlog {
    pub(crate) fn push(&self, address: Address, incarnation: u64) {
        self.waiting.lock().collections.push_back((address, incarnation));
        self.wake.notify_one();
    }

    fn next(&self) -> Option<(Address, u64)> {
        let mut waiting = self.waiting.lock();
        loop {
            if waiting.closed {
                return None;
            }
            if let Some(next) = waiting.collections.pop_front() {
                return Some(next);
            }
            self.wake.wait(&mut waiting);
        }
    }

    fn is_closed(&self) -> bool {
        self.waiting.lock().closed
    }

    fn close(&self) {
        self.waiting.lock().closed = true;
        self.wake.notify_all();
    }
}

/// The running thread.
pub struct Running {
    store: Arc<Store>,
    thread: JoinHandle<()>,
}

impl Running {
    /// Ends the thread, whatever there is left to do. Blocks for a moment.
    pub fn stop(self) {
        self.store.backlog().close();
        // A panic was reported by the thread itself.
        let _ = self.thread.join();
    }
}

/// Starts the thread that works the backlog off.
///
/// # Errors
/// When no thread can be started.
pub fn start(store: Arc<Store>) -> std::io::Result<Running> {
    let working = store.clone();
    let thread = std::thread::Builder::new().name("metadata".into()).spawn(move || {
        while let Some((address, incarnation)) = working.backlog().next() {
            let started = std::time::Instant::now();
            while working.read_metadata(&address, incarnation, BLOCK) {
                if working.backlog().is_closed() {
                    return;
                }
            }
            let seconds = started.elapsed().as_secs_f64();
            tracing::debug!(incarnation, seconds, "built an index over metadata");
        }
    })?;
    Ok(Running { store, thread })
}
