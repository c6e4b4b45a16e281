//! The thread behind the scenes: seals what the head has gathered, merges and rewrites segments, writes checkpoints.
//!
//! There is one, at a lower priority than searches, and it holds no lock while it builds.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::checkpoint::{Checkpointer, collection_directory};
use crate::commit::Progress;
use crate::index::Index;
use crate::index::graph::Builder;
use crate::index::segment;
use crate::store::Store;

/// How often the thread looks whether there is something to do.
const INTERVAL: Duration = Duration::from_millis(100);
/// After a failure (a full disk, say) it waits longer.
const PAUSE: Duration = Duration::from_secs(10);
/// Added to the thread's nice value.
const NICENESS: i32 = 10;

pub struct Maintenance {
    pub store: Arc<Store>,
    pub progress: Arc<Progress>,
    pub checkpointer: Checkpointer,
    pub builder: Box<dyn Builder>,
    pub directory: PathBuf,
    /// Full chunks that make sealing worth while.
    pub seal_chunks: usize,
    /// Bytes of log after which a checkpoint is written.
    pub checkpoint_bytes: u64,
}

/// The running thread.
pub struct Running {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Running {
    /// Writes a last checkpoint and ends the thread. Call when the committer has ended; blocks.
    pub fn finish(self) {
        drop(self.stop);
        // A panic was reported by the thread itself.
        let _ = self.thread.join();
    }
}

impl Maintenance {
    pub fn start(mut self) -> std::io::Result<Running> {
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("maintenance".into()).spawn(move || {
            yield_to_searches();
            let mut wait = INTERVAL;
            while stopped.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                wait = if self.round() { INTERVAL } else { PAUSE };
            }
            if self.progress.records_since_checkpoint() > 0 {
                self.checkpoint();
            }
        })?;
        Ok(Running { stop, thread })
    }

    /// Does what there is to do; false when something failed.
    pub fn round(&mut self) -> bool {
        let mut fine = true;
        for (incarnation, index) in self.store.indexes() {
            if let Err(error) = self.tend(incarnation, &index) {
                tracing::error!(error = &error as &dyn std::error::Error, "sealing failed; searches go on without");
                fine = false;
            }
        }
        if self.progress.bytes_since_checkpoint() >= self.checkpoint_bytes {
            fine &= self.checkpoint();
        }
        fine
    }

    fn tend(&self, incarnation: u64, index: &Index) -> Result<(), segment::Error> {
        while let Some(sources) = index.sources(self.seal_chunks) {
            let directory = collection_directory(&self.directory, incarnation);
            std::fs::create_dir_all(&directory).map_err(|source| segment::Error::Io {
                doing: "making the directory of",
                file: directory.clone(),
                source,
            })?;
            let started = std::time::Instant::now();
            index.seal(&sources, &directory, &*self.builder)?;
            let segments = index.segments().len();
            tracing::info!(incarnation, segments, seconds = started.elapsed().as_secs_f64(), "sealed a segment");
        }
        Ok(())
    }

    fn checkpoint(&mut self) -> bool {
        let started = std::time::Instant::now();
        let (record, bytes) = self.progress.position();
        match self.checkpointer.write(&self.store, record) {
            Ok(()) => {
                self.progress.checkpointed(record, bytes);
                tracing::info!(record, seconds = started.elapsed().as_secs_f64(), "wrote a checkpoint");
                true
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "writing a checkpoint failed");
                false
            }
        }
    }
}

fn yield_to_searches() {
    // SAFETY: the call takes numbers and touches no memory; 0 is the calling thread. Failing leaves the priority alone.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
}
