//! Making a backup: what a snapshot holds goes to the object storage, as far as it is not there.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt};
use parking_lot::Mutex;

use super::manifest::{self, Backup, FORMAT, File};
use super::repository::{CHUNK_BYTES, CHUNKS, Repository, chunk_object};
use super::retention::GRACE;
use super::{Error, blocking};
use crate::checkpoint::Snapshot;

/// Whose backup it is.
#[derive(Clone, Debug)]
pub struct Identity {
    pub node: u64,
    pub region: String,
}

/// A backup that was made, and how much of it was not there before.
#[derive(Clone, Debug)]
pub struct Created {
    pub backup: Backup,
    pub sent_bytes: u64,
}

/// Sends what is missing, `concurrency` chunks at a time (so `concurrency` × [`CHUNK_BYTES`] of memory), then the
/// manifest. After an interruption the next call finds what was sent.
pub async fn create(
    repository: &Repository,
    snapshot: &Snapshot,
    identity: &Identity,
    concurrency: usize,
) -> Result<Created, Error> {
    let directory = snapshot.directory.clone();
    let sources = blocking(move || list(&directory)).await??;
    let sending = Sending {
        repository: repository.clone(),
        known: Mutex::new(known(repository).await?),
        sent: AtomicU64::new(0),
        names: sources.iter().map(|source| Mutex::new(vec![String::new(); source.chunks])).collect(),
        sources,
    };
    let jobs: Vec<(usize, usize)> = (0..sending.sources.len())
        .flat_map(|at| (0..sending.sources[at].chunks).map(move |chunk| (at, chunk)))
        .collect();
    let requests = futures::stream::iter(jobs).map(|(at, chunk)| sending.send(at, chunk).boxed());
    requests.buffer_unordered(concurrency.max(1)).try_collect::<Vec<()>>().await?;
    let files = sending.sources.iter().zip(&sending.names).map(|(source, names)| File {
        path: source.name.clone(),
        bytes: source.bytes,
        chunks: std::mem::take(&mut *names.lock()),
    });
    let finished = unix_nanoseconds();
    let backup = Backup {
        format: FORMAT,
        id: Backup::name(finished, identity.node),
        node: format!("{:016x}", identity.node),
        region: identity.region.clone(),
        finished,
        from_record: snapshot.from_record,
        next_record: snapshot.next_record,
        latest: snapshot.latest,
        clock: snapshot.clock.iter().map(|(origin, sequence)| (format!("{origin:016x}"), sequence)).collect(),
        files: files.collect(),
    };
    backup.store(repository).await?;
    Ok(Created { backup, sent_bytes: sending.sent.load(Ordering::Relaxed) })
}

struct Sending {
    repository: Repository,
    sources: Vec<Source>,
    /// Of the chunks of each source, as far as they are there.
    names: Vec<Mutex<Vec<String>>>,
    known: Mutex<HashSet<String>>,
    sent: AtomicU64,
}

impl Sending {
    async fn send(&self, at: usize, chunk: usize) -> Result<(), Error> {
        let path = self.sources[at].path.clone();
        let (name, bytes) = blocking(move || read(&path, chunk)).await??;
        let is_new = self.known.lock().insert(name.clone());
        if is_new {
            self.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            self.repository.put(&chunk_object(&name), bytes).await?;
        }
        self.names[at].lock()[chunk] = name;
        Ok(())
    }
}

/// The chunks that are there and stay: those of the newest backup, and those that are too new to be cleared away. Any
/// other may be about to go, and is sent again.
async fn known(repository: &Repository) -> Result<HashSet<String>, Error> {
    let mut known = HashSet::new();
    let since = SystemTime::now() - GRACE / 2;
    let mut there = HashSet::new();
    for meta in repository.list(CHUNKS).await? {
        let Some(name) = meta.location.filename() else { continue };
        if SystemTime::from(meta.last_modified) > since {
            known.insert(name.to_owned());
        }
        there.insert(name.to_owned());
    }
    if let Some(newest) = manifest::ids(repository).await?.pop() {
        match Backup::load(repository, &newest).await {
            Ok(backup) => known.extend(backup.files.into_iter().flat_map(|file| file.chunks)),
            // Nothing is to be learnt from it then; this backup is the better one.
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "the newest backup cannot be read"),
        }
    }
    known.retain(|name| there.contains(name));
    Ok(known)
}

struct Source {
    path: PathBuf,
    /// Below the snapshot's directory.
    name: String,
    bytes: u64,
    chunks: usize,
}

fn list(root: &Path) -> Result<Vec<Source>, Error> {
    let mut sources = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        let failed = |source| Error::Io { doing: "listing", path: directory.clone(), source };
        for entry in std::fs::read_dir(&directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let meta = std::fs::metadata(&path).map_err(failed)?;
            if meta.is_dir() {
                directories.push(path);
                continue;
            }
            let inside = path.strip_prefix(root).expect("it was found in there");
            let name = inside.to_str().expect("our own names are ASCII").to_owned();
            let chunks = (meta.len() as usize).div_ceil(CHUNK_BYTES);
            sources.push(Source { path, name, bytes: meta.len(), chunks });
        }
    }
    sources.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(sources)
}

/// A chunk of a file, and its name.
fn read(path: &Path, chunk: usize) -> Result<(String, Bytes), Error> {
    use std::io::{Read, Seek, SeekFrom};
    let read = || {
        let mut file = std::fs::File::open(path)?;
        file.seek(SeekFrom::Start((chunk * CHUNK_BYTES) as u64))?;
        let mut bytes = Vec::with_capacity(CHUNK_BYTES);
        file.take(CHUNK_BYTES as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|source| Error::Io { doing: "reading", path: path.into(), source })?;
    Ok((blake3::hash(&bytes).to_hex().to_string(), bytes.into()))
}

fn unix_nanoseconds() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    since.as_nanos() as u64
}
