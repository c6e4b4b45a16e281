//! The cache without the HTTP server around it: what HTTP says of caching, keys, tiers, coalescing and invalidation.
//!
//! Nothing here does I/O but [`disk`], [`redis`] and [`nats`], and nothing knows a route. Time comes from a [`Clock`].

mod canonical;
mod clock;
mod coalesce;
pub mod disk;
mod entry;
pub mod feed;
mod hot;
mod invalidation;
mod key;
mod lifetime;
mod memory;
mod metrics;
pub mod nats;
mod policy;
pub mod redis;
pub mod semantics;
mod store;
mod tag;
mod tiered;

pub use clock::Clock;
pub use coalesce::{Coalescer, Flight, Lost};
pub use entry::Entry;
pub use hot::{Hot, Hottest};
pub use invalidation::{Invalidation, Purge, Purged, Reach, Stamp};
pub use key::{Audience, Key, Query, Target};
pub use lifetime::{Age, Lifetime};
pub use memory::Memory;
pub use metrics::{Metrics, Snapshot};
pub use policy::{Content, Policy};
pub use store::Store;
pub use tag::{Tag, Tags};
pub use tiered::{Found, Tier, Tiered};

#[cfg(test)]
#[path = "../tests/support/servers.rs"]
mod servers;
