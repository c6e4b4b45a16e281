//! The thread behind the scenes: seals what heads have gathered, a piece at a time, and writes checkpoints. A second one
//! ([`merging`]) does what takes longer.
//!
//! Whatever takes them long is done with what searches leave over ([`crate::priority`]), and they hold no lock meanwhile.

mod merging;
mod rest;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::checkpoint::{self, Checkpointer, Snapshot, collection_directory};
use crate::commit::{Progress, Room};
use crate::index::Index;
use crate::index::graph::Builder;
use crate::index::headroom::Bounds;
use crate::index::seal::Sources;
use crate::index::segment;
use crate::priority::{Priority, lowered};
use crate::search::pool::Pool;
use crate::store::Store;
use crate::wal::Reader;
use merging::Merging;
use rest::Rest;

/// How often the thread looks whether there is something to do.
const INTERVAL: Duration = Duration::from_millis(100);
/// After a failure (a full disk, say) it waits longer.
const PAUSE: Duration = Duration::from_secs(10);
/// Of copying for a snapshot, and of a piece after one that got nearly nothing of what is left over.
const PRIORITY: Priority = Priority::Nice(10);
/// For each row of a piece: when it takes longer, others leave nothing over. It is twenty times what it takes alone.
const STARVED: Duration = Duration::from_millis(3);
/// How long what was replaced is kept for searches that still look at it, and how often that is asked.
const RETIRED: Duration = Duration::from_secs(1);
const RETIRING: Duration = Duration::from_millis(2);

pub struct Maintenance {
    pub store: Arc<Store>,
    pub progress: Arc<Progress>,
    pub log: Reader,
    pub checkpointer: Checkpointer,
    pub builder: Arc<dyn Builder>,
    /// Tells the builder to stop.
    pub stop: Arc<AtomicBool>,
    pub directory: PathBuf,
    /// Full chunks that make sealing worth while.
    pub seal_chunks: usize,
    /// What may wait in a collection.
    pub bounds: Bounds,
    /// Where searches are asked.
    pub pool: Pool,
    /// Time without a write after which a collection is at rest.
    pub rest_after: Duration,
    /// Bytes of log after which a checkpoint is written.
    pub checkpoint_bytes: u64,
    /// While it is short, whatever changed is reason enough: a checkpoint gives back what deletes made superfluous.
    pub room: Room,
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
    /// piece of a head is being sealed.
    pub async fn take(&self) -> Option<Result<Snapshot, checkpoint::Error>> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Order::Snapshot(reply)).ok()?;
        answer.await.ok()
    }
}

/// The running threads.
pub struct Running {
    orders: mpsc::Sender<Order>,
    thread: JoinHandle<()>,
    merging: merging::Running,
    stop: Arc<AtomicBool>,
}

impl Running {
    pub fn snapshots(&self) -> Snapshots {
        Snapshots(self.orders.clone())
    }

    /// Writes a last checkpoint and ends the threads; what they build is given up. Call when the committer has ended; blocks.
    pub fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.merging.finish();
        // Gone only when the thread is.
        let _ = self.orders.send(Order::Stop);
        // A panic was reported by the thread itself.
        let _ = self.thread.join();
    }
}

/// What is known from the rounds before.
struct Known {
    rest: Rest,
    /// The last piece that was sealed got nearly nothing of what is left over.
    is_starved: bool,
}

/// What a round came to.
struct Round {
    is_fine: bool,
    /// There is more to be sealed at once.
    has_more: bool,
}

