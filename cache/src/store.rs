//! A tier of the cache: memory, Redis, and whatever comes between or behind.

use std::sync::Arc;

use crate::{Entry, Key};

/// Stores answers by key. A store is a convenience: it forgets when it likes, and when it fails it has nothing.
#[async_trait::async_trait]
pub trait Store: Send + Sync {
    /// Whatever is stored, fresh or stale. The asker judges age and purges.
    async fn get(&self, key: &Key) -> Option<Arc<Entry>>;

    /// May take the entry later, or not at all.
    async fn put(&self, key: Key, entry: Arc<Entry>);

    /// What is there is no answer any more. Does not wait.
    fn remove(&self, key: &Key);
}
