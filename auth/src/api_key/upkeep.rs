//! What a running server does about keys between requests: it ends what outlives a request when its key ends, and notes
//! when keys were last used.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Shared;
use super::store::Stamp;
use crate::unix_now;

/// How often the store's stamp is looked at: how late a stream may end after its key.
const TICK: Duration = Duration::from_millis(100);
/// How often the watched keys are looked up though the store seems unchanged: for those that expire, and for changes that
/// went unnoticed.
const RECHECK: Duration = Duration::from_secs(5);
/// How often uses are written down.
const WRITE_USES: Duration = Duration::from_secs(1);
/// Uses that wait to be written down; more are forgotten.
const MAX_USES: usize = 100_000;
/// A use is noted when the last one noted is this old, in seconds.
const USE_GRAIN: u64 = 60;

/// What is asked of upkeep, and what waits for it.
#[derive(Default)]
pub(super) struct Upkeep {
    /// Keys that something lives by: true when the key has ended.
    watched: parking_lot::Mutex<HashMap<String, watch::Sender<bool>>>,
    /// One was added that nobody has looked up yet: it may have ended just before.
    unchecked: AtomicBool,
    uses: parking_lot::Mutex<HashMap<String, u64>>,
}

impl Upkeep {
    /// Notes a use, when the last one noted is old.
    pub(super) fn used(&self, id: &str, noted: Option<u64>, now: u64) {
        if noted.is_some_and(|noted| now < noted + USE_GRAIN) {
            return;
        }
        let mut uses = self.uses.lock();
        if uses.len() < MAX_USES || uses.contains_key(id) {
            uses.insert(id.to_owned(), now);
        }
    }

    /// Resolves when the key counts no more.
    pub(super) async fn ended(&self, id: &str) {
        let mut ended = {
            let mut watched = self.watched.lock();
            watched.entry(id.to_owned()).or_insert_with(|| watch::Sender::new(false)).subscribe()
        };
        self.unchecked.store(true, Ordering::Release);
        // The sender is dropped only once everybody has left, or with the server.
        let _ = ended.wait_for(|ended| *ended).await;
    }
}

/// Goes on for ever.
pub(super) async fn run(shared: Arc<Shared>) {
    let (mut seen, mut checked, mut written) = (Stamp::default(), Instant::now(), Instant::now());
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let stamp = shared.store.stamp();
        let unchecked = shared.upkeep.unchecked.swap(false, Ordering::AcqRel);
        if unchecked || stamp != seen || checked.elapsed() >= RECHECK {
            (seen, checked) = (stamp, Instant::now());
            end_watched(&shared).await;
        }
        if written.elapsed() >= WRITE_USES {
            written = Instant::now();
            write_uses(&shared).await;
        }
    }
}

async fn end_watched(shared: &Shared) {
    let ids: Vec<String> = {
        let mut watched = shared.upkeep.watched.lock();
        watched.retain(|_, ended| ended.receiver_count() > 0);
        watched.keys().cloned().collect()
    };
    if ids.is_empty() {
        return;
    }
    // A store that is out of reach ends nobody.
    let Ok(good) = shared.store.good(&ids, unix_now()).await else { return };
    let mut watched = shared.upkeep.watched.lock();
    for id in ids.iter().filter(|id| !good.contains(*id)) {
        if let Some(ended) = watched.remove(id) {
            ended.send_replace(true);
        }
    }
}

async fn write_uses(shared: &Shared) {
    let uses = std::mem::take(&mut *shared.upkeep.uses.lock());
    if uses.is_empty() {
        return;
    }
    // In one order, so that two gateways that note the same keys do not wait for each other in turn.
    let mut uses: Vec<(String, u64)> = uses.into_iter().collect();
    uses.sort_unstable();
    if let Err(error) = shared.store.used(&uses).await {
        tracing::debug!(error = &error as &dyn std::error::Error, "uses of API keys not noted");
    }
}
