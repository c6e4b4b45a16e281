//! HTTP caching as functions of values: no clock, no I/O, no server.
//!
//! RFC 9111 with RFC 9213 (targeted cache control) and RFC 5861 (stale while revalidating, stale if error), for a shared
//! cache. Each file answers one question of a cache, and names the section that it answers by.

pub mod changes;
pub mod date;
pub mod directives;
pub mod fields;
pub mod freshness;
pub mod range;
pub mod request;
pub mod storing;
pub mod validation;
pub mod vary;

mod structured;