impl Maintenance {
    pub fn start(mut self) -> std::io::Result<Running> {
        let (store, builder, directory) = (self.store.clone(), self.builder.clone(), self.directory.clone());
        let merging = Merging { store, builder, directory, rest: Rest::new(self.rest_after) }.start()?;
        let stop = self.stop.clone();
        let (orders, inbox) = mpsc::channel();
        let thread = std::thread::Builder::new().name("maintenance".into()).spawn(move || {
            let mut known = Known { rest: Rest::new(self.rest_after), is_starved: false };
            let mut wait = INTERVAL;
            loop {
                match inbox.recv_timeout(wait) {
                    Err(RecvTimeoutError::Timeout) => {
                        let Round { is_fine, has_more } = self.round(&mut known);
                        wait = match (is_fine, has_more) {
                            (false, _) => PAUSE,
                            (true, true) => Duration::ZERO,
                            (true, false) => INTERVAL,
                        };
                    }
                    // Whoever asked may have gone.
                    Ok(Order::Snapshot(reply)) => drop(reply.send(self.snapshot())),
                    Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            if self.has_to_checkpoint() {
                self.checkpoint();
            }
        })?;
        Ok(Running { orders, thread, merging, stop })
    }

    /// Seals one piece of each head that has one, and writes a checkpoint when it is time.
    fn round(&mut self, known: &mut Known) -> Round {
        let mut round = Round { is_fine: true, has_more: false };
        let mut is_settled_anew = false;
        let indexes = self.store.indexes();
        known.rest.retain(&indexes);
        for (incarnation, index) in indexes {
            let is_at_rest = known.rest.is_at_rest(incarnation, &index);
            match self.seal(incarnation, &index, is_at_rest, &mut known.is_starved) {
                Ok(sealed) => round.has_more |= sealed,
                Err(error) if error.is_stop() => return round,
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "sealing failed; searches go on without");
                    round.is_fine = false;
                }
            }
            is_settled_anew |= is_at_rest && !self.checkpointer.names_segments(incarnation, &index);
        }
        let changed = self.progress.records_since_checkpoint() > 0;
        let is_much = self.progress.bytes_since_checkpoint() >= self.checkpoint_bytes;
        // Nothing is written that would make it much, and what was built last would be built again after a crash.
        let has_settled = is_settled_anew && self.checkpointer.age() >= self.rest_after;
        if is_much || has_settled || changed && self.room.is_short() {
            round.is_fine &= self.checkpoint();
        }
        round
    }

    /// Seals the next piece of a head; false when it has none.
    fn seal(
        &self,
        incarnation: u64,
        index: &Index,
        at_rest: bool,
        is_starved: &mut bool,
    ) -> Result<bool, segment::Error> {
        let enough = || index.head_sources(self.seal_chunks);
        // Half of what may wait is kept for what comes while a piece is sealed; a large write may wait for the other half.
        let in_need = || {
            let is_waited_for = index.headroom.queued() > 0;
            let bound = self.bounds.now(self.pool.is_asked());
            let is_in_need = bound > 0 && (is_waited_for || index.waiting_bytes() >= bound / 2);
            is_in_need.then(|| index.head_sources_in_need()).flatten()
        };
        let at_rest = || at_rest.then(|| index.head_sources_at_rest()).flatten();
        let Some(sources) = enough().or_else(in_need).or_else(at_rest) else { return Ok(false) };
        let (started, directory) = (Instant::now(), collection_directory(&self.directory, incarnation));
        make_directory(&directory)?;
        let priority = if *is_starved { PRIORITY } else { Priority::LeftOver };
        let built = lowered(priority, || index.build(&sources, &directory, &*self.builder))?;
        *is_starved = started.elapsed() > STARVED * sources.rows() as u32;
        index.install(&sources, built);
        retire(sources);
        let (waiting, seconds) = (index.waiting_rows(), started.elapsed().as_secs_f64());
        tracing::info!(incarnation, waiting, seconds, "sealed a piece of the head");
        Ok(true)
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
        // Not put off: it holds the state now and then. It puts off itself what takes long.
        self.checkpointer.write(&self.store, record)?;
        self.progress.checkpointed(record, bytes);
        tracing::info!(record, seconds = started.elapsed().as_secs_f64(), "wrote a checkpoint");
        Ok(())
    }

    /// Whether a start from the last checkpoint would have anything to do.
    fn has_to_checkpoint(&self) -> bool {
        let names_all = || {
            let indexes = self.store.indexes();
            indexes.iter().all(|(incarnation, index)| self.checkpointer.names_segments(*incarnation, index))
        };
        self.progress.records_since_checkpoint() > 0 || !names_all()
    }

    fn snapshot(&mut self) -> Result<Snapshot, checkpoint::Error> {
        if self.has_to_checkpoint() {
            self.write_checkpoint()?;
        }
        lowered(PRIORITY, || self.checkpointer.snapshot(&self.store, &self.log))
    }
}

/// Returns when no search looks at what was replaced any more. The last one would have to give its memory back, which takes
/// longer than the search.
fn retire(sources: Sources) {
    let end = Instant::now() + RETIRED;
    while sources.are_looked_at() && Instant::now() < end {
        std::thread::sleep(RETIRING);
    }
}

fn make_directory(directory: &Path) -> Result<(), segment::Error> {
    std::fs::create_dir_all(directory).map_err(|source| segment::Error::Io {
        doing: "making the directory of",
        file: directory.into(),
        source,
    })
}
