//! Keeps an issuer's keys up to date: one task an issuer reads its file or URL again and again, and when asked.
//!
//! The keys last read well stay in use when a later reading fails: an issuer that is down locks nobody out.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::{Error, KeySet, MAX_BYTES};

/// How often the keys are read, and how soon after one reading another may follow.
struct Pace {
    refresh: Duration,
    /// After a reading that failed.
    retry: Duration,
    /// Between two readings whoever asks, so that made-up key ids cannot be turned against the issuer.
    rest: Duration,
}

const FILE: Pace =
    Pace { refresh: Duration::from_secs(2), retry: Duration::from_secs(2), rest: Duration::from_millis(100) };
const URL: Pace =
    Pace { refresh: Duration::from_secs(300), retry: Duration::from_secs(15), rest: Duration::from_secs(10) };
/// Bounds one fetch of a URL, connection and body.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request waits for keys to be read again.
const PATIENCE: Duration = Duration::from_secs(3);

/// The keys, and how many times they have changed: what was verified with older ones is to be verified again.
pub(crate) struct Generation {
    pub(crate) number: u64,
    pub(crate) set: KeySet,
}

/// An issuer's keys as they are now.
pub(crate) struct Keys {
    current: Arc<ArcSwapOption<Generation>>,
    /// When they were last read well; none for keys that are not read, and before the first time.
    read: Arc<Mutex<Option<Instant>>>,
    watched: Option<Watched>,
}

struct Watched {
    wanted: Arc<Notify>,
    /// Counts the readings that were made or refused.
    answered: watch::Receiver<u64>,
    task: AbortHandle,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Keys {
    pub(crate) fn fixed(set: KeySet) -> Self {
        let current = Arc::new(ArcSwapOption::from_pointee(Generation { number: 1, set }));
        Self { current, read: Arc::default(), watched: None }
    }

    pub(crate) async fn of_file(path: PathBuf) -> Result<Self, Error> {
        let mut source = Source::File { path, seen: None };
        let first = source.read().await?;
        Ok(Self::watch(source, first, FILE))
    }

    /// An issuer that cannot be reached is a warning: its tokens are refused until it can.
    pub(crate) async fn of_url(issuer: &str, url: &str) -> Result<Self, Error> {
        // reqwest takes TLS from the process's default provider; a process that has chosen one keeps it.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = reqwest::Client::builder()
            .timeout(FETCH_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(Error::Fetch)?;
        let mut source = Source::Url { client, url: url.to_owned(), seen: None };
        let first = source.read().await.unwrap_or_else(|error| {
            tracing::warn!(issuer, error = &error as &dyn std::error::Error, "no keys yet");
            None
        });
        Ok(Self::watch(source, first, URL))
    }

    fn watch(source: Source, first: Option<KeySet>, pace: Pace) -> Self {
        let read = Arc::new(Mutex::new(first.is_some().then(Instant::now)));
        let first = first.map(|set| Arc::new(Generation { number: 1, set }));
        let current = Arc::new(ArcSwapOption::from(first));
        let wanted = Arc::new(Notify::new());
        let (answers, answered) = watch::channel(0);
        let kept = Kept { current: Arc::clone(&current), read: Arc::clone(&read) };
        let task = tokio::spawn(watch(source, kept, pace, Arc::clone(&wanted), answers));
        Self { current, read, watched: Some(Watched { wanted, answered, task: task.abort_handle() }) }
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.watched.is_some()
    }

    /// Since they were last read well.
    pub(crate) fn age(&self) -> Option<Duration> {
        self.read.lock().map(|read| read.elapsed())
    }

    /// None until the first good reading.
    pub(crate) fn current(&self) -> Option<Arc<Generation>> {
        self.current.load_full()
    }

    /// The generation's number, without taking a reference; 0 before the first good reading.
    pub(crate) fn generation(&self) -> u64 {
        self.current.load().as_ref().map_or(0, |generation| generation.number)
    }

    /// Has the keys read again, unless that was just done, and waits for it a bounded time.
    pub(crate) async fn read_again(&self) {
        let Some(watched) = &self.watched else { return };
        let mut answered = watched.answered.clone();
        answered.mark_unchanged();
        watched.wanted.notify_one();
        // Late, or the task is gone: then the keys are what they are.
        let _ = tokio::time::timeout(PATIENCE, answered.changed()).await;
    }
}

/// What a watch keeps up to date.
struct Kept {
    current: Arc<ArcSwapOption<Generation>>,
    read: Arc<Mutex<Option<Instant>>>,
}

async fn watch(
    mut source: Source,
    Kept { current, read }: Kept,
    pace: Pace,
    wanted: Arc<Notify>,
    answers: watch::Sender<u64>,
) {
    let mut last = Instant::now();
    let mut due = last + if current.load().is_some() { pace.refresh } else { pace.retry };
    let mut complained = String::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            () = wanted.notified() => {
                if last.elapsed() < pace.rest {
                    answers.send_modify(|n| *n += 1);
                    continue;
                }
            }
        }
        let outcome = source.read().await;
        last = Instant::now();
        due = last + if outcome.is_ok() { pace.refresh } else { pace.retry };
        if outcome.is_ok() {
            *read.lock() = Some(last);
        }
        match outcome {
            Ok(Some(set)) => {
                let number = current.load().as_ref().map_or(0, |generation| generation.number) + 1;
                current.store(Some(Arc::new(Generation { number, set })));
                tracing::info!(source = source.name(), generation = number, "keys read");
                complained.clear();
            }
            Ok(None) => complained.clear(),
            Err(error) => {
                let text = format!("{error:?}");
                if text != complained {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(source = source.name(), error, "keys not read, the old ones stay");
                    complained = text;
                }
            }
        }
        answers.send_modify(|n| *n += 1);
    }
}

