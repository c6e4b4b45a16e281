//! The one thread through which every change goes: plan, stamp, write, sync, apply, answer.
//!
//! Commands that wait are drained into a batch that costs one sync. Nothing is visible before it is durable, and nobody
//! is answered before it is visible.

pub mod command;

mod batch;
mod pace;
mod plan;
mod progress;
mod room;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nearfield_proto::log::v1::{Entry, Stamp, entry};
use tokio::sync::mpsc;
use tokio::sync::oneshot;

use crate::engine::stamp::HybridClock;
use crate::engine::vector_clock::VectorClock;
use crate::engine::{Address, State};
use crate::processor;
use crate::store::Store;
use crate::wal::{AppendError, Wal};
use batch::Batch;
use command::{Change, Command, Committed, Refusal, Replicated, Work};
pub use pace::{FEW_POINTS, Pace, Turn};
pub use plan::MAX_METADATA_BYTES;
pub use progress::{Kept, Progress};
pub use room::Room;

/// Commands that may wait; one more is refused at once.
pub const MAX_WAITING: usize = 4_096;

/// Unix time in nanoseconds.
pub type Now = Box<dyn Fn() -> u64 + Send>;

/// What a committer works with.
pub struct Parts {
    pub store: Arc<Store>,
    pub wal: Wal,
    pub origin: Origin,
    pub now: Now,
    pub clock: HybridClock,
    pub progress: Arc<Progress>,
    pub room: Room,
    pub pace: Arc<Pace>,
}

/// Who this instance is in the log.
#[derive(Clone, Debug)]
pub struct Origin {
    pub id: u64,
    pub region: String,
}

/// A handle to the committer; clones share it. When the last one is dropped the committer ends.
#[derive(Clone)]
pub struct Committer {
    queue: mpsc::Sender<Work>,
}

impl Committer {
    pub fn start(parts: Parts) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (queue, work) = mpsc::channel(MAX_WAITING);
        let sequence = parts.store.read().clock().get(parts.origin.id);
        let running = Running { parts, sequence, batch: Batch::default(), failing: false, charged: Duration::ZERO };
        let thread = std::thread::Builder::new().name("commit".into()).spawn(move || running.run(work))?;
        Ok((Self { queue }, thread))
    }

    /// Resolves once the change is durable and visible, or refused.
    pub async fn commit(&self, address: Address, change: Change) -> Result<Committed, Refusal> {
        let (reply, answer) = oneshot::channel();
        let work = Work::Command(Command { address, change, reply });
        self.queue.try_send(work).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Refusal::Overloaded,
            mpsc::error::TrySendError::Closed(_) => Refusal::Closed,
        })?;
        answer.await.map_err(|_| Refusal::Closed)?
    }

    /// Stores and applies what another instance has sent. Waits for room in the queue.
    pub async fn replicate(&self, entries: Vec<Entry>) -> Result<(), Refusal> {
        let (reply, answer) = oneshot::channel();
        let work = Work::Replicated(Replicated { entries, reply });
        self.queue.send(work).await.map_err(|_| Refusal::Closed)?;
        answer.await.map_err(|_| Refusal::Closed)?
    }

    /// The queue, to look at only: it does not keep the committer running.
    pub fn downgrade(&self) -> Queue {
        Queue(self.queue.downgrade())
    }
}

/// The committer's queue, seen from outside.
#[derive(Clone)]
pub struct Queue(mpsc::WeakSender<Work>);

impl Queue {
    /// Commands that wait now.
    pub fn waiting(&self) -> usize {
        self.0.upgrade().map_or(0, |queue| queue.max_capacity() - queue.capacity())
    }
}

struct Running {
    parts: Parts,
    /// Of the last entry admitted here.
    sequence: u64,
    batch: Batch,
    /// The last batch was not written: told once, not for each that follows.
    failing: bool,
    /// This thread's time that storing was charged with.
    charged: Duration,
}

