//! The archive of the log: what was acknowledged goes to object storage in pieces, soon after it was.
//!
//! A piece holds whole records, is named by the first and the last of them, and is never changed. So a restore can put
//! pieces together from any backup on, to any moment. Shipping lags behind by at most the RPO (recovery point objective)
//! while the storage answers; while it does not, the log stays on the disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::repository::Repository;
use super::{Error, blocking};
use crate::commit::Progress;
use crate::wal::piece::{self, Cursor};
use crate::wal::{Reader, Replay};

const FOLDER: &str = "log";
/// Hexadecimal digits of a piece's hash that are in its name.
const HASH_DIGITS: usize = 32;
/// After a failure the next attempt waits that long.
const PAUSE: Duration = Duration::from_secs(1);

/// A piece that is in the archive.
#[derive(Clone, Debug)]
pub struct Piece {
    pub object: String,
    /// Whose log: 16 hexadecimal digits.
    pub node: String,
    pub first: u64,
    pub last: u64,
    pub stored: SystemTime,
}

/// All pieces of all instances.
pub async fn all(repository: &Repository) -> Result<Vec<Piece>, Error> {
    list(repository, FOLDER).await
}

/// The pieces of one instance's log, by ascending first record.
pub async fn of_node(repository: &Repository, node: &str) -> Result<Vec<Piece>, Error> {
    list(repository, &format!("{FOLDER}/{node}")).await
}

async fn list(repository: &Repository, folder: &str) -> Result<Vec<Piece>, Error> {
    let objects = repository.list(folder).await?;
    let mut pieces: Vec<Piece> = objects
        .into_iter()
        .filter_map(|meta| {
            let object = meta.location.to_string();
            let (node, name) = object.strip_prefix(FOLDER)?.strip_prefix('/')?.split_once('/')?;
            let mut parts = name.split('-');
            let (first, last) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            Some(Piece { node: node.to_owned(), first, last, stored: meta.last_modified.into(), object })
        })
        .collect();
    pieces.sort_by_key(|piece| (piece.first, piece.last));
    Ok(pieces)
}

/// The records of a piece, verified.
pub async fn fetch(repository: &Repository, piece: &Piece) -> Result<Vec<Replay>, Error> {
    let damaged = || Error::Damaged(piece.object.clone());
    let bytes = repository.get(&piece.object).await?.ok_or_else(damaged)?;
    let hash = blake3::hash(&bytes).to_hex();
    if !piece.object.ends_with(&hash.as_str()[..HASH_DIGITS]) {
        return Err(damaged());
    }
    let records = piece::decode(&bytes).ok_or_else(damaged)?;
    let bounds = (records.first().map(|record| record.number), records.last().map(|record| record.number));
    if bounds == (Some(piece.first), Some(piece.last)) { Ok(records) } else { Err(damaged()) }
}

/// How the archive fares, for metrics.
pub struct State {
    log: Reader,
    /// The first record that is not in the archive; 0 while that is not known.
    next_record: AtomicU64,
    pub pieces: AtomicU64,
    pub failures: AtomicU64,
    /// The last moment of which everything is in the archive.
    complete: Mutex<Instant>,
}

impl State {
    pub fn new(log: Reader) -> Self {
        Self {
            log,
            next_record: AtomicU64::new(0),
            pieces: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            complete: Mutex::new(Instant::now()),
        }
    }

    /// How long ago the oldest record that is not in the archive may have been acknowledged; 0 when all are there.
    pub fn lag_seconds(&self) -> f64 {
        let is_behind = self.log.durable() >= self.next_record.load(Ordering::Relaxed);
        if is_behind { self.complete.lock().elapsed().as_secs_f64() } else { 0.0 }
    }
}

/// Ships the log of this instance.
pub struct Shipper {
    pub repository: Repository,
    pub node: u64,
    pub log: Reader,
    pub progress: Arc<Progress>,
    /// At most so long after it was acknowledged, a write is in the archive.
    pub rpo: Duration,
    pub state: Arc<State>,
}

impl Shipper {
    /// Ships until told to stop, and then what is left.
    pub async fn run(self, stop: CancellationToken) {
        // A half of the time is for gathering, the other for sending.
        let mut tick = tokio::time::interval((self.rpo / 2).max(Duration::from_millis(1)));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut from = None;
        loop {
            let stopping = tokio::select! {
                _ = tick.tick() => false,
                () = stop.cancelled() => true,
            };
            let begun = Instant::now();
            match self.ship(&mut from).await {
                Ok(()) => *self.state.complete.lock() = begun,
                Err(error) => {
                    self.state.failures.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(error = &error as &dyn std::error::Error, "the log could not be archived");
                    tick.reset_after(PAUSE.min(self.rpo / 2));
                }
            }
            if stopping {
                return;
            }
        }
    }

    /// Ships everything that is durable now. `from` is the first record that is not in the archive, once it is known.
    async fn ship(&self, from: &mut Option<u64>) -> Result<(), Error> {
        let node = format!("{:016x}", self.node);
        let mut next = match *from {
            Some(next) => next,
            None => of_node(&self.repository, &node).await?.iter().map(|piece| piece.last + 1).max().unwrap_or(1),
        };
        let until = self.log.durable() + 1;
        if self.log.oldest() > next {
            tracing::warn!(
                from = next,
                to = self.log.oldest(),
                "the archive lacks records that are gone from the disk"
            );
            next = self.log.oldest();
        }
        self.reached(from, next);
        let mut cursor = Cursor::new(&self.log, next);
        while next < until {
            let (log, Some(mut reading)) = (self.log.clone(), cursor.take()) else { return Ok(()) };
            let (reading, records) = blocking(move || {
                let records = reading.read(&log, until);
                (reading, records)
            })
            .await?;
            cursor = Some(reading);
            let Some(records) = records? else { return Ok(()) };
            let (Some(first), Some(last)) = (records.first(), records.last()) else { return Ok(()) };
            let (first, last) = (first.number, last.number);
            let bytes = piece::encode(records.iter());
            let hash = blake3::hash(&bytes).to_hex();
            let object = format!("{FOLDER}/{node}/{first:020}-{last:020}-{}", &hash.as_str()[..HASH_DIGITS]);
            self.repository.put(&object, bytes.into()).await?;
            self.state.pieces.fetch_add(1, Ordering::Relaxed);
            next = last + 1;
            self.reached(from, next);
        }
        Ok(())
    }

    fn reached(&self, from: &mut Option<u64>, next: u64) {
        *from = Some(next);
        self.progress.archived(next);
        self.state.next_record.store(next, Ordering::Relaxed);
    }
}
