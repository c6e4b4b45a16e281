//! Files of vectors that are still in the object storage while searchd serves already.
//!
//! A file in the data directory says which they are and what they consist of, until all of it is there, verified and
//! durable: so a start after a crash goes on, and holes are never taken for vectors. Until then searches fetch the blocks
//! that they need by range, and a task fetches the rest in whole chunks, verified by their names.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::Error;
use super::coming::{Coming, MOST_REQUESTS, Pace};
use super::manifest::File;
use super::repository::Repository;
use crate::index::arrival::Arrivals;
use crate::wal::sync_directory;

/// There until everything has come.
const MARK: &str = "ARRIVING";
/// Searches that waited for the start come first.
const HEAD_START: Duration = Duration::from_secs(1);
/// After chunks could not be fetched, the next attempt waits that long.
const PAUSE: Duration = Duration::from_secs(1);

/// What the mark says.
#[derive(Deserialize, Serialize)]
struct Mark {
    url: String,
    files: Vec<File>,
}

/// Writes the mark. It is durable afterwards.
pub(super) fn mark(directory: &Path, url: &str, files: Vec<File>) -> Result<(), Error> {
    let path = directory.join(MARK);
    let text = serde_json::to_string(&Mark { url: url.to_owned(), files }).expect("strings and numbers serialize");
    let write = || {
        fs::write(&path, format!("{}\n{text}", blake3::hash(text.as_bytes()).to_hex()))?;
        fs::File::open(&path)?.sync_all()?;
        sync_directory(directory)
    };
    write().map_err(|source| Error::Io { doing: "writing", path: path.clone(), source })
}

/// Removes the mark, if there is one: everything is there, or all of it will be looked at.
pub(super) fn unmark(directory: &Path) -> Result<(), Error> {
    let path = directory.join(MARK);
    match fs::remove_file(&path).and_then(|()| sync_directory(directory)) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Io { doing: "removing", path, source }),
        _ => Ok(()),
    }
}

fn read(directory: &Path) -> Result<Option<Mark>, Error> {
    let path = directory.join(MARK);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::Io { doing: "reading", path, source }),
    };
    let damaged = || Error::Damaged(path.display().to_string());
    let (hash, text) = text.split_once('\n').ok_or_else(damaged)?;
    if blake3::hash(text.as_bytes()).to_hex().as_str() != hash {
        return Err(damaged());
    }
    let mark: Mark = serde_json::from_str(text).map_err(|_| damaged())?;
    if mark.files.iter().all(File::is_inside) { Ok(Some(mark)) } else { Err(damaged()) }
}

/// The files that are on their way. Clones are the same.
#[derive(Clone)]
pub struct Arriving {
    directory: PathBuf,
    files: Arc<[Coming]>,
    whole: watch::Sender<bool>,
}

impl Arriving {
    /// What is not all there in a data directory: nothing, in most. Blocks are fetched on `runtime`.
    pub fn open(directory: &Path, runtime: &Handle) -> Result<Self, Error> {
        let Some(mark) = read(directory)? else {
            return Ok(Self { directory: directory.into(), files: Arc::default(), whole: watch::Sender::new(true) });
        };
        let repository = Repository::open(&mark.url)?;
        let requests = Arc::new(Semaphore::new(MOST_REQUESTS));
        let mut files = Vec::new();
        for file in mark.files {
            let from = (repository.clone(), requests.clone(), runtime.clone());
            // One that is missing went with its collection.
            files.extend(Coming::open(directory, file, from)?);
        }
        Ok(Self { directory: directory.into(), files: files.into(), whole: watch::Sender::new(false) })
    }

    /// By the files' paths.
    pub fn arrivals(&self) -> Arrivals {
        self.files.iter().map(|coming| (coming.path.clone(), coming.arrival.clone())).collect()
    }

    /// About how many bytes have not come yet.
    pub fn missing_bytes(&self) -> u64 {
        self.files.iter().map(|coming| coming.arrival.missing_bytes()).sum()
    }

    /// Resolves when everything is there.
    pub async fn whole(&self) {
        // Fails when the sender is gone, and it is here.
        let _ = self.whole.subscribe().wait_for(|whole| *whole).await;
    }

    /// Fetches what is missing until all of it is there, `concurrency` chunks at a time and at most so many bytes a second; 0 for
    /// any number. What the file has already is verified and kept.
    pub async fn fill(self, concurrency: usize, bytes_per_second: u64, stop: CancellationToken) {
        if *self.whole.borrow() {
            return;
        }
        let started = std::time::Instant::now();
        if stop.run_until_cancelled(tokio::time::sleep(HEAD_START)).await.is_none() {
            return;
        }
        tracing::info!(bytes = self.missing_bytes(), "vectors are still in the object storage; fetching them");
        let pace = Pace::new(bytes_per_second);
        while stop.run_until_cancelled(self.round(concurrency, &pace)).await == Some(false) {
            if stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_none() {
                return;
            }
        }
        if stop.is_cancelled() {
            return;
        }
        self.files.iter().for_each(|coming| coming.arrival.finish());
        if let Err(error) = unmark(&self.directory) {
            // The next start looks at everything once more.
            tracing::error!(error = &error as &dyn std::error::Error, "the vectors are there, but the mark remains");
        }
        self.whole.send_replace(true);
        tracing::info!(seconds = started.elapsed().as_secs_f64(), "all vectors have come from the object storage");
    }

    /// One attempt at every chunk that was not verified yet; whether all are there.
    async fn round(&self, concurrency: usize, pace: &Pace) -> bool {
        let chunks =
            (0..self.files.len()).flat_map(|file| (0..self.files[file].chunks()).map(move |chunk| (file, chunk)));
        let missing: Vec<_> = chunks.filter(|(file, chunk)| !self.files[*file].is_verified(*chunk)).collect();
        let fetched = futures::stream::iter(missing)
            .map(|(file, chunk)| self.files[file].fetch(chunk, pace).boxed())
            .buffer_unordered(concurrency.max(1));
        let outcomes: Vec<bool> = fetched.collect().await;
        tracing::info!(missing_bytes = self.missing_bytes(), "fetching vectors from the object storage");
        outcomes.into_iter().all(|is_there| is_there)
    }
}
