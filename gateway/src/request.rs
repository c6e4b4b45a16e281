//! What the pipeline knows about a request, as typed extensions: set once by the layer named, read by those inside it.

use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use nearfield_auth::Principal;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// By the listener: the connection's remote end. By the client-address layer: the client behind the hops in front.
#[derive(Clone, Copy, Debug)]
pub struct ClientAddr(pub SocketAddr);

/// By the client-address layer: the request came from a hop of ours, by every proof that the settings ask for. What hops
/// write into headers is to be believed.
#[derive(Clone, Copy, Debug)]
pub struct Proven;

/// By the listener: how the request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    Http1,
    Http2,
    Http3,
}

impl Transport {
    /// As a metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Http1 => "h1",
            Self::Http2 => "h2",
            Self::Http3 => "h3",
        }
    }

    /// As OpenTelemetry names it (`network.protocol.version`).
    pub fn version(self) -> &'static str {
        match self {
            Self::Http1 => "1.1",
            Self::Http2 => "2",
            Self::Http3 => "3",
        }
    }
}

/// By the listener, on connections whose client owns a certificate of `tls.client.ca`: the names that it was given there
/// (RFC 5280 section 4.2.1.6). A SPIFFE id is the one URI of its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    pub uris: Arc<[String]>,
    pub dns_names: Arc<[String]>,
}

/// By the listener, on requests that ask to leave HTTP: what has to be kept until the connection that they become ends.
/// Whoever takes the upgrade keeps a clone with it; then limits count it and a drain waits for it.
#[derive(Clone, Default)]
pub struct Leases(Arc<Mutex<Vec<Box<dyn Any + Send>>>>);

impl Leases {
    /// Keeps `held` with the connection.
    pub fn keep(&self, held: impl Any + Send) {
        self.0.lock().push(Box::new(held));
    }
}

/// By the listener, on requests that came in TLS early data: until the handshake is done, they may be a copy that somebody
/// else has sent (RFC 8446 section 8).
#[derive(Clone, Debug)]
pub struct Early(CancellationToken);

impl Early {
    /// `handshake` is cancelled when the handshake is done.
    pub(crate) fn until(handshake: CancellationToken) -> Self {
        Self(handshake)
    }

    /// Waits for the handshake, of which only the client itself is capable. When it fails, whoever waits is dropped with
    /// the connection.
    pub async fn settled(&self) {
        self.0.cancelled().await;
    }
}

type SendInterim = dyn Fn(StatusCode, &HeaderMap) + Send + Sync;

/// By the listener, where it can: the way for answers that come before the final one (1xx, but 100 and 101).
#[derive(Clone)]
pub struct Interim(Arc<SendInterim>);

impl Interim {
    pub fn new(send: impl Fn(StatusCode, &HeaderMap) + Send + Sync + 'static) -> Self {
        Self(Arc::new(send))
    }

    /// Sent at once, or never: once the final answer has begun, or when the client reads too slowly.
    pub fn send(&self, status: StatusCode, headers: &HeaderMap) {
        (self.0)(status, headers);
    }
}

/// By the request-id layer: `req_<id>_<region>_<instance>`.
#[derive(Clone, Debug)]
pub struct RequestId(pub HeaderValue);

impl RequestId {
    /// By which it is told to clients and to searchd.
    pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");

    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

/// By the deadline layer: when the caller stops waiting.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(pub Instant);

/// By the authentication layer: who is calling. Absent on routes that need no credentials.
#[derive(Clone, Debug)]
pub struct Caller(pub Arc<Principal>);
