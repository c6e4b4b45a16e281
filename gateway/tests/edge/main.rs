//! The edge by itself: real sockets, real TLS, every transport, around small innermost services.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod authority;
mod browsers;
mod cancel;
mod certificates;
mod datagrams;
mod drain;
mod early_data;
mod grpc;
mod handshake;
mod http_cache;
mod lasting;
mod limits;
mod live;
mod mutual_tls;
mod perimeter;
mod proxy_protocol;
mod sessions;
mod slow;
mod support;
mod transports;
mod upgrades;
