//! The thread that opens the directory and writes: all that may take long, one after the other.

use std::fs::{File, TryLockError};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::Shared;
use super::log::{self, Log};
use super::record;
use crate::invalidation::SKEW_MICROS;
use crate::invalidation::ledger::{self, Ledger};
use crate::{Clock, Entry, Invalidation, Key, Metrics};

/// How soon a directory is tried again that another process has, …
const BUSY: Duration = Duration::from_millis(250);
/// … and one that failed; so long nothing is written.
const REST: Duration = Duration::from_secs(5);
const LOCK: &str = "lock";
const LEDGER: &str = "purges";

/// Something to be written, in its turn.
pub(super) struct Order {
    pub(super) key: Key,
    pub(super) turn: u64,
    /// None ends what is under the key.
    pub(super) entry: Option<Arc<Entry>>,
}

pub(super) struct Writer {
    directory: PathBuf,
    bytes: u64,
    clock: Clock,
    invalidation: Invalidation,
    shared: Arc<Shared>,
    /// The directory is this process's while this lives.
    lock: Option<File>,
    open: Option<Opened>,
    /// Until when nothing is tried.
    rests_until: Option<Instant>,
}

struct Opened {
    ledger: Arc<Ledger>,
    log: Log,
}

enum OpenError {
    /// Another process has it, an older gateway that drains say.
    Busy,
    Failed(io::Error),
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

impl Writer {
    pub(super) fn new(
        directory: PathBuf,
        bytes: u64,
        clock: Clock,
        invalidation: Invalidation,
        shared: Arc<Shared>,
    ) -> Self {
        Self { directory, bytes, clock, invalidation, shared, lock: None, open: None, rests_until: None }
    }

    /// Works off the queue until nobody can put anything into it.
    pub(super) fn run(mut self, queue: &Receiver<Order>) {
        loop {
            if self.open.is_none() && self.is_rested() {
                self.try_open();
            }
            let next = match self.open {
                Some(_) => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
                None => queue.recv_timeout(BUSY),
            };
            match next {
                Ok(order) => self.work(&order),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn is_rested(&self) -> bool {
        self.rests_until.is_none_or(|until| Instant::now() >= until)
    }

    fn try_open(&mut self) {
        match self.open() {
            Ok(opened) => {
                self.shared.bytes.store(opened.log.bytes() + ledger::BYTES, Ordering::Relaxed);
                self.open = Some(opened);
                self.shared.is_up.store(true, Ordering::Relaxed);
                tracing::info!(directory = %self.directory.display(), answers = self.shared.index.len(), "answers are kept on disk");
            }
            Err(OpenError::Busy) => self.rests_until = Some(Instant::now() + BUSY),
            Err(OpenError::Failed(error)) => self.rest(&error),
        }
    }

    fn open(&mut self) -> Result<Opened, OpenError> {
        std::fs::create_dir_all(&self.directory)?;
        if self.lock.is_none() {
            let lock = File::create(self.directory.join(LOCK))?;
            match lock.try_lock() {
                Ok(()) => self.lock = Some(lock),
                Err(TryLockError::WouldBlock) => return Err(OpenError::Busy),
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
        }
        let ledger = match self.shared.ledger.get() {
            Some(ledger) => Arc::clone(ledger),
            None => self.open_ledger()?,
        };
        let bytes = self.bytes - ledger::BYTES;
        let log = Log::open(&self.directory, bytes, self.clock.now(), &self.shared)?;
        Ok(Opened { ledger, log })
    }

    fn open_ledger(&self) -> io::Result<Arc<Ledger>> {
        let path = self.directory.join(LEDGER);
        // Answers of a clock that was ahead would be taken for younger than they are.
        let is_past = |ledger: &Ledger| ledger.last() <= self.clock.now().saturating_add(SKEW_MICROS);
        let ledger = match Ledger::open(&path).filter(is_past) {
            Some(ledger) => ledger,
            None => {
                // In this order: without a ledger nothing else is believed.
                log::discard(&self.directory)?;
                Ledger::create(&path)?
            }
        };
        let ledger = Arc::new(ledger);
        // Before the first answer can be found.
        self.invalidation.write_down(Arc::clone(&ledger));
        Ok(Arc::clone(self.shared.ledger.get_or_init(|| ledger)))
    }

    fn work(&mut self, order: &Order) {
        let Order { key, turn, entry } = order;
        let weight = entry.as_ref().map_or(0, |entry| entry.weight() as u64);
        match self.write(order) {
            Some(Ok(place)) => match place.filter(|_| entry.is_some()) {
                Some(place) => self.shared.index.place(key, *turn, place),
                None => self.shared.index.give_up(key, *turn),
            },
            Some(Err(error)) => {
                self.shared.index.give_up(key, *turn);
                self.rest(&error);
            }
            None => {
                self.shared.index.give_up(key, *turn);
                Metrics::count(&self.shared.metrics.disk_skipped);
            }
        }
        self.shared.queued_bytes.fetch_sub(weight, Ordering::Relaxed);
    }

    /// None when nothing is written at this time.
    fn write(&mut self, order: &Order) -> Option<io::Result<Option<super::index::Place>>> {
        let is_rested = self.is_rested();
        let opened = self.open.as_mut()?;
        let Some(entry) = order.entry.as_ref() else {
            let written = if is_rested { opened.log.append(&record::encode(&order.key, None)).ok() } else { None };
            if written.is_none() {
                self.shared.end_all();
            }
            return Some(Ok(None));
        };
        if !is_rested {
            return None;
        }
        opened.ledger.stamped(entry.stamp.micros);
        let written = opened.log.append(&record::encode(&order.key, Some(entry)));
        if written.is_ok() {
            self.shared.is_up.store(true, Ordering::Relaxed);
            self.shared.bytes.store(opened.log.bytes() + ledger::BYTES, Ordering::Relaxed);
        }
        Some(written)
    }

    fn rest(&mut self, error: &io::Error) {
        Metrics::count(&self.shared.metrics.disk_failures);
        if self.shared.is_up.swap(false, Ordering::Relaxed) || self.rests_until.is_none() {
            let directory = self.directory.display();
            tracing::warn!(%directory, error = error as &dyn std::error::Error, "answers are not kept on disk");
        }
        self.rests_until = Some(Instant::now() + REST);
    }
}
