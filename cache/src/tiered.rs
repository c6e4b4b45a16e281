//! The tiers as one cache: memory first, then what is behind it; and only what was not purged since.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};
use tracing::Instrument;

use crate::{Age, Clock, Entry, Invalidation, Key, Memory, Metrics, Purged, Store};

/// Cheap to clone.
#[derive(Clone)]
pub struct Tiered {
    pub clock: Clock,
    pub invalidation: Invalidation,
    pub metrics: Arc<Metrics>,
    memory: Memory,
    behind: Vec<(Tier, Arc<dyn Store>)>,
}

/// Where an answer was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    Disk,
    Memory,
    Redis,
}

/// An answer that may still be of use, and how old it is.
#[derive(Clone, Debug)]
pub struct Found {
    pub entry: Arc<Entry>,
    pub age: Age,
    pub tier: Tier,
}

impl Tiered {
    /// `behind` is asked in its order.
    pub fn new(
        clock: Clock,
        invalidation: Invalidation,
        metrics: Arc<Metrics>,
        memory: Memory,
        behind: Vec<(Tier, Arc<dyn Store>)>,
    ) -> Self {
        Self { clock, invalidation, metrics, memory, behind }
    }

    /// What memory has under `key`, or under that of the variant that `request` chooses. Never waits.
    pub fn peek(&self, key: &Key, request: &HeaderMap) -> Option<Found> {
        let _span = tracing::info_span!(target: "span", "cache look-up").entered();
        let found = self.look(key, self.memory.get(key))?;
        match &found.entry.signpost {
            Some(names) => {
                let variant = key.variant(names, request);
                self.look(&variant, self.memory.get(&variant))
            }
            None => Some(found),
        }
    }

    /// `entry` is what memory has under `key`.
    fn look(&self, key: &Key, entry: Option<Arc<Entry>>) -> Option<Found> {
        let found = self.judge(entry?, Tier::Memory);
        if found.is_none() {
            self.memory.remove(key);
        }
        found
    }

    /// What is behind memory; kept in memory from now on.
    pub async fn fetch(&self, key: &Key, request: &HeaderMap) -> Option<Found> {
        // The signpost may be in memory already, and its answer not.
        let found = match self.look(key, self.memory.see(key)) {
            Some(found) if found.entry.signpost.is_some() => found,
            _ => self.take(key).await?,
        };
        match &found.entry.signpost {
            Some(names) => self.take(&key.variant(names, request)).await,
            None => Some(found),
        }
    }

    /// The first that is fresh; where none is, the youngest.
    async fn take(&self, key: &Key) -> Option<Found> {
        // What was purged before this gateway was there is not known yet.
        if !self.invalidation.knows_the_past() {
            return None;
        }
        let mut best: Option<Found> = None;
        for (tier, store) in &self.behind {
            let look_up = match tier {
                Tier::Disk => tracing::info_span!(target: "span", "disk look-up"),
                Tier::Memory | Tier::Redis => tracing::info_span!(target: "span", "Redis look-up"),
            };
            let entry = store.get(key).instrument(look_up).await;
            let Some(found) = entry.and_then(|entry| self.judge(entry, *tier)) else { continue };
            let is_fresh = matches!(found.age, Age::Fresh { .. });
            if is_fresh || best.as_ref().is_none_or(|best| best.entry.stamp.micros < found.entry.stamp.micros) {
                best = Some(found);
            }
            if is_fresh {
                break;
            }
        }
        self.remember(*key, &best.as_ref()?.entry);
        best
    }

    /// The key under which the answers to `request` are, as far as memory knows.
    pub fn resolve(&self, key: Key, request: &HeaderMap) -> Key {
        let signpost =
            self.memory.see(&key).and_then(|entry| entry.signpost.as_ref().map(|names| key.variant(names, request)));
        signpost.unwrap_or(key)
    }

    /// Whether there are several answers under `key`, chosen by fields of the request.
    pub fn has_variants(&self, key: &Key) -> bool {
        self.memory.see(key).is_some_and(|entry| entry.signpost.is_some())
    }

    /// In memory, if there it saves more than what would have to go for it.
    fn remember(&self, key: Key, entry: &Arc<Entry>) -> bool {
        self.memory.put(key, Arc::clone(entry), |entry| self.age(entry).is_some())
    }

    /// Keeps `entry`, unless it was purged while it was on its way. True when it was kept.
    pub async fn store(&self, key: Key, entry: Arc<Entry>) -> bool {
        if !self.invalidation.admits(entry.stamp, &entry.tags) {
            return false;
        }
        let kept = self.remember(key, &entry) || !self.behind.is_empty();
        for (_, store) in &self.behind {
            store.put(key, Arc::clone(&entry)).await;
        }
        if kept {
            Metrics::count(&self.metrics.stored);
        }
        kept
    }

    /// Keeps `entry` as one of several answers under `key`, the one for what `request` says in the fields `names`.
    pub async fn store_variant(
        &self,
        key: Key,
        names: Vec<HeaderName>,
        request: &HeaderMap,
        entry: Arc<Entry>,
    ) -> bool {
        let variant = key.variant(&names, request);
        let signpost = self.memory.see(&key).filter(|known| known.signpost.as_ref() == Some(&names));
        // Anew where what it says is new, or where a purge has ended it.
        if signpost.is_none_or(|known| !self.invalidation.admits(known.stamp, &known.tags)) {
            self.store(key, Arc::new(Entry::signpost(names, &entry))).await;
        }
        self.store(variant, entry).await
    }

    /// What is there is no answer any more, in any tier.
    pub fn remove(&self, key: &Key) {
        self.memory.remove(key);
        self.behind.iter().for_each(|(_, store)| store.remove(key));
    }

    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// How old an answer is, purges considered. None for one that is of no more use.
    pub fn age(&self, entry: &Entry) -> Option<Age> {
        match (self.invalidation.judge(entry.stamp, &entry.tags), entry.age(self.clock.now())) {
            (Purged::Hard, _) | (_, Age::Dead) => None,
            (Purged::Soft(by), Age::Fresh { age, .. }) => Some(Age::Stale { age, by }),
            (Purged::Not | Purged::Soft(_), age) => Some(age),
        }
    }

    fn judge(&self, entry: Arc<Entry>, tier: Tier) -> Option<Found> {
        self.age(&entry).map(|age| Found { entry, age, tier })
    }
}

#[cfg(test)]
mod tests;
