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
    behind: Option<Arc<dyn Store>>,
}

/// Where an answer was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    Behind,
    Memory,
}

/// An answer that may still be of use, and how old it is.
#[derive(Clone, Debug)]
pub struct Found {
    pub entry: Arc<Entry>,
    pub age: Age,
    pub tier: Tier,
}

impl Tiered {
    pub fn new(
        clock: Clock,
        invalidation: Invalidation,
        metrics: Arc<Metrics>,
        memory: Memory,
        behind: Option<Arc<dyn Store>>,
    ) -> Self {
        Self { clock, invalidation, metrics, memory, behind }
    }

    /// What memory has under `key`, or under that of the variant that `request` chooses. Never waits.
    pub fn peek(&self, key: &Key, request: &HeaderMap) -> Option<Found> {
        let _span = tracing::info_span!(target: "span", "cache look-up").entered();
        let found = self.look(key)?;
        match &found.entry.signpost {
            Some(names) => self.look(&key.variant(names, request)),
            None => Some(found),
        }
    }

    fn look(&self, key: &Key) -> Option<Found> {
        let entry = self.memory.get(key)?;
        let found = self.judge(entry, Tier::Memory);
        if found.is_none() {
            self.memory.remove(key);
        }
        found
    }

    /// What is behind memory; kept in memory from now on.
    pub async fn fetch(&self, key: &Key, request: &HeaderMap) -> Option<Found> {
        let behind = self.behind.as_deref()?;
        // The signpost may be in memory already, and its answer not.
        let found = match self.look(key) {
            Some(found) if found.entry.signpost.is_some() => found,
            _ => self.take(behind, key).await?,
        };
        match &found.entry.signpost {
            Some(names) => self.take(behind, &key.variant(names, request)).await,
            None => Some(found),
        }
    }

    async fn take(&self, behind: &dyn Store, key: &Key) -> Option<Found> {
        // What was purged before this gateway was there is not known yet.
        if !self.invalidation.knows_the_past() {
            return None;
        }
        let look_up = tracing::info_span!(target: "span", "Redis look-up");
        let entry = behind.get(key).instrument(look_up).await?;
        let found = self.judge(entry, Tier::Behind)?;
        self.memory.put(*key, Arc::clone(&found.entry));
        Some(found)
    }

    /// The key under which the answers to `request` are, as far as memory knows.
    pub fn resolve(&self, key: Key, request: &HeaderMap) -> Key {
        let signpost =
            self.memory.get(&key).and_then(|entry| entry.signpost.as_ref().map(|names| key.variant(names, request)));
        signpost.unwrap_or(key)
    }

    /// Whether there are several answers under `key`, chosen by fields of the request.
    pub fn has_variants(&self, key: &Key) -> bool {
        self.memory.get(key).is_some_and(|entry| entry.signpost.is_some())
    }

    /// Keeps `entry`, unless it was purged while it was on its way. True when it was kept.
    pub async fn store(&self, key: Key, entry: Arc<Entry>) -> bool {
        if !self.invalidation.admits(entry.stamp, &entry.tags) {
            return false;
        }
        self.memory.put(key, Arc::clone(&entry));
        if let Some(behind) = &self.behind {
            behind.put(key, entry).await;
        }
        Metrics::count(&self.metrics.stored);
        true
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
        let signpost = self.memory.get(&key).filter(|known| known.signpost.as_ref() == Some(&names));
        // Anew where what it says is new, or where a purge has ended it.
        if signpost.is_none_or(|known| !self.invalidation.admits(known.stamp, &known.tags)) {
            self.store(key, Arc::new(Entry::signpost(names, &entry))).await;
        }
        self.store(variant, entry).await
    }

    pub fn remove(&self, key: &Key) {
        self.memory.remove(key);
    }

    /// Bytes and entries in memory.
    pub fn memory_use(&self) -> (u64, u64) {
        (self.memory.bytes(), self.memory.len())
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
