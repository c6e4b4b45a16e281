//! One file of vectors on its way from the object storage: blocks of it for searches, and chunk by chunk the whole.

use std::fs::{self, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::manifest::File;
use super::repository::{CHUNK_BYTES, Repository};
use super::{Error, blocking};
use crate::index::arrival::{Arrival, BLOCK_BYTES, Source};
use crate::index::vectors::{HEADER, Header};

const BLOCKS: usize = CHUNK_BYTES / BLOCK_BYTES;
/// Requests for blocks that searches wait for, at the same time.
pub(super) const MOST_REQUESTS: usize = 64;
/// A chunk waits this long, so often, for searches that need blocks.
const YIELD: Duration = Duration::from_millis(10);
const MOST_YIELDS: usize = 50;

pub(super) struct Coming {
    pub(super) path: PathBuf,
    pub(super) arrival: Arc<Arrival>,
    remote: Arc<Remote>,
    /// Of each chunk: it is there, and what its name says.
    verified: Box<[AtomicBool]>,
}

/// Where the file comes from and goes to.
struct Remote {
    repository: Repository,
    file: File,
    local: fs::File,
    /// Bounds the requests of all searches.
    requests: Arc<Semaphore>,
    runtime: Handle,
}

impl Coming {
    /// None when the file is gone.
    pub(super) fn open(
        directory: &Path,
        file: File,
        (repository, requests, runtime): (Repository, Arc<Semaphore>, Handle),
    ) -> Result<Option<Self>, Error> {
        let path = directory.join(&file.path);
        let failed = |source| Error::Io { doing: "opening", path: path.clone(), source };
        let local = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(local) => local,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(failed(source)),
        };
        let mut header = [0; HEADER];
        local.read_exact_at(&mut header, 0).map_err(failed)?;
        let tables = Header::read(&header).and_then(|header| header.tables(file.bytes));
        let rows = HEADER as u64..tables.ok_or_else(|| Error::Damaged(file.path.clone()))?.start;
        let bytes = file.bytes;
        let verified = file.chunks.iter().map(|_| AtomicBool::new(false)).collect();
        let remote = Arc::new(Remote { repository, file, local, requests, runtime });
        let arrival = Arc::new(Arrival::new(Box::new(Fetching(remote.clone())), bytes, rows));
        Ok(Some(Self { path, arrival, remote, verified }))
    }

    /// What it consists of.
    pub(super) fn file(&self) -> File {
        self.remote.file.clone()
    }

    pub(super) fn chunks(&self) -> usize {
        self.verified.len()
    }

    pub(super) fn is_verified(&self, chunk: usize) -> bool {
        self.verified[chunk].load(Ordering::Relaxed)
    }

    /// Sees to it that a chunk is there, verified and durable; false when it could not be fetched.
    pub(super) async fn fetch(&self, chunk: usize, pace: &Pace) -> bool {
        let outcome = self.try_fetch(chunk, pace).await;
        if let Err(error) = &outcome {
            let (error, file) = (error as &dyn std::error::Error, self.path.display());
            tracing::warn!(error, %file, chunk, "vectors could not be fetched; trying again soon");
        }
        self.verified[chunk].store(outcome.is_ok(), Ordering::Relaxed);
        outcome.is_ok()
    }

    async fn try_fetch(&self, chunk: usize, pace: &Pace) -> Result<(), Error> {
        let (remote, arrival) = (self.remote.clone(), self.arrival.clone());
        let blocks =
            chunk * BLOCKS..(chunk * BLOCKS + BLOCKS).min(remote.file.bytes.div_ceil(BLOCK_BYTES as u64) as usize);
        let looking = remote.clone();
        if blocking(move || looking.has(chunk)).await? {
            arrival.found(blocks);
            return Ok(());
        }
        remote.yield_to_searches().await;
        pace.wait(remote.range(chunk).end - remote.range(chunk).start).await;
        let bytes = remote.repository.chunk(&remote.file.chunks[chunk]).await?;
        let range = remote.range(chunk);
        if bytes.len() as u64 != range.end - range.start {
            return Err(Error::Damaged(remote.file.path.clone()));
        }
        let path = self.path.clone();
        let write = move || arrival.place(blocks, &bytes, true).and_then(|()| remote.local.sync_data());
        blocking(write).await?.map_err(|source| Error::Io { doing: "writing", path, source })
    }
}

impl Remote {
    /// Where a chunk is in the file.
    fn range(&self, chunk: usize) -> Range<u64> {
        let start = (chunk * CHUNK_BYTES) as u64;
        start..self.file.bytes.min(start + CHUNK_BYTES as u64)
    }

    /// Whether a chunk was fetched before a crash. A file that was just laid out is nothing but a hole.
    fn has(&self, chunk: usize) -> bool {
        let range = self.range(chunk);
        // SAFETY: the call takes numbers; nobody reads or writes at the position that it moves.
        let hole = unsafe { libc::lseek(self.local.as_raw_fd(), range.start as i64, libc::SEEK_HOLE) };
        if u64::try_from(hole).is_ok_and(|hole| hole < range.end) {
            return false;
        }
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let is_read = self.local.read_exact_at(&mut bytes, range.start).is_ok();
        is_read && blake3::hash(&bytes).to_hex().as_str() == self.file.chunks[chunk]
    }

    /// Lets searches go first that wait for blocks, for a while.
    async fn yield_to_searches(&self) {
        for _ in 0..MOST_YIELDS {
            if self.requests.available_permits() == MOST_REQUESTS {
                return;
            }
            tokio::time::sleep(YIELD).await;
        }
    }

    /// Some blocks of one chunk, as the storage has them.
    async fn blocks(&self, blocks: Range<usize>) -> Result<Bytes, Error> {
        let (start, end) = ((blocks.start * BLOCK_BYTES) as u64, (blocks.end * BLOCK_BYTES) as u64);
        self.repository.range(&self.file, start..end.min(self.file.bytes)).await
    }
}

struct Fetching(Arc<Remote>);

impl Source for Fetching {
    fn begin(&self, arrival: &Arc<Arrival>, blocks: Range<usize>) {
        let (remote, arrival) = (self.0.clone(), arrival.clone());
        self.0.runtime.spawn(async move {
            let fetched = {
                let _request = remote.requests.acquire().await;
                remote.blocks(blocks.clone()).await
            };
            let (placing, wanted) = (arrival.clone(), blocks.clone());
            let placed = match fetched {
                Ok(bytes) => blocking(move || placing.place(wanted, &bytes, false)).await,
                Err(error) => Err(error),
            };
            let path = || PathBuf::from(&remote.file.path);
            let written = placed
                .and_then(|written| written.map_err(|source| Error::Io { doing: "writing", path: path(), source }));
            if let Err(error) = written {
                let (error, file) = (&error as &dyn std::error::Error, &remote.file.path);
                tracing::warn!(error, file, "vectors that a search needs could not be fetched");
                arrival.failed(blocks);
            }
        });
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.local.write_all_at(bytes, offset)
    }
}

/// Keeps the background within a number of bytes a second.
pub(super) struct Pace {
    bytes_per_second: u64,
    next: Mutex<Instant>,
}

impl Pace {
    /// 0 for any number.
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, next: Mutex::new(Instant::now()) }
    }

    /// Resolves when so many more bytes may be fetched.
    async fn wait(&self, bytes: u64) {
        if self.bytes_per_second == 0 {
            return;
        }
        let turn = {
            let mut next = self.next.lock();
            *next = (*next).max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
            *next
        };
        tokio::time::sleep_until(turn).await;
    }
}
