//! What is in use now, which a change of settings replaces while requests go on.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

/// Clones are the same: who asks again gets what is in use then.
pub struct Current<T>(Arc<Slot<T>>);

struct Slot<T> {
    value: ArcSwap<T>,
    replaced: Notify,
}

impl<T> Clone for Current<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> From<T> for Current<T> {
    fn from(value: T) -> Self {
        Self(Arc::new(Slot { value: ArcSwap::from_pointee(value), replaced: Notify::new() }))
    }
}

impl<T> Current<T> {
    pub fn get(&self) -> Arc<T> {
        self.0.value.load_full()
    }

    pub(crate) fn replace(&self, value: T) {
        self.0.value.store(Arc::new(value));
        self.0.replaced.notify_waiters();
    }

    /// Resolves when another is in use than at the call.
    pub(crate) fn replaced(&self) -> impl Future<Output = ()> {
        self.0.replaced.notified()
    }
}
