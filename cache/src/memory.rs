//! The tier in this process: bounded by the bytes that its entries weigh.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::{Entry, Key, Store};

/// Cheap to clone: clones are the same store.
#[derive(Clone)]
pub struct Memory {
    entries: moka::sync::Cache<Key, Arc<Entry>>,
}

impl Memory {
    /// Holds at most about `bytes`: what does not fit pushes out what was used least.
    pub fn new(bytes: u64) -> Self {
        let weigher = |_: &Key, entry: &Arc<Entry>| u32::try_from(entry.weight()).unwrap_or(u32::MAX);
        let entries = moka::sync::Cache::builder().max_capacity(bytes).weigher(weigher).expire_after(AtDeath).build();
        Self { entries }
    }

    /// Never waits.
    pub fn get(&self, key: &Key) -> Option<Arc<Entry>> {
        self.entries.get(key)
    }

    pub fn put(&self, key: Key, entry: Arc<Entry>) {
        self.entries.insert(key, entry);
    }

    pub fn remove(&self, key: &Key) {
        self.entries.invalidate(key);
    }

    /// Bytes held, as last counted.
    pub fn bytes(&self) -> u64 {
        self.entries.weighted_size()
    }

    pub fn len(&self) -> u64 {
        self.entries.entry_count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[async_trait::async_trait]
impl Store for Memory {
    async fn get(&self, key: &Key) -> Option<Arc<Entry>> {
        self.get(key)
    }

    async fn put(&self, key: Key, entry: Arc<Entry>) {
        self.put(key, entry);
    }

    async fn remove(&self, key: &Key) {
        self.remove(key);
    }
}

/// Frees the memory of the dead; who asks judges by the entry's own times.
struct AtDeath;

impl moka::Expiry<Key, Arc<Entry>> for AtDeath {
    fn expire_after_create(&self, _: &Key, entry: &Arc<Entry>, _: Instant) -> Option<Duration> {
        Some(entry.lifetime.total())
    }

    fn expire_after_update(&self, _: &Key, entry: &Arc<Entry>, _: Instant, _: Option<Duration>) -> Option<Duration> {
        Some(entry.lifetime.total())
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::{Audience, Clock, Invalidation, Lifetime, Tags};

    #[tokio::test]
    async fn memory_is_bounded_by_bytes() {
        let memory = Memory::new(1 << 20);
        let stamp = Invalidation::new(Clock::start()).begin();
        for i in 0..1000 {
            let tags = Tags::new(None, "c", None);
            let lifetime = Lifetime { fresh: Duration::from_secs(30), ..Lifetime::default() };
            let body = vec![0; 10_000].into();
            let entry = Entry::new(StatusCode::OK, Vec::new(), body, stamp, lifetime, tags);
            let key = Key::embed(Audience { tenant: None, scope: "vectors:read" }, "c", &i.to_string());
            memory.put(key, Arc::new(entry));
            memory.entries.run_pending_tasks();
            assert!(memory.bytes() <= 1 << 20);
        }
        assert!(memory.len() > 50 && memory.len() < 105, "{}", memory.len());
    }
}
