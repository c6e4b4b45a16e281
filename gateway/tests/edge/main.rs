//! The edge by itself: real sockets, real TLS, every transport, around small innermost services.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod authority;
mod cancel;
mod certificates;
mod drain;
mod grpc;
mod handshake;
mod http_cache;
mod limits;
mod mutual_tls;
mod sessions;
mod support;
mod transports;
mod upgrades;
