//! What the cache did, counted. Whoever serves metrics takes a [`Snapshot`].

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// Counters, each since the start.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $($(#[$doc])* pub $name: AtomicU64,)+
        }

        /// The counters at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Snapshot {
            $($(#[$doc])* pub $name: u64,)+
        }

        impl Metrics {
            pub fn snapshot(&self) -> Snapshot {
                Snapshot { $($name: self.$name.load(Ordering::Relaxed),)+ }
            }
        }
    };
}

counters! {
    /// Answered from the local disk.
    hits_disk,
    /// Answered from memory.
    hits_memory,
    /// Answered from Redis.
    hits_redis,
    /// The origin was asked.
    misses,
    /// An old answer in place of a failure.
    stale,
    /// Waited for the answer to somebody else's equal question.
    coalesced,
    /// Neither looked up nor stored.
    bypassed,
    stored,
    /// Answers larger than an entry may be.
    too_large,
    /// Hot answers that were asked for anew before they were too old.
    refreshed_ahead,
    /// The same, and the origin failed or forbade to keep the answer.
    refreshes_failed,
    /// Not asked for ahead, because that many were already.
    refreshes_skipped,
    /// Purges of other gateways that were applied here.
    purges_learnt,
    /// Exchanges with the purge feed that failed.
    feed_failures,
    /// Purges may have been missed, so that all answers were forgotten.
    feed_gaps,
    /// Nothing was heard of the purge feed for too long, so that answers were taken for stale.
    feed_silences,
    disk_misses,
    /// The disk failed or was too slow.
    disk_failures,
    /// Not read or not stored: too many reads at once, too much to write, or a disk that failed a moment ago.
    disk_skipped,
    /// Records that were torn or damaged.
    disk_damaged,
    redis_misses,
    redis_failures,
    /// Not sent: Redis was failing, slow, or behind.
    redis_skipped,
}

impl Metrics {
    pub fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
