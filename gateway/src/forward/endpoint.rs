//! One searchd: its connections, its health, and the calls it has in hand.

use std::sync::Arc;

use http_body::Frame;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Config;
use super::connection::{Connection, Failure, Lease, Origin, Settings};
use super::health::{self, Observation, State, Tracker};
use super::load::Load;
use super::upstream::Changes;
use crate::body::{self, Body};

/// One address that answers calls.
pub(crate) struct Endpoint {
    /// The URL as configured; it is what Maglev hashes.
    pub id: String,
    pub origin: Origin,
    pub weight: u32,
    pub load: Arc<Load>,
    /// Slots; the first ones are filled before the later ones are opened.
    connections: Vec<Arc<Connection>>,
    /// Checks have a connection of their own, so that full ones do not make the endpoint look ill.
    checks: Arc<Connection>,
    streams_per_connection: usize,
    health: Mutex<Tracker>,
    health_config: health::Config,
    changes: Changes,
    /// Asks for a check now.
    pub recheck: Notify,
}

impl Endpoint {
    pub(crate) fn new(id: &str, origin: Origin, weight: u32, config: &Config, changes: &Changes) -> Self {
        let settings = Settings {
            connect_timeout: config.connect_timeout,
            keep_alive_interval: config.keep_alive_interval,
            keep_alive_timeout: config.keep_alive_timeout,
        };
        let connection = || Arc::new(Connection::new(origin.clone(), settings.clone()));
        Self {
            id: id.to_owned(),
            weight,
            load: Arc::new(Load::new()),
            connections: (0..config.connections_max).map(|_| connection()).collect(),
            checks: connection(),
            streams_per_connection: config.streams_per_connection,
            health: Mutex::new(Tracker::default()),
            health_config: config.health.clone(),
            recheck: Notify::new(),
            changes: changes.clone(),
            origin,
        }
    }

    pub(crate) fn state(&self) -> State {
        self.health.lock().state()
    }

    pub(crate) fn is_eager(&self) -> bool {
        self.health.lock().is_eager()
    }

    /// Takes in what a check or a call told of this endpoint.
    pub(crate) fn observe(&self, observation: Observation) {
        let changed = self.health.lock().observe(observation, &self.health_config);
        if let Some(state) = changed {
            tracing::info!(endpoint = %self.id, ?state, ?observation, "upstream health changed");
            self.changes.send_replace(());
        }
        if observation == Observation::Refused {
            self.recheck.notify_one();
        }
    }

    /// Sends a request over the connection with room, and hands back an answer that frees its place when it ends.
    pub(crate) async fn send(&self, request: http::Request<Body>) -> Result<http::Response<Body>, Failure> {
        let sent = self.connection().send(request).await;
        self.learn(&sent);
        Ok(self.answer(sent?))
    }

    /// The same for a health check.
    pub(crate) async fn send_check(&self, request: http::Request<Body>) -> Result<http::Response<Body>, Failure> {
        Ok(self.answer(self.checks.send(request).await?))
    }

    fn answer(&self, (response, lease): (http::Response<hyper::body::Incoming>, Lease)) -> http::Response<Body> {
        response.map(|incoming| body::boxed(Answer { incoming, load: self.load.clone(), _lease: lease }))
    }

    fn learn<T>(&self, sent: &Result<T, Failure>) {
        match sent {
            Err(Failure::Unsent { cause, .. }) => {
                let error = cause as &dyn std::error::Error;
                tracing::debug!(endpoint = %self.id, error, "upstream call not sent");
                self.observe(Observation::Refused);
            }
            Err(Failure::Broken(error)) => {
                let error = error as &dyn std::error::Error;
                tracing::debug!(endpoint = %self.id, error, "upstream call broken");
                self.recheck.notify_one();
            }
            Ok(_) => {}
        }
    }

    /// The first connection with room; the least loaded when all are full.
    fn connection(&self) -> &Arc<Connection> {
        let roomy = self.connections.iter().find(|c| c.streams() < self.streams_per_connection);
        roomy.unwrap_or_else(|| {
            self.connections.iter().min_by_key(|c| c.streams()).expect("an endpoint has at least one connection")
        })
    }

    /// Calls whose answers have not ended.
    pub(crate) fn in_flight(&self) -> usize {
        self.connections.iter().map(|c| c.streams()).sum()
    }
}

/// An answer's body: holds its place on the connection until it ends or is dropped, and keeps the load that it tells.
struct Answer {
    incoming: hyper::body::Incoming,
    load: Arc<Load>,
    _lease: Lease,
}

impl http_body::Body for Answer {
    type Data = bytes::Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<bytes::Bytes>, hyper::Error>>> {
        std::pin::Pin::new(&mut self.incoming).poll_frame(context).map_ok(|mut frame| {
            if let Some(trailers) = frame.trailers_mut() {
                self.load.take(trailers);
            }
            frame
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.incoming.size_hint()
    }
}
