//! The archive and the backups of a running searchd.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::archive::{self, Shipper};
use super::arriving::Arriving;
use super::create::Identity;
use super::retention::Keep;
use super::schedule::{self, Backups};
use super::{Error, Repository};
use crate::commit::Progress;
use crate::config;
use crate::maintenance::Snapshots;
use crate::wal::Reader;

/// How long a shutdown waits for the last of the log to reach the archive.
const LAST_SHIPMENT: Duration = Duration::from_secs(10);

/// What is archived, and how it fares.
pub struct Running {
    stop: CancellationToken,
    shipping: JoinHandle<()>,
    scheduling: Option<JoinHandle<()>>,
    pub backups: Backups,
    pub states: States,
}

/// For metrics.
#[derive(Clone)]
pub struct States {
    pub archive: Arc<archive::State>,
    pub backups: Arc<schedule::State>,
}

/// None when the settings name no object storage.
pub fn start(
    settings: &config::Archive,
    identity: Identity,
    log: Reader,
    progress: Arc<Progress>,
    snapshots: Snapshots,
    arriving: Arriving,
) -> Result<Option<Running>, Error> {
    if settings.url.is_empty() {
        return Ok(None);
    }
    let repository = Repository::open(&settings.url)?;
    let stop = CancellationToken::new();
    let states = States { archive: Arc::new(archive::State::new(log.clone())), backups: Arc::default() };
    let (node, rpo, state) = (identity.node, settings.rpo, states.archive.clone());
    let shipper = Shipper { repository: repository.clone(), node, log, progress, rpo, state };
    let keep = Keep { newest: settings.keep, younger_than: settings.keep_for };
    let backups =
        Backups::new(repository, snapshots, identity, settings.concurrency, keep, arriving, states.backups.clone());
    let every = settings.backup_every;
    let scheduling = (!every.is_zero()).then(|| tokio::spawn(backups.clone().run(every, stop.clone())));
    let shipping = tokio::spawn(shipper.run(stop.clone()));
    Ok(Some(Running { stop, shipping, scheduling, backups, states }))
}

impl Running {
    /// Ships what is left of the log and ends. Call when the committer has ended, and while the maintenance runs.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if tokio::time::timeout(LAST_SHIPMENT, &mut self.shipping).await.is_err() {
            tracing::error!("the last of the log did not reach the archive; it will after the next start");
            self.shipping.abort();
        }
        if let Some(scheduling) = self.scheduling {
            // A panic was reported by itself.
            let _ = scheduling.await;
        }
    }
}
