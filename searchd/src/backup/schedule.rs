//! Backups of a running searchd: by the clock, and when asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use super::arriving::Arriving;
use super::create::{self, Created, Identity};
use super::retention::{self, GRACE, Keep};
use super::{Error, Repository, manifest};
use crate::maintenance::Snapshots;

/// After a backup failed the next attempt waits that long.
const PAUSE: Duration = Duration::from_secs(60);

/// Makes backups, one at a time. Clones are the same.
#[derive(Clone)]
pub struct Backups(Arc<Parts>);

struct Parts {
    repository: Repository,
    snapshots: Snapshots,
    identity: Identity,
    concurrency: usize,
    keep: Keep,
    arriving: Arriving,
    state: Arc<State>,
    turn: tokio::sync::Mutex<()>,
}

/// How backups fare, for metrics.
#[derive(Default)]
pub struct State {
    /// Unix time in seconds of the last one, made by this process or found; 0 for none.
    pub finished: AtomicU64,
    pub failures: AtomicU64,
    pub sent_bytes: AtomicU64,
}

impl Backups {
    pub fn new(
        repository: Repository,
        snapshots: Snapshots,
        identity: Identity,
        concurrency: usize,
        keep: Keep,
        arriving: Arriving,
        state: Arc<State>,
    ) -> Self {
        let turn = tokio::sync::Mutex::default();
        Self(Arc::new(Parts { repository, snapshots, identity, concurrency, keep, arriving, state, turn }))
    }

    /// Makes a backup of everything that was acknowledged before the call, and removes those past their time.
    pub async fn create(&self) -> Result<Created, Error> {
        let parts = &*self.0;
        let _turn = parts.turn.lock().await;
        let outcome = self.make().await;
        match &outcome {
            Ok(created) => {
                parts.state.finished.store(created.backup.finished / 1_000_000_000, Ordering::Relaxed);
                parts.state.sent_bytes.fetch_add(created.sent_bytes, Ordering::Relaxed);
                let (id, bytes, sent) = (&created.backup.id, created.backup.bytes(), created.sent_bytes);
                tracing::info!(id, bytes, sent, "made a backup");
                if let Err(error) = retention::prune(&parts.repository, parts.keep, GRACE).await {
                    tracing::warn!(error = &error as &dyn std::error::Error, "old backups could not be cleared away");
                }
            }
            Err(error) => {
                parts.state.failures.fetch_add(1, Ordering::Relaxed);
                tracing::error!(error = error as &dyn std::error::Error, "no backup was made");
            }
        }
        outcome
    }

    async fn make(&self) -> Result<Created, Error> {
        let parts = &*self.0;
        // A file with holes is not to be copied.
        parts.arriving.whole().await;
        let snapshot = parts.snapshots.take().await.ok_or(Error::Stopped)??;
        create::create(&parts.repository, &snapshot, &parts.identity, parts.concurrency).await
    }

    /// Makes one at once when this instance has none, then one each `every`; never ends by itself.
    pub async fn run(self, every: Duration, stop: CancellationToken) {
        let mut wait = self.due(every).await;
        while stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_some() {
            let Some(outcome) = stop.run_until_cancelled(self.create()).await else { return };
            wait = if outcome.is_ok() { every } else { PAUSE.min(every) };
        }
    }

    /// How long until the next one.
    async fn due(&self, every: Duration) -> Duration {
        let own = format!("-{:016x}", self.0.identity.node);
        let Ok(ids) = manifest::ids(&self.0.repository).await else { return Duration::ZERO };
        let Some(id) = ids.iter().rfind(|id| id.ends_with(&own)) else { return Duration::ZERO };
        let Ok(last) = manifest::Backup::load(&self.0.repository, id).await else { return Duration::ZERO };
        self.0.state.finished.store(last.finished / 1_000_000_000, Ordering::Relaxed);
        let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        every.saturating_sub(age.saturating_sub(Duration::from_nanos(last.finished)))
    }
}
