//! What is still on its way from the object storage while searchd serves already.
//!
//! A file in the data directory, the mark, says what is not all there, or not yet durable, and what it consists of: so a start
//! after a crash goes on, holes are never taken for vectors, and what the disk has lost is fetched again. Files of vectors
//! have holes: searches fetch the blocks that they need by range, and a task fetches the rest in whole chunks, verified by
//! their names. All other files were fetched before the start, and the task makes them durable.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::coming::{Coming, MOST_REQUESTS, Pace};
use super::manifest::File;
use super::placing::{Durability, Placing, forget};
use super::repository::Repository;
use super::{Error, blocking};
use crate::index::arrival::Arrivals;
use crate::index::vectors::Vectors;
use crate::node;
use crate::wal::sync_directory;

/// There until everything has come.
const MARK: &str = "ARRIVING";
/// Searches that waited for the start come first.
const HEAD_START: Duration = Duration::from_secs(1);
/// After chunks could not be fetched, the next attempt waits that long.
const PAUSE: Duration = Duration::from_secs(1);

/// What the mark says.
#[derive(Deserialize, Serialize)]
pub(super) struct Mark {
    pub(super) url: String,
    /// Files of vectors, which have holes.
    pub(super) files: Vec<File>,
    /// Files that are all there, but may not be after a crash.
    #[serde(default)]
    pub(super) unsynced: Vec<File>,
}

impl Mark {
    /// Writes it in place of the one before. It is durable afterwards.
    pub(super) fn write(&self, directory: &Path) -> Result<(), Error> {
        let path = directory.join(MARK);
        let unfinished = path.with_extension("tmp");
        let text = serde_json::to_string(self).expect("strings and numbers serialize");
        let write = || {
            fs::write(&unfinished, format!("{}\n{text}", blake3::hash(text.as_bytes()).to_hex()))?;
            fs::File::open(&unfinished)?.sync_all()?;
            fs::rename(&unfinished, &path)?;
            sync_directory(directory)
        };
        write().map_err(|source| Error::Io { doing: "writing", path: path.clone(), source })
    }
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
    if mark.files.iter().chain(&mark.unsynced).all(File::is_inside) { Ok(Some(mark)) } else { Err(damaged()) }
}

/// Fetches again what a crash has taken of the files that were not durable, `concurrency` chunks at a time. To be called before
/// anything in the directory is opened; the storage is asked only for what is missing.
pub async fn complete(directory: &Path, concurrency: usize) -> Result<(), Error> {
    let Some(mark) = read(directory)? else { return Ok(()) };
    let _lock = node::lock(directory)?;
    let repository = Repository::open(&mark.url)?;
    let placing = Placing { repository: &repository, directory, is_resumed: true };
    // One whose name is gone, which was durable, went with what named it.
    let is_named = |file: &&File| directory.join(&file.path).exists();
    for file in mark.files.iter().filter(is_named) {
        let path = directory.join(&file.path);
        if blocking(move || Vectors::open(&path)).await?.is_err() {
            placing.lay_out(file).await?;
        }
    }
    let unsynced: Vec<PathBuf> = mark.unsynced.iter().filter(is_named).map(|file| directory.join(&file.path)).collect();
    blocking(move || unsynced.iter().for_each(|path| forget(path))).await?;
    let chunks =
        mark.unsynced.iter().filter(is_named).flat_map(|file| (0..file.chunks.len()).map(move |chunk| (file, chunk)));
    let placed =
        futures::stream::iter(chunks).map(|(file, chunk)| placing.place(file, chunk, Durability::Later).boxed());
    placed.buffer_unordered(concurrency.max(1)).try_collect::<Vec<()>>().await.map(drop)
}

/// The files that are on their way. Clones are the same.
#[derive(Clone)]
pub struct Arriving {
    directory: PathBuf,
    url: Arc<str>,
    files: Arc<[Coming]>,
    /// All there, and not durable.
    unsynced: Arc<[File]>,
    whole: watch::Sender<bool>,
}

impl Arriving {
    /// What is not all there in a data directory: nothing, in most. Blocks are fetched on `runtime`.
    pub fn open(directory: &Path, runtime: &Handle) -> Result<Self, Error> {
        let Some(mark) = read(directory)? else {
            return Ok(Self {
                directory: directory.into(),
                url: Arc::default(),
                files: Arc::default(),
                unsynced: Arc::default(),
                whole: watch::Sender::new(true),
            });
        };
        let repository = Repository::open(&mark.url)?;
        let requests = Arc::new(Semaphore::new(MOST_REQUESTS));
        let mut files = Vec::new();
        for file in mark.files {
            let from = (repository.clone(), requests.clone(), runtime.clone());
            // One that is missing went with its collection.
            files.extend(Coming::open(directory, file, from)?);
        }
        Ok(Self {
            directory: directory.into(),
            url: mark.url.into(),
            files: files.into(),
            unsynced: mark.unsynced.into(),
            whole: watch::Sender::new(false),
        })
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
        match stop.run_until_cancelled(self.make_durable()).await {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                // Not tried again: a sync that failed may succeed the next time without having written anything.
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "what was fetched could not be made durable; the next start looks at it again");
                return;
            }
            None => return,
        }
        let pace = Pace::new(bytes_per_second);
        while stop.run_until_cancelled(self.round(concurrency, &pace)).await == Some(false) {
            if stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_none() {
                return;
            }
        }
        if stop.is_cancelled() {
            return;
        }
        // Before anything is merged: a file that the mark names must not give its name to another.
        while let Err(error) = unmark(&self.directory) {
            tracing::error!(error = &error as &dyn std::error::Error, "everything is there, but the mark remains");
            if stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_none() {
                return;
            }
        }
        self.files.iter().for_each(|coming| coming.arrival.finish());
        self.whole.send_replace(true);
        tracing::info!(seconds = started.elapsed().as_secs_f64(), "all vectors have come from the object storage");
    }

    /// Makes durable what was fetched before the start, and notes that it is.
    async fn make_durable(&self) -> Result<(), Error> {
        if self.unsynced.is_empty() {
            return Ok(());
        }
        let this = self.clone();
        let work = move || {
            for file in this.unsynced.iter() {
                let path = this.directory.join(&file.path);
                match fs::File::open(&path).and_then(|file| file.sync_all()) {
                    Err(source) if source.kind() != io::ErrorKind::NotFound => {
                        return Err(Error::Io { doing: "syncing", path, source });
                    }
                    _ => {}
                }
            }
            let files = this.files.iter().map(Coming::file).collect();
            Mark { url: this.url.to_string(), files, unsynced: Vec::new() }.write(&this.directory)
        };
        blocking(work).await?
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
