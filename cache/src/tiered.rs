//! The tiers as one cache: memory first, then what is behind it; and only what was not purged since.

use std::sync::Arc;

use crate::{Age, Clock, Entry, Invalidation, Key, Memory, Metrics, Store};

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

/// An answer that nothing has purged, and how old it is.
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

    /// What memory has. Never waits.
    pub fn peek(&self, key: &Key) -> Option<Found> {
        let entry = self.memory.get(key)?;
        let found = self.judge(entry, Tier::Memory);
        if found.is_none() {
            self.memory.remove(key);
        }
        found
    }

    /// What is behind memory; kept in memory from now on.
    pub async fn fetch(&self, key: &Key) -> Option<Found> {
        let entry = self.behind.as_ref()?.get(key).await?;
        let found = self.judge(entry, Tier::Behind)?;
        self.memory.put(*key, Arc::clone(&found.entry));
        Some(found)
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

    /// Bytes and entries in memory.
    pub fn memory_use(&self) -> (u64, u64) {
        (self.memory.bytes(), self.memory.len())
    }

    fn judge(&self, entry: Arc<Entry>, tier: Tier) -> Option<Found> {
        let age = entry.age(self.clock.now());
        let alive = age != Age::Dead && self.invalidation.admits(entry.stamp, &entry.tags);
        alive.then_some(Found { entry, age, tier })
    }
}
