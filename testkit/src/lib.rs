//! Real processes, real sockets: what the end-to-end tests and the benchmarks stand on.
//!
//! Servers are child processes on free ports ([`Dev`], [`Cluster`], [`Redis`], [`Postgres`]); clients speak each protocol of the
//! product themselves ([`Client`], [`WebSocket`], [`grpc`]), so that a test sees what is on the wire. The oracles are
//! written from the contract alone and share no code with the product.

mod browser;
mod client;
mod cluster;
mod collector;
mod credentials;
mod dev;
mod filter_oracle;
mod floods;
pub mod grpc;
pub mod metrics;
pub mod mixed_load;
mod object_storage;
mod paced_upstream;
mod postgres;
mod process;
mod redis;
mod search_oracle;
mod sse;
mod upload;
pub mod vectors;
mod websocket;

pub use browser::{Browser, Page};
pub use client::{Answer, AnswerBody, Client, Protocol, Quic, RequestBuilder, StreamingAnswer, tls};
pub use cluster::{Cluster, ClusterOptions};
pub use collector::{Collected, Collector};
pub use credentials::{Authority, Claims, KeyAlgorithm, Signer, TestCa};
pub use dev::{Dev, DevOptions};
pub use filter_oracle::matches;
pub use floods::{Flood, Target, Toll};
pub use mixed_load::{MixedLoad, MixedOutcome};
pub use object_storage::ObjectStorage;
pub use paced_upstream::PacedUpstream;
pub use postgres::Postgres;
pub use process::{Process, binary, eventually, free_port, own_cpu_time};
pub use redis::Redis;
pub use search_oracle::{Hit, Metric, nearest, recall};
pub use sse::{SseEvent, SseReader};
pub use upload::Upload;
pub use websocket::WebSocket;

/// Chooses the process's TLS provider; every entry point of the kit calls it, a test need not.
pub fn install_crypto_provider() {
    // The error says that one is installed already, which is what we want.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