enum Source {
    File { path: PathBuf, seen: Option<(SystemTime, u64)> },
    Url { client: reqwest::Client, url: String, seen: Option<blake3::Hash> },
}

impl Source {
    fn name(&self) -> String {
        match self {
            Self::File { path, .. } => path.display().to_string(),
            Self::Url { url, .. } => url.clone(),
        }
    }

    /// The keys, or None when they are those of the last good reading.
    async fn read(&mut self) -> Result<Option<KeySet>, Error> {
        match self {
            Self::File { path, seen } => {
                let Some((stamp, json)) = read_file(path, *seen).await? else { return Ok(None) };
                let set = KeySet::parse(&json)?;
                *seen = Some(stamp);
                Ok(Some(set))
            }
            Self::Url { client, url, seen } => {
                let json = fetch(client, url).await?;
                let hash = blake3::hash(&json);
                if *seen == Some(hash) {
                    return Ok(None);
                }
                let set = KeySet::parse(&json)?;
                *seen = Some(hash);
                Ok(Some(set))
            }
        }
    }
}

type Stamp = (SystemTime, u64);

async fn read_file(path: &Path, seen: Option<Stamp>) -> Result<Option<(Stamp, Vec<u8>)>, Error> {
    let about = tokio::fs::metadata(path).await?;
    let stamp = (about.modified()?, about.len());
    if seen == Some(stamp) {
        return Ok(None);
    }
    if about.len() > MAX_BYTES as u64 {
        return Err(Error::TooLarge);
    }
    Ok(Some((stamp, tokio::fs::read(path).await?)))
}

async fn fetch(client: &reqwest::Client, url: &str) -> Result<Vec<u8>, Error> {
    let mut response = client.get(url).send().await.and_then(|r| r.error_for_status()).map_err(Error::Fetch)?;
    let mut json = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(Error::Fetch)? {
        if json.len() + chunk.len() > MAX_BYTES {
            return Err(Error::TooLarge);
        }
        json.extend_from_slice(&chunk);
    }
    Ok(json)
}
