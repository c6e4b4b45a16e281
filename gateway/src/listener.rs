//! Where requests come in: TLS over TCP (HTTP/1.1, HTTP/2) and QUIC (HTTP/3) on one port number.
//!
//! Pingora keeps the accept loops, the runtime and the hand-over of sockets. Each transport turns what it reads into
//! an `http::Request<Body>` and calls the same [`Service`]; no decision about a request is taken here.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::service::Service as _;
use serde::Deserialize;

use crate::body::Request;
use crate::layers::{Answering, Stack};

mod activity;
mod allowance;
pub mod arrivals;
mod connection;
pub(crate) mod door;
mod h2_frames;
mod h2_purses;
pub(crate) mod host;
mod inline;
mod interim;
mod patience;
pub mod proxy_protocol;
mod quic;
mod quic_answer;
mod quic_body;
mod quic_control;
mod quic_early;
mod quic_fields;
mod quic_frames;
mod quic_framing;
mod quic_head;
mod quic_ids;
mod quic_recv;
mod quic_sieve;
mod quic_socket;
mod quic_streams;
mod quic_tunnel;
mod quic_uni;
mod quic_waste;
pub mod sockets;
mod tcp;
pub mod tls;
mod watched;

pub(crate) use self::quic_ids::{Mark, Secrets as QuicSecrets};
pub(crate) use self::quic_socket::{Elder, SharedSocket};

/// The pipeline as the transports see it: it answers everything.
pub type Service = Stack;

/// The pipeline in use. Clones are the same; a request ends in the one that it began in.
#[derive(Clone)]
pub(crate) struct Pipeline(Arc<ArcSwap<Service>>);

impl Pipeline {
    pub(crate) fn new(service: Service) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(service)))
    }

    pub(crate) fn call(&self, request: Request) -> Answering<Infallible> {
        self.0.load().call(request)
    }

    pub(crate) fn replace(&self, service: Service) {
        self.0.store(Arc::new(service));
    }
}

/// Addresses, and every limit that holds before a request is a request.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where HTTPS is served: TCP and, on the same number, UDP. Port 0 takes a free number.
    pub https: Vec<SocketAddr>,
    /// Where the private port serves health and metrics.
    pub admin: SocketAddr,
    /// Open connections of all transports together; past it new ones are refused before their handshake.
    pub max_connections: usize,
    /// The same of one client, an IPv4 address or an IPv6 /64; over QUIC they are closed right behind their handshake, which
    /// proves the address. Hops in `client.trusted` and `proxy_protocol.trusted` have no such limit.
    pub max_connections_per_client: usize,
    /// A connection without a request in flight is closed after this.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// How long answers may wait for a client that takes nothing of any of them. Then the connection, over HTTP/3 the
    /// stream, is closed.
    #[serde(with = "humantime_serde")]
    pub send_timeout: Duration,
    pub arrivals: arrivals::Config,
    pub proxy_protocol: proxy_protocol::Config,
    pub http1: Http1,
    pub http2: Http2,
    pub http3: Http3,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            https: vec![SocketAddr::from(([127, 0, 0, 1], 8443))],
            admin: SocketAddr::from(([127, 0, 0, 1], 9090)),
            max_connections: 100_000,
            max_connections_per_client: 1_000,
            idle_timeout: Duration::from_secs(90),
            send_timeout: Duration::from_secs(30),
            arrivals: arrivals::Config::default(),
            proxy_protocol: proxy_protocol::Config::default(),
            http1: Http1::default(),
            http2: Http2::default(),
            http3: Http3::default(),
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http1 {
    /// From the first byte of a request's head to its last.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// Bytes of a request's head; at least 8192.
    pub max_header_bytes: usize,
    pub max_headers: usize,
}

impl Default for Http1 {
    fn default() -> Self {
        Self { header_timeout: Duration::from_secs(10), max_header_bytes: 64 * 1024, max_headers: 100 }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http2 {
    pub max_concurrent_streams: u32,
    /// Bytes of a request's decoded head (SETTINGS_MAX_HEADER_LIST_SIZE).
    pub max_header_bytes: u32,
    /// From a head's first frame to the end of its last.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// Streams that the client reset before they were accepted; past it the connection is closed (CVE-2023-44487).
    pub max_reset_streams: usize,
    /// Streams that this side reset for the client's errors; past it the connection is closed (CVE-2025-8671).
    pub max_error_resets: usize,
    /// Between pings on a connection that is silent.
    #[serde(with = "humantime_serde")]
    pub keep_alive_interval: Duration,
    /// How long a ping's answer may take.
    #[serde(with = "humantime_serde")]
    pub keep_alive_timeout: Duration,
    /// Bytes of a request body that may wait unread, per stream.
    pub stream_window: u32,
    /// The same for all streams of a connection.
    pub connection_window: u32,
    /// Bytes of answers that may wait unsent, per stream.
    pub max_send_buffer: usize,
}

impl Default for Http2 {
    fn default() -> Self {
        Self {
            max_concurrent_streams: 100,
            max_header_bytes: 64 * 1024,
            header_timeout: Duration::from_secs(10),
            max_reset_streams: 20,
            max_error_resets: 256,
            keep_alive_interval: Duration::from_secs(60),
            keep_alive_timeout: Duration::from_secs(20),
            stream_window: 1 << 20,
            connection_window: 4 << 20,
            max_send_buffer: 256 * 1024,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http3 {
    pub enabled: bool,
    pub max_concurrent_streams: u32,
    /// Bytes of a request's decoded head (SETTINGS_MAX_FIELD_SECTION_SIZE).
    pub max_header_bytes: u64,
    /// From a stream's opening to the end of its head.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// Handshakes that are not complete; past it clients must prove their address first (Retry).
    pub max_handshakes: usize,
    pub stream_window: u32,
    pub connection_window: u32,
    /// How long browsers remember that this origin speaks HTTP/3 (Alt-Svc `ma`).
    #[serde(with = "humantime_serde")]
    pub alt_svc_max_age: Duration,
}

impl Default for Http3 {
    fn default() -> Self {
        Self {
            enabled: true,
            max_concurrent_streams: 100,
            max_header_bytes: 64 * 1024,
            header_timeout: Duration::from_secs(10),
            max_handshakes: 64,
            stream_window: 1 << 20,
            connection_window: 4 << 20,
            alt_svc_max_age: Duration::from_secs(86_400),
        }
    }
}
