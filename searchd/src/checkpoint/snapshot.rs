//! A snapshot: the last checkpoint and the log after it, held fast while they are copied elsewhere.
//!
//! Files never change once they are named by a manifest, so a hard link holds one as it is, at no cost, whatever
//! checkpoints and merges remove meanwhile.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{Checkpointer, Error, collection_directory, manifest_file, read_manifest, records_of};
use crate::engine::vector_clock::VectorClock;
use crate::index::segment;
use crate::store::Store;
use crate::wal::{Reader, piece};

/// A directory that a searchd could start from. It goes with this value.
#[derive(Debug)]
pub struct Snapshot {
    pub directory: PathBuf,
    /// The first record of the log that is not in the checkpoint.
    pub from_record: u64,
    /// The first record of the log that is not in the snapshot.
    pub next_record: u64,
    /// The physical part of the latest stamp in it.
    pub latest: u64,
    /// What is applied after the snapshot's log is replayed.
    pub clock: VectorClock,
}

impl Snapshot {
    /// Holds what the checkpoint in `directory` names, and the log after it. Nothing must write checkpoints meanwhile.
    pub(super) fn take(directory: &Path, store: &Store, log: &Reader) -> Result<Self, Error> {
        let staging = snapshots_directory(directory).join(format!("{:016x}", rand::random::<u64>()));
        let io = |source| Error::Io { doing: "making the snapshot", path: staging.clone(), source };
        std::fs::create_dir_all(&staging).map_err(io)?;
        let mut snapshot =
            Self { directory: staging, from_record: 1, next_record: 1, latest: 0, clock: VectorClock::default() };
        if let Some(manifest) = read_manifest(directory)? {
            snapshot.from_record = manifest.from_record;
            // Some have one in common.
            let mut files = BTreeSet::from([manifest_file(directory)]);
            for collection in manifest.holders.iter().filter_map(|holder| holder.collection.as_ref()) {
                let home = collection_directory(directory, collection.incarnation);
                files.insert(records_of(directory, collection));
                for part in collection.segments.iter().map(|segment| segment.part) {
                    files.extend([segment::vectors_file(&home, part), segment::graph_file(&home, part)]);
                }
            }
            files.iter().try_for_each(|file| snapshot.hold(directory, file))?;
        }
        // In this order: the checkpoint has nothing that is not in the log by now, and what is applied by the time the
        // clock is read makes the snapshot look later than it is, never earlier.
        snapshot.next_record = log.durable() + 1;
        if !piece::copy(log, snapshot.from_record, snapshot.next_record, &snapshot.directory.join("wal"))? {
            return Err(Error::LogCut);
        }
        let state = store.read();
        snapshot.latest = state.latest().map_or(0, |stamp| stamp.physical);
        snapshot.clock = state.clock().clone();
        Ok(snapshot)
    }

    fn hold(&self, directory: &Path, file: &Path) -> Result<(), Error> {
        let inside = file.strip_prefix(directory).expect("what a manifest names is in its directory");
        let path = self.directory.join(inside);
        let link = || {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::hard_link(file, &path)
        };
        link().map_err(|source| Error::Io { doing: "holding", path: file.into(), source })
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.directory) {
            tracing::warn!(%error, directory = %self.directory.display(), "a snapshot could not be removed");
        }
    }
}

impl Checkpointer {
    /// A snapshot of what the last checkpoint has and the log after it.
    pub fn snapshot(&self, store: &Store, log: &Reader) -> Result<Snapshot, Error> {
        Snapshot::take(self.directory(), store, log)
    }
}

/// Removes what a crash has left. Call before anything makes snapshots.
pub fn remove_leftovers(directory: &Path) {
    let leftovers = snapshots_directory(directory);
    if leftovers.is_dir()
        && let Err(error) = std::fs::remove_dir_all(&leftovers)
    {
        tracing::warn!(%error, "old snapshots could not be removed");
    }
}

fn snapshots_directory(directory: &Path) -> PathBuf {
    directory.join("snapshots")
}
