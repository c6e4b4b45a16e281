//! WebSockets: `/ws` over an HTTP/1.1 upgrade (RFC 6455), an HTTP/2 stream (RFC 8441) or an HTTP/3 stream (RFC 9220).
//!
//! One task a connection reads, writes and keeps time; each request runs in a task of its own, and ends with its
//! connection. An idle connection holds a small buffer and one timer.

mod connection;
mod handshake;
mod message;
mod request;

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use nearfield_auth::Authenticator;
use nearfield_proto::v1::SearchRequest;
use nearfield_telemetry::drain::Drain;
use serde::Deserialize;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

pub use self::handshake::offered_bearer;
use crate::body::{self, Request, Response};
use crate::current::Current;
use crate::error::Error;
use crate::forward::CallContext;
use crate::layers::shed::room::Place;
use crate::region::Regions;
use crate::request::Leases;
use crate::route::Route;
use crate::streams::Streams;
use crate::upgrade::Upgrade;

/// The settings' section `[websocket]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Bytes of one message.
    pub message_bytes_max: usize,
    /// Requests of one connection that run at once; further messages wait in the peer's socket.
    pub requests_max: usize,
    /// A connection that is silent for so long is pinged.
    #[serde(with = "humantime_serde")]
    pub ping_interval: Duration,
    /// A connection from which nothing came for so long, not even the answer to a ping, is closed.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// How long one message's request may take.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// How long a peer may take to accept what is sent to it.
    #[serde(with = "humantime_serde")]
    pub send_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            message_bytes_max: 16 << 20,
            requests_max: 64,
            ping_interval: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(90),
            request_timeout: Duration::from_secs(30),
            send_timeout: Duration::from_secs(10),
        }
    }
}

/// Asked before each message's request: the limits that apply to it, and a place under them.
#[async_trait::async_trait]
pub trait Admission: Send + Sync {
    /// What it gives is dropped when the request has been answered.
    ///
    /// # Errors
    /// Why the request is not admitted; the connection stays open.
    async fn admit(&self, context: &CallContext, asked: &Asked<'_>) -> Result<Option<Place>, Error>;
}

/// What a message asks for.
#[derive(Clone, Copy, Debug)]
pub enum Asked<'a> {
    Search { request: &'a SearchRequest, stream: bool },
    Write { route: Route, points: usize },
}

/// No limits but those of the connection itself.
pub struct Unlimited;

#[async_trait::async_trait]
impl Admission for Unlimited {
    async fn admit(&self, _context: &CallContext, _asked: &Asked<'_>) -> Result<Option<Place>, Error> {
        Ok(None)
    }
}

/// Accepts WebSockets. Clones are the same server.
#[derive(Clone)]
pub struct Server(Arc<Shared>);

pub(crate) struct Shared {
    /// A connection keeps to those that it began with.
    config: Current<Config>,
    regions: Current<Regions>,
    drain: Drain,
    admission: Arc<dyn Admission>,
    authenticator: Current<Authenticator>,
    connections: Streams,
}

impl Server {
    /// `connections` is where open ones are listed, for whoever has to close some.
    pub fn new(
        config: impl Into<Current<Config>>,
        regions: impl Into<Current<Regions>>,
        drain: Drain,
        admission: Arc<dyn Admission>,
        authenticator: Current<Authenticator>,
        connections: Streams,
    ) -> Self {
        let config = config.into();
        Self(Arc::new(Shared { config, regions: regions.into(), drain, admission, authenticator, connections }))
    }

    /// The open connections, to be closed when the process must shed.
    pub fn connections(&self) -> &Streams {
        &self.0.connections
    }

    /// Answers an opening handshake and serves the connection in a task of its own.
    ///
    /// # Errors
    /// A handshake that is none.
    pub fn accept(&self, mut request: Request) -> Result<Response, Error> {
        let accepted = handshake::check(&request)?;
        let upgrade = Upgrade::of(&mut request);
        let (parts, _) = request.into_parts();
        let context = CallContext::of(&parts)?;
        // Its place under the limits, and what keeps its HTTP/2 connection from being taken for idle.
        let leases = parts.extensions.get::<Leases>().cloned();
        let (shared, config) = (self.0.clone(), self.0.config.get());
        // The drain waits for the connection from now on, not only from the end of the upgrade.
        let admitted = shared.drain.admit();
        tokio::spawn(async move {
            let _held = (admitted, leases);
            match upgrade.done().await {
                Ok(io) => {
                    let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config.socket())).await;
                    connection::serve(socket, shared, config, context).await;
                }
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "websocket upgrade failed");
                }
            }
        });
        let mut response = Response::new(body::empty());
        *response.status_mut() = if accepted.by_connect { StatusCode::OK } else { StatusCode::SWITCHING_PROTOCOLS };
        response.headers_mut().extend(accepted.headers);
        Ok(response)
    }
}

impl Config {
    fn socket(&self) -> WebSocketConfig {
        WebSocketConfig::default()
            .read_buffer_size(BUFFER_BYTES)
            .write_buffer_size(BUFFER_BYTES)
            .max_message_size(Some(self.message_bytes_max))
            .max_frame_size(Some(self.message_bytes_max))
    }
}

/// What an idle connection holds, each way.
const BUFFER_BYTES: usize = 1 << 10;
