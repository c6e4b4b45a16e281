//! Checkpoints: the state on the disk, so that a restart maps segments and replays only the tail of the log.
//!
//! A checkpoint notes where the log is, then writes each changed collection's records beside writes that go on. What it
//! catches may be newer than the place in the log; replaying from there merges the same entries once more, which changes
//! nothing. `MANIFEST` names everything that belongs together and is replaced by renaming, so a crash leaves the old
//! checkpoint or the new one.

mod copying;
mod format;
mod records;
mod restore;
mod shared;
mod snapshot;
mod write;

use std::io;
use std::path::{Path, PathBuf};

use prost::Message;

use crate::engine::Malformed;
use crate::index::segment;
use crate::wal::sync_directory;
use format::{FORMAT, Manifest, OLDEST};
pub use restore::{Restored, restore};
pub use snapshot::{Snapshot, remove_leftovers};
pub use write::Checkpointer;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{doing} {}", .path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("the checkpoint file {} is damaged; restore it from a backup, or start from a peer with an empty directory", .0.display())]
    Damaged(PathBuf),
    #[error("the checkpoint {} has format {found}, this searchd reads {OLDEST} to {FORMAT}", .path.display())]
    Format { path: PathBuf, found: u32 },
    #[error("an entry of the checkpoint")]
    Malformed(#[from] Malformed),
    #[error(transparent)]
    Segment(#[from] segment::Error),
    #[error(transparent)]
    Log(#[from] crate::wal::Error),
    #[error("the log no longer reaches back to the checkpoint")]
    LogCut,
}

fn manifest_file(directory: &Path) -> PathBuf {
    directory.join("MANIFEST")
}

/// The folder with what manifests name. A file in it is written once, and never again under its name; but for a graph that was
/// damaged, and is replaced by one that is as good.
pub const COLLECTIONS: &str = "collections";

fn collections_directory(directory: &Path) -> PathBuf {
    directory.join(COLLECTIONS)
}

/// Where a collection's segments and records are.
pub fn collection_directory(directory: &Path, incarnation: u64) -> PathBuf {
    collections_directory(directory).join(format!("{incarnation:016x}"))
}

/// Where a collection's records are that have a file of their own.
fn records_file(directory: &Path, incarnation: u64, number: u64) -> PathBuf {
    collection_directory(directory, incarnation).join(format!("records-{number:08}"))
}

/// The file with the records of a collection that a manifest names.
fn records_of(directory: &Path, collection: &format::Collection) -> PathBuf {
    match collection.part {
        Some(_) => shared::file(directory, collection.records),
        None => records_file(directory, collection.incarnation, collection.records),
    }
}

/// The manifest, or none in a directory that never had a checkpoint.
fn read_manifest(directory: &Path) -> Result<Option<Manifest>, Error> {
    let path = manifest_file(directory);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::Io { doing: "reading", path, source }),
    };
    let Some((checksum, payload)) = bytes.split_at_checked(blake3::OUT_LEN) else { return Err(Error::Damaged(path)) };
    if blake3::hash(payload).as_bytes() != checksum {
        return Err(Error::Damaged(path));
    }
    let manifest = Manifest::decode(payload).map_err(|_| Error::Damaged(path.clone()))?;
    if !(OLDEST..=FORMAT).contains(&manifest.format) {
        return Err(Error::Format { path, found: manifest.format });
    }
    Ok(Some(manifest))
}

/// Replaces the manifest. It is durable afterwards.
fn write_manifest(directory: &Path, manifest: &Manifest) -> Result<(), Error> {
    let path = manifest_file(directory);
    let temporary = path.with_extension("tmp");
    let payload = manifest.encode_to_vec();
    let bytes = [&blake3::hash(&payload).as_bytes()[..], &payload].concat();
    let write = || {
        std::fs::write(&temporary, bytes)?;
        std::fs::File::open(&temporary)?.sync_all()?;
        std::fs::rename(&temporary, &path)?;
        sync_directory(directory)
    };
    write().map_err(|source| Error::Io { doing: "writing", path: path.clone(), source })
}
