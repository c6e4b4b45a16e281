//! The edge by itself: real sockets, real TLS, every transport, around small innermost services.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cancel;
mod certificates;
mod drain;
mod grpc;
mod limits;
mod support;
mod transports;
mod upgrades;
