//! The thread behind the scenes: seals what the head has gathered, merges and rewrites segments, builds damaged graphs
//! anew, checks what was opened from the disk, writes checkpoints.
//!
//! There is one, at a lower priority than searches, and it holds no lock while it builds.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::checkpoint::{self, Checkpointer, Snapshot, collection_directory};
use crate::commit::{Progress, Room};
use crate::index::Index;
use crate::index::graph::Builder;
use crate::index::segment;
use crate::store::Store;
use crate::wal::Reader;

/// How often the thread looks whether there is something to do.
const INTERVAL: Duration = Duration::from_millis(100);
/// After a failure (a full disk, say) it waits longer.
const PAUSE: Duration = Duration::from_secs(10);
/// Added to the thread's nice value.
const NICENESS: i32 = 10;

pub struct Maintenance {
    pub store: Arc<Store>,
    pub progress: Arc<Progress>,
    pub log: Reader,
    pub checkpointer: Checkpointer,
    pub builder: Box<dyn Builder>,
    pub directory: PathBuf,
    /// Full chunks that make sealing worth while.
    pub seal_chunks: usize,
    /// Time without a write after which a collection is at rest.
    pub rest_after: Duration,
    /// By incarnation: what was written last, and since when it is the last.
    pub quiet: HashMap<u64, Quiet>,
    /// Bytes of log after which a checkpoint is written.
    pub checkpoint_bytes: u64,
    /// While it is short, whatever changed is reason enough: a checkpoint gives back what deletes made superfluous.
    pub room: Room,
}

/// A collection's last write, and since when it is the last.
#[derive(Clone, Copy, Debug)]
pub struct Quiet {
    written: (u32, usize),
    since: Instant,
}

/// What the thread is asked to do besides.
enum Order {
    Snapshot(oneshot::Sender<Result<Snapshot, checkpoint::Error>>),
    Stop,
}

/// Asks the running thread for snapshots.
#[derive(Clone)]
pub struct Snapshots(mpsc::Sender<Order>);

impl Snapshots {
    /// A snapshot of everything that was acknowledged before the call; none when the thread has ended. Waits while a
    /// segment is being built.
    pub async fn take(&self) -> Option<Result<Snapshot, checkpoint::Error>> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Order::Snapshot(reply)).ok()?;
        answer.await.ok()
    }
}

/// The running thread.
pub struct Running {
    orders: mpsc::Sender<Order>,
    thread: JoinHandle<()>,
}

impl Running {
    pub fn snapshots(&self) -> Snapshots {
        Snapshots(self.orders.clone())
    }

    /// Writes a last checkpoint and ends the thread. Call when the committer has ended; blocks.
    pub fn finish(self) {
        // Gone only when the thread is.
        let _ = self.orders.send(Order::Stop);
        // A panic was reported by the thread itself.
        let _ = self.thread.join();
    }
}

impl Maintenance {
    pub fn start(mut self) -> std::io::Result<Running> {
        let (orders, inbox) = mpsc::channel();
        let thread = std::thread::Builder::new().name("maintenance".into()).spawn(move || {
            yield_to_searches();
            let mut wait = INTERVAL;
            loop {
                match inbox.recv_timeout(wait) {
                    Err(RecvTimeoutError::Timeout) => wait = if self.round() { INTERVAL } else { PAUSE },
                    // Whoever asked may have gone.
                    Ok(Order::Snapshot(reply)) => drop(reply.send(self.snapshot())),
                    Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            if self.progress.records_since_checkpoint() > 0 {
                self.checkpoint();
            }
        })?;
        Ok(Running { orders, thread })
    }

    /// Does what there is to do; false when something failed.
    pub fn round(&mut self) -> bool {
        let mut fine = true;
        let indexes = self.store.indexes();
        self.quiet.retain(|known, _| indexes.iter().any(|(incarnation, _)| incarnation == known));
        for (incarnation, index) in indexes {
            if let Err(error) = self.tend(incarnation, &index) {
                tracing::error!(error = &error as &dyn std::error::Error, "sealing failed; searches go on without");
                // What was written of it is room that a full disk needs.
                self.checkpointer.remove_orphans(&self.store);
                fine = false;
            }
        }
        let changed = self.progress.records_since_checkpoint() > 0;
        if self.progress.bytes_since_checkpoint() >= self.checkpoint_bytes || changed && self.room.is_short() {
            fine &= self.checkpoint();
        }
        fine
    }

    fn tend(&mut self, incarnation: u64, index: &Index) -> Result<(), segment::Error> {
        let directory = collection_directory(&self.directory, incarnation);
        while index.load_one(&directory, &*self.builder)? {}
        let mended = index.mend(&directory, &*self.builder)?;
        if mended > 0 {
            tracing::warn!(incarnation, mended, "built damaged graphs anew");
        }
        let at_rest = self.is_at_rest(incarnation, index);
        let at_rest = || at_rest.then(|| index.sources_at_rest()).flatten();
        while let Some(sources) = index.sources(self.seal_chunks).or_else(at_rest) {
            std::fs::create_dir_all(&directory).map_err(|source| segment::Error::Io {
                doing: "making the directory of",
                file: directory.clone(),
                source,
            })?;
            let started = Instant::now();
            index.seal(&sources, &directory, &*self.builder)?;
            let segments = index.segments().len();
            tracing::info!(incarnation, segments, seconds = started.elapsed().as_secs_f64(), "sealed a segment");
        }
        index.check_one(&directory);
        Ok(())
    }

    fn is_at_rest(&mut self, incarnation: u64, index: &Index) -> bool {
        let written = index.written();
        let quiet = self.quiet.entry(incarnation).or_insert_with(|| Quiet { written, since: Instant::now() });
        if quiet.written != written {
            *quiet = Quiet { written, since: Instant::now() };
        }
        quiet.since.elapsed() >= self.rest_after
    }

    fn checkpoint(&mut self) -> bool {
        let outcome = self.write_checkpoint();
        if let Err(error) = &outcome {
            tracing::error!(error = error as &dyn std::error::Error, "writing a checkpoint failed");
        }
        outcome.is_ok()
    }

    fn write_checkpoint(&mut self) -> Result<(), checkpoint::Error> {
        let started = Instant::now();
        let (record, bytes) = self.progress.position();
        self.checkpointer.write(&self.store, record)?;
        self.progress.checkpointed(record, bytes);
        tracing::info!(record, seconds = started.elapsed().as_secs_f64(), "wrote a checkpoint");
        Ok(())
    }

    fn snapshot(&mut self) -> Result<Snapshot, checkpoint::Error> {
        if self.progress.records_since_checkpoint() > 0 {
            self.write_checkpoint()?;
        }
        self.checkpointer.snapshot(&self.store, &self.log)
    }
}

/// Lowers the priority of this thread.
pub(crate) fn yield_to_searches() {
    // SAFETY: the call takes numbers and touches no memory; 0 is the calling thread. Failing leaves the priority alone.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
}
