//! searchd: stores vectors durably and finds the nearest of them.
//!
//! A write goes `rpc` → `commit` (plan, stamp, log, sync) → `engine` (the truth) → `index` (the vectors). A search goes
//! `rpc` → `search` on its own threads → `index` → `engine` for ids and metadata.

pub mod backup;
pub mod cache;
pub mod checkpoint;
pub mod commit;
pub mod config;
pub mod daemon;
pub mod engine;
pub mod filter;
pub mod graph;
pub mod index;
pub mod maintenance;
pub mod metadata;
pub mod metrics;
pub mod node;
pub mod priority;
mod processor;
pub mod recall;
pub mod replication;
pub mod rpc;
pub mod search;
pub mod serving;
pub mod store;
pub mod wal;

pub use config::Config;
pub use daemon::{Error, Searchd};