impl Running {
    fn run(mut self, mut work: mpsc::Receiver<Work>) {
        while let Some(first) = work.blocking_recv() {
            self.accept(first);
            while !self.batch.is_full() {
                let Ok(next) = work.try_recv() else { break };
                self.accept(next);
            }
            self.seal();
            self.parts.progress.forget(&mut self.parts.wal);
        }
    }

    fn accept(&mut self, work: Work) {
        match work {
            Work::Command(command) => {
                if self.batch.conflicts(&command) || self.batch.is_full() {
                    self.seal();
                }
                self.admit(command);
            }
            Work::Replicated(replicated) => {
                self.seal();
                let answer = self.store_replicated(replicated.entries);
                // A link that is gone asks again.
                let _ = replicated.reply.send(answer);
            }
        }
    }

    fn admit(&mut self, command: Command) {
        let Command { address, mut change, reply } = command;
        if !change.is_removal() && self.parts.room.is_short() {
            let _ = reply.send(Err(Refusal::NoRoom));
            return;
        }
        self.batch.touch(&address, &change);
        let store = &self.parts.store;
        let planned = plan::plan(store, &store.read() as &State, &address, &mut change);
        match planned {
            Ok(plan) => {
                let entries: Vec<_> = plan.changes.into_iter().map(|change| self.stamp(&address, change)).collect();
                let session = VectorClock::from_iter([(self.parts.origin.id, self.sequence)]);
                self.batch.push(entries, plan.outcome, session, reply);
            }
            Err(refusal) => {
                let _ = reply.send(Err(refusal));
            }
        }
    }

    fn stamp(&mut self, address: &Address, change: entry::Change) -> Entry {
        let (physical, logical) = self.parts.clock.tick((self.parts.now)());
        self.sequence += 1;
        Entry {
            origin: self.parts.origin.id,
            sequence: self.sequence,
            stamp: Some(Stamp {
                physical,
                logical,
                region: self.parts.origin.region.clone(),
                writer: self.parts.origin.id,
            }),
            tenant: address.tenant.to_string(),
            collection: address.name.to_string(),
            change: Some(change),
        }
    }

    /// Makes the batch durable, then visible, then answers.
    fn seal(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        let written = self.write(&batch.entries);
        self.charge();
        if let Err(error) = written {
            // Their numbers go to the next entries: nothing of the batch is in the log.
            self.sequence -= batch.entries.len() as u64;
            batch.answer(|| Some(Refusal::Log(error.clone())));
            return;
        }
        batch.answer(|| None);
    }

    /// Before anybody is answered, who may go on with the next write.
    fn charge(&mut self) {
        let spent = processor::time_of_thread();
        self.parts.pace.spent(spent.saturating_sub(self.charged), Instant::now());
        self.charged = spent;
    }

    fn write(&mut self, entries: &[Entry]) -> Result<(), Arc<AppendError>> {
        if entries.is_empty() {
            return Ok(());
        }
        let appended = self.parts.wal.append(entries.iter());
        if appended.is_err() != self.failing {
            self.failing = appended.is_err();
            match &appended {
                Ok(()) => tracing::info!("batches are written again"),
                Err(error) => tracing::error!(error = error as &dyn std::error::Error, "batches are not written"),
            }
        }
        appended?;
        if let Err(malformed) = self.parts.store.apply(entries) {
            tracing::error!(%malformed, "an entry without effect is in the log");
        }
        self.parts.progress.advance(&self.parts.wal);
        Ok(())
    }

    fn store_replicated(&mut self, mut entries: Vec<Entry>) -> Result<(), Refusal> {
        if self.parts.room.is_short() {
            return Err(Refusal::NoRoom);
        }
        let known = self.parts.store.read().clock().clone();
        // Number 0 marks state rather than log; anything else that is known already is a repetition.
        entries.retain(|entry| entry.sequence == 0 || entry.sequence > known.get(entry.origin));
        for stamp in entries.iter().filter_map(|entry| entry.stamp.as_ref()) {
            self.parts.clock.observe(stamp);
        }
        Ok(self.write(&entries)?)
    }
}
