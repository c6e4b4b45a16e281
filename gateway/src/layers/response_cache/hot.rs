//! What is asked for the most: it is asked for anew before it is too old, so that nobody waits for a hot answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{StatusCode, header};
use nearfield_cache::{Age, Clock, Found, Hot, Hottest, Key, Metrics};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::asked::{Asked, Exchange};
use super::fill::Outcome;
use super::subject::Known;
use super::trends::Trend;
use super::{Cache, Inner};
use crate::layers::rate_limit::toll::Toll;
use crate::layers::shed::criticality::Criticality;
use crate::request::Deadline;

/// `[cache.hot]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Keys that are counted at a time.
    pub keys: usize,
    /// A key is hot that was asked for so often of late.
    pub requests: u32,
    /// Hot answers that are asked for ahead at once; 0 for none.
    pub refreshes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { keys: 256, requests: 32, refreshes: 16 }
    }
}

/// A hot answer is asked for anew in the last part of its life, of so many.
const PARTS: u32 = 5;
/// How soon the same answer is asked for ahead again, should the origin fail.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the origin has for an answer that nobody waits for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Keys that `/debug` shows.
const SHOWN: usize = 50;

/// What is counted, and who asks ahead.
pub(super) struct Heat {
    pub(super) keys: Hot<Arc<Trend>>,
    least: f64,
    ahead: Arc<Semaphore>,
}

impl Heat {
    pub(super) fn new(config: &Config, clock: Clock) -> Self {
        Self {
            keys: Hot::new(config.keys, clock),
            least: f64::from(config.requests),
            ahead: Arc::new(Semaphore::new(config.refreshes.min(Semaphore::MAX_PERMITS))),
        }
    }

    /// Counts a request; whether what it asks for is hot.
    pub(super) fn note(&self, known: &Arc<Known>, exchange: &Exchange) -> bool {
        self.keys.note(&known.key, || Trend::of(known, exchange)) >= self.least
    }

    /// The hot ones, and how often they were asked for of late altogether.
    pub(super) fn hot(&self) -> (usize, f64) {
        let hottest = self.keys.hottest(self.least);
        (hottest.len(), hottest.iter().map(Hottest::rate).sum())
    }

    /// For `/debug`: the hottest first.
    pub(super) fn view(&self) -> serde_json::Value {
        let row = |hottest: &Hottest<Arc<Trend>>| {
            let trend = hottest.kept.as_deref();
            serde_json::json!({
                "key": format!("{:?}", hottest.key),
                "tenant": trend.and_then(|trend| trend.tenant.as_deref()),
                "route": trend.map(|trend| trend.route.label()),
                "tags": trend.map(|trend| trend.tags.as_str()),
                "requests": hottest.requests.round(),
                "requests_unsure": hottest.unsure.round(),
                "rate": (hottest.rate() * 100.0).round() / 100.0,
                "hot": hottest.requests >= self.least,
            })
        };
        self.keys.hottest(0.0).iter().take(SHOWN).map(row).collect()
    }

    /// Leave to ask for `key` ahead; None when somebody has just done so, or when too many do.
    fn may_ask(&self, key: &Key, metrics: &Metrics) -> Option<OwnedSemaphorePermit> {
        if !self.keys.claim(key, PAUSE) {
            return None;
        }
        let permit = Arc::clone(&self.ahead).try_acquire_owned().ok();
        if permit.is_none() {
            Metrics::count(&metrics.refreshes_skipped);
        }
        permit
    }
}

impl Cache {
    /// Asks for a hot answer anew behind the callers' backs when its life is nearly over: one of them is enough.
    pub(super) fn keep_hot<S: Inner>(
        &self,
        inner: &Arc<S>,
        known: &Arc<Known>,
        asked: &Asked,
        exchange: &Exchange,
        found: &Found,
    ) {
        if !is_ending(found) || asked.head || asked.range.is_some() {
            return;
        }
        let Some(permit) = self.0.heat.may_ask(&known.key, &self.0.tiers.metrics) else { return };
        let mut exchange = exchange.clone();
        for_nobody(exchange.head());
        let entry = Arc::clone(&found.entry);
        self.refresh(Arc::clone(inner), Arc::clone(known), exchange, entry, move |outcome, metrics| {
            drop(permit);
            let kept = matches!(outcome, Outcome::Kept(kept) if kept.stored);
            Metrics::count(if kept { &metrics.refreshed_ahead } else { &metrics.refreshes_failed });
        });
    }
}

/// No caller waits for the answer or pays for it, and it can be done without.
fn for_nobody(parts: &mut http::request::Parts) {
    let extensions = &mut parts.extensions;
    extensions.remove::<Toll>();
    extensions.insert(Deadline(Instant::now() + PATIENCE));
    extensions.insert(Criticality::Sheddable);
    // What the caller wants of its own answer.
    for name in [header::CACHE_CONTROL, header::PRAGMA] {
        parts.headers.remove(name);
    }
}

/// Whether an answer that is still fresh will soon be no more.
fn is_ending(found: &Found) -> bool {
    let Age::Fresh { age, left } = found.age else { return false };
    found.entry.status == StatusCode::OK && found.entry.span.is_none() && left * PARTS < age + left
}
