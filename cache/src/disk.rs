//! The tier on a local disk, for more than fits in memory: a log of answers, bounded in bytes, found again after a
//! restart of the process.
//!
//! It is an opportunity, never a dependency. Nothing here waits on the reactor: a look-up asks an index in memory, then
//! a blocking thread reads, a bounded number at once, and whoever asked waits [`Config::patience`] at most. One thread
//! writes, behind a bounded queue. When the disk fails or is full, answers are not stored until it is tried again.
//!
//! What is purged stays purged: judging is by epochs as in memory, and these are written down beside the answers before
//! a purge returns, so that no answer outlives its purge by a crash. A record that is torn or damaged, or that belongs to another key, is a miss.

mod index;
mod log;
mod record;
mod writer;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::RwLock;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use self::index::Index;
use self::log::Segments;
use self::writer::{Order, Writer};
use crate::invalidation::ledger::Ledger;
use crate::{Clock, Entry, Invalidation, Key, Metrics, Store};

/// The least that a disk tier is of use with.
pub const MIN_BYTES: u64 = 16 << 20;
/// Larger answers are not stored: a record has to fit into a segment.
pub const MAX_ENTRY_BYTES: usize = 9 << 20;
/// Reads at once; more are misses.
const MAX_READS: usize = 64;
/// What waits to be written, in number and in bytes of memory; more is not stored.
const MAX_QUEUED: usize = 4096;
const MAX_QUEUED_BYTES: u64 = 64 << 20;

/// `[cache.disk]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// A directory of the tier's own, made if it is not there; absent: no such tier.
    pub path: Option<PathBuf>,
    /// Bytes of disk, at least [`MIN_BYTES`].
    pub bytes: u64,
    /// The longest that a request waits for the disk.
    #[serde(with = "humantime_serde")]
    pub patience: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { path: None, bytes: 8 << 30, patience: Duration::from_millis(25) }
    }
}

/// Why there is no disk tier.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("`cache.disk.bytes` is {0}, and at least {MIN_BYTES} are needed")]
    TooSmall(u64),
    #[error("the thread that writes answers to disk cannot be started")]
    Thread(#[source] std::io::Error),
}

/// Dropped, it writes what waits, and lets go of the directory.
pub struct Disk {
    shared: Arc<Shared>,
    orders: SyncSender<Order>,
    reads: Arc<Semaphore>,
    patience: Duration,
}

struct Shared {
    index: Index,
    segments: RwLock<Segments>,
    /// Whether it is written.
    is_up: AtomicBool,
    /// Bytes on disk.
    bytes: AtomicU64,
    queued_bytes: AtomicU64,
    clock: Clock,
    /// Once the directory is this process's.
    ledger: OnceLock<Arc<Ledger>>,
    metrics: Arc<Metrics>,
}

impl Shared {
    /// For whoever starts anew, when it could not be written that one answer is none any more.
    fn end_all(&self) {
        if let Some(ledger) = self.ledger.get() {
            ledger.end_all(self.clock.now());
        }
    }
}

impl Disk {
    /// Begins to open the directory and returns; None where no path is set. Until what an earlier process left has been
    /// read, and while another process has the directory, look-ups find nothing.
    ///
    /// # Errors
    /// Too few bytes. A directory that cannot be used is no error: it is tried again.
    pub fn start(
        config: &Config,
        clock: Clock,
        invalidation: &Invalidation,
        metrics: Arc<Metrics>,
    ) -> Result<Option<Self>, StartError> {
        let Some(path) = config.path.clone() else { return Ok(None) };
        if config.bytes < MIN_BYTES {
            return Err(StartError::TooSmall(config.bytes));
        }
        let shared = Arc::new(Shared {
            index: Index::default(),
            segments: RwLock::default(),
            is_up: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
            queued_bytes: AtomicU64::new(0),
            clock,
            ledger: OnceLock::new(),
            metrics,
        });
        let (orders, queue) = sync_channel(MAX_QUEUED);
        let writer = Writer::new(path, config.bytes, clock, invalidation.clone(), Arc::clone(&shared));
        let thread = std::thread::Builder::new().name("cache-disk".to_owned());
        thread.spawn(move || writer.run(&queue)).map_err(StartError::Thread)?;
        let reads = Arc::new(Semaphore::new(MAX_READS));
        Ok(Some(Self { shared, orders, reads, patience: config.patience }))
    }

    /// Whether answers are stored.
    pub fn is_up(&self) -> bool {
        self.shared.is_up.load(Ordering::Relaxed)
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// Answers that would be looked for on disk.
    pub fn len(&self) -> u64 {
        self.shared.index.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn order(&self, order: Order, bytes: u64) {
        let (key, turn, ends) = (order.key, order.turn, order.entry.is_none());
        let queued = self.shared.queued_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if queued > MAX_QUEUED_BYTES || self.orders.try_send(order).is_err() {
            self.shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.shared.index.give_up(&key, turn);
            Metrics::count(&self.shared.metrics.disk_skipped);
            if ends {
                self.shared.end_all();
            }
        }
    }
}

#[async_trait::async_trait]
impl Store for Disk {
    async fn get(&self, key: &Key) -> Option<Arc<Entry>> {
        let metrics = &self.shared.metrics;
        let Some(place) = self.shared.index.find(key) else {
            Metrics::count(&metrics.disk_misses);
            return None;
        };
        let Some(segment) = self.shared.segments.read().get(place.segment) else {
            Metrics::count(&metrics.disk_misses);
            return None;
        };
        let Ok(permit) = Arc::clone(&self.reads).try_acquire_owned() else {
            Metrics::count(&metrics.disk_skipped);
            return None;
        };
        let (key, shared) = (*key, Arc::clone(&self.shared));
        let read = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let read = segment.read(&key, place);
            if let Err(error) = &read {
                Metrics::count(if error.is_damage() {
                    &shared.metrics.disk_damaged
                } else {
                    &shared.metrics.disk_failures
                });
                tracing::debug!(error = error as &dyn std::error::Error, "an answer on disk is passed over");
                shared.index.lose(&key, place);
            }
            read.ok().map(Arc::new)
        });
        match timeout(self.patience, read).await {
            Ok(read) => read.ok().flatten(),
            Err(_elapsed) => {
                Metrics::count(&metrics.disk_failures);
                None
            }
        }
    }

    async fn put(&self, key: Key, entry: Arc<Entry>) {
        // From now on an older one is not found, whatever becomes of this one.
        let turn = self.shared.index.claim(&key);
        let bytes = entry.weight() as u64;
        if entry.weight() > MAX_ENTRY_BYTES {
            self.shared.index.give_up(&key, turn);
            return;
        }
        self.order(Order { key, turn, entry: Some(entry) }, bytes);
    }

    fn remove(&self, key: &Key) {
        if !self.shared.index.knows(key) {
            return;
        }
        let turn = self.shared.index.claim(key);
        self.order(Order { key: *key, turn, entry: None }, 0);
    }
}

#[cfg(test)]
mod tests;
