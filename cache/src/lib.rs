//! The response cache without the HTTP server around it: keys, lifetimes, tiers, coalescing and invalidation.
//!
//! Nothing here does I/O but [`redis`], and nothing knows a route. Time comes from a [`Clock`].

mod canonical;
mod clock;
mod coalesce;
mod entry;
pub mod freshness;
mod invalidation;
mod key;
mod memory;
mod metrics;
pub mod redis;
mod store;
mod tag;
mod tiered;

pub use clock::Clock;
pub use coalesce::{Coalescer, Flight, Lost};
pub use entry::{Age, Entry};
pub use freshness::{Content, Lifetime};
pub use invalidation::{Invalidation, Purge, Stamp};
pub use key::{Audience, Key, Query, Target};
pub use memory::Memory;
pub use metrics::{Metrics, Snapshot};
pub use store::Store;
pub use tag::{Tag, Tags};
pub use tiered::{Found, Tier, Tiered};
