//! The second thread behind the scenes, for what takes minutes: merges and rewrites segments, builds damaged graphs anew,
//! checks what was opened from the disk. Heads are sealed and checkpoints written meanwhile.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Instant;

use super::rest::Rest;
use super::{INTERVAL, PAUSE, make_directory, retire};
use crate::checkpoint::collection_directory;
use crate::index::Index;
use crate::index::graph::Builder;
use crate::index::segment;
use crate::priority::{Priority, lowered};
use crate::store::Store;

/// Of merges that cannot wait, and of what makes searches fast again after a start.
const PRIORITY: Priority = Priority::Nice(15);
/// A merge has what is left over where there are fewer segments than these. Where there are more, searches may take all there is
/// just because of them, and little would be left over to make them fewer.
const MANY_SEGMENTS: usize = 8;

pub(super) struct Merging {
    pub(super) store: Arc<Store>,
    pub(super) builder: Arc<dyn Builder>,
    pub(super) directory: PathBuf,
    pub(super) rest: Rest,
}

/// The running thread, which ends some moments after this is dropped; with [`Running::finish`] it has ended.
pub(super) struct Running {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Running {
    /// Builds have to be stopped before. Blocks.
    pub(super) fn finish(self) {
        drop(self.stop);
        // A panic was reported by the thread itself.
        let _ = self.thread.join();
    }
}

impl Merging {
    pub(super) fn start(mut self) -> std::io::Result<Running> {
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("merging".into()).spawn(move || {
            let mut wait = INTERVAL;
            while stopped.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                wait = if self.round() { INTERVAL } else { PAUSE };
            }
        })?;
        Ok(Running { stop, thread })
    }

    /// Does something for each collection that needs it, what makes searches fast again first; false when something failed.
    fn round(&mut self) -> bool {
        let mut fine = true;
        let indexes = self.store.indexes();
        self.rest.retain(&indexes);
        for step in [Self::load, Self::mend, Self::merge] {
            for (incarnation, index) in &indexes {
                match step(self, *incarnation, index) {
                    Ok(()) => {}
                    Err(error) if error.is_stop() => return true,
                    // Its directory may have gone with it.
                    Err(_) if self.store.index(*incarnation).is_none() => {}
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::error!(error, "merging failed; searches go on without");
                        fine = false;
                    }
                }
            }
        }
        fine
    }

    fn load(&mut self, incarnation: u64, index: &Index) -> Result<(), segment::Error> {
        let directory = collection_directory(&self.directory, incarnation);
        while index.has_to_load() && lowered(PRIORITY, || index.load_one(&directory, &*self.builder))? {}
        Ok(())
    }

    fn mend(&mut self, incarnation: u64, index: &Index) -> Result<(), segment::Error> {
        let directory = collection_directory(&self.directory, incarnation);
        if index.has_to_mend() {
            let mended = lowered(PRIORITY, || index.mend(&directory, &*self.builder))?;
            tracing::warn!(incarnation, mended, "built damaged graphs anew");
        }
        if index.has_to_check() {
            lowered(PRIORITY, || index.check_one(&directory));
        }
        Ok(())
    }

    fn merge(&mut self, incarnation: u64, index: &Index) -> Result<(), segment::Error> {
        let quiet = self.rest.quiet(incarnation, index);
        let at_rest = || quiet.and_then(|quiet| index.merge_sources_at_rest(quiet));
        let Some(sources) = index.merge_sources().or_else(at_rest) else { return Ok(()) };
        let (started, directory) = (Instant::now(), collection_directory(&self.directory, incarnation));
        make_directory(&directory)?;
        let can_wait = index.segments().len() < MANY_SEGMENTS;
        let priority = if can_wait { Priority::LeftOver } else { PRIORITY };
        let built = lowered(priority, || index.build(&sources, &directory, &*self.builder))?;
        index.install(&sources, built);
        retire(sources);
        let segments = index.segments().len();
        tracing::info!(incarnation, segments, seconds = started.elapsed().as_secs_f64(), "merged segments");
        Ok(())
    }
}
