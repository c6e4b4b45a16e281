//! One HTTP/2 connection to a searchd, made when it is first needed and made again when it is lost.
//!
//! hyper's connection is used without tonic's channel around it: it tells whether a request that failed had been sent
//! at all, which decides whether a write may go elsewhere, and it saves two queues a call.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::uri::{Authority, Scheme};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::RwLock;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::body::Body;
use crate::cork::Cork;

/// Where a searchd listens: `http://host:port`, nothing behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub authority: Authority,
}

impl Origin {
    pub(crate) fn parse(url: &str) -> Option<Self> {
        let uri: http::Uri = url.parse().ok()?;
        let authority = uri.authority()?.clone();
        let plain = uri.scheme() == Some(&Scheme::HTTP) && matches!(uri.path(), "" | "/") && uri.query().is_none();
        let complete = authority.port_u16().is_some() && !authority.as_str().contains('@');
        (plain && complete).then_some(Self { authority })
    }
}

/// Why a request got no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It may have been processed.
    Broken(hyper::Error),
    /// searchd never got it; here it is again, when its body was not touched.
    Unsent { request: Option<Box<http::Request<Body>>>, cause: Unreachable },
}

/// Why no connection could be used.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Unreachable {
    #[error("connecting")]
    Connect(#[source] Arc<std::io::Error>),
    #[error("connecting took longer than {0:?}")]
    ConnectTimeout(Duration),
    #[error("the HTTP/2 connection was not usable")]
    Http2(#[source] Arc<hyper::Error>),
}

/// How connections are made.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub connect_timeout: Duration,
    pub keep_alive_interval: Duration,
    pub keep_alive_timeout: Duration,
    /// How long calls may go on over a connection that takes no new ones.
    pub drain_timeout: Duration,
}

/// A slot for a connection.
pub(crate) struct Connection {
    origin: Origin,
    settings: Settings,
    live: RwLock<Option<Live>>,
    /// Told when the peer closes a connection, or announces it (GOAWAY).
    closed: Arc<Notify>,
    /// Held while one caller connects for all; when the last attempt failed, and how.
    connecting: tokio::sync::Mutex<Option<(Instant, Unreachable)>>,
    /// Calls whose answers have not ended.
    streams: AtomicUsize,
}

/// A connection that takes calls.
struct Live {
    sender: SendRequest<Body>,
    cut: CancellationToken,
}

impl Connection {
    pub(crate) fn new(origin: Origin, settings: Settings, closed: Arc<Notify>) -> Self {
        Self {
            origin,
            settings,
            live: RwLock::new(None),
            closed,
            connecting: tokio::sync::Mutex::new(None),
            streams: AtomicUsize::new(0),
        }
    }

    pub(crate) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// Sends a request and waits for the head of its answer. The lease keeps count until the answer's body ends.
    pub(crate) async fn send(
        self: &Arc<Self>,
        request: http::Request<Body>,
    ) -> Result<(http::Response<hyper::body::Incoming>, Lease), Failure> {
        let lease = Lease::new(self.clone());
        let mut sender = match self.sender().await {
            Ok(sender) => sender,
            Err(cause) => return Err(Failure::Unsent { request: Some(Box::new(request)), cause }),
        };
        match sender.try_send_request(request).await {
            Ok(response) => Ok((response, lease)),
            Err(mut failed) => {
                let request = failed.take_message();
                let error = failed.into_error();
                if request.is_some() || was_refused(&error) {
                    return Err(Failure::Unsent {
                        request: request.map(Box::new),
                        cause: Unreachable::Http2(Arc::new(error)),
                    });
                }
                Err(Failure::Broken(error))
            }
        }
    }

    /// Gives this connection no new calls: the next ones open another. What it has may go on for the drain timeout.
    pub(crate) fn retire(&self) {
        *self.live.write() = None;
    }

    /// Ends the connection with all its calls.
    pub(crate) fn cut(&self) {
        if let Some(live) = self.live.write().take() {
            live.cut.cancel();
        }
    }

    fn open(&self) -> Option<SendRequest<Body>> {
        self.live.read().as_ref().map(|live| &live.sender).filter(|sender| !sender.is_closed()).cloned()
    }

    async fn sender(&self) -> Result<SendRequest<Body>, Unreachable> {
        if let Some(sender) = self.open() {
            return Ok(sender);
        }
        let asked = Instant::now();
        let mut last_failure = self.connecting.lock().await;
        if let Some(sender) = self.open() {
            return Ok(sender);
        }
        // Whoever waited for an attempt shares its failure, or a dead host would be tried by each in turn.
        if let Some((at, failure)) = last_failure.as_ref()
            && *at >= asked
        {
            return Err(failure.clone());
        }
        match self.connect().await {
            Ok(live) => {
                let sender = live.sender.clone();
                *self.live.write() = Some(live);
                *last_failure = None;
                Ok(sender)
            }
            Err(failure) => {
                *last_failure = Some((Instant::now(), failure.clone()));
                Err(failure)
            }
        }
    }

    async fn connect(&self) -> Result<Live, Unreachable> {
        let authority = &self.origin.authority;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let port = authority.port_u16().expect("an origin has a port");
        let patience = self.settings.connect_timeout;
        let stream = tokio::time::timeout(patience, TcpStream::connect((host, port)))
            .await
            .map_err(|_| Unreachable::ConnectTimeout(patience))?
            .map_err(|e| Unreachable::Connect(Arc::new(e)))?;
        stream.set_nodelay(true).map_err(|e| Unreachable::Connect(Arc::new(e)))?;
        let cut = CancellationToken::new();
        let (sender, connection) = http2::Builder::new(Cuttable(cut.clone()))
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEADER_LIST_MAX)
            .keep_alive_interval(self.settings.keep_alive_interval)
            .keep_alive_timeout(self.settings.keep_alive_timeout)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(Cork::new(stream, None)))
            .await
            .map_err(|e| Unreachable::Http2(Arc::new(e)))?;
        let (peer, closed, drain_timeout) = (authority.clone(), self.closed.clone(), self.settings.drain_timeout);
        let cutting = cut.clone();
        tokio::spawn(async move {
            // Ends when no call can be begun any more: after a GOAWAY calls under way go on.
            if let Err(error) = connection.await {
                tracing::debug!(%peer, error = &error as &dyn std::error::Error, "upstream connection ended");
            }
            closed.notify_one();
            tokio::time::sleep(drain_timeout).await;
            cutting.cancel();
        });
        Ok(Live { sender, cut })
    }
}

/// Runs a connection's tasks until it is cut.
#[derive(Clone)]
struct Cuttable(CancellationToken);

impl<F> hyper::rt::Executor<F> for Cuttable
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        // All kinds of hyper's tasks are one type, as large as a connection, and one is spawned for each call.
        tokio::spawn(self.0.clone().run_until_cancelled_owned(Box::pin(task)));
    }
}

/// The peer says that it did not process the request: REFUSED_STREAM, or a graceful GOAWAY before it
/// (RFC 9113 section 8.7).
fn was_refused(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(h2) = cause.downcast_ref::<h2::Error>() {
            let graceful = h2.is_go_away() && h2.reason() == Some(h2::Reason::NO_ERROR);
            return h2.is_remote() && (graceful || h2.reason() == Some(h2::Reason::REFUSED_STREAM));
        }
        source = cause.source();
    }
    false
}

/// One call's place on a connection, given back when dropped.
pub(crate) struct Lease(Arc<Connection>);

impl Lease {
    fn new(connection: Arc<Connection>) -> Self {
        connection.streams.fetch_add(1, Ordering::Relaxed);
        Self(connection)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What searchd may send ahead on one stream, and on all of a connection together, in bytes.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Headers and trailers of one answer: error details included.
const HEADER_LIST_MAX: u32 = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_a_scheme_a_host_and_a_port() {
        assert!(Origin::parse("http://127.0.0.1:50051").is_some());
        assert!(Origin::parse("http://[::1]:50051/").is_some());
        for bad in ["127.0.0.1:50051", "https://searchd:50051", "http://searchd", "http://a@b:1", "http://a:1/x", ""] {
            assert_eq!(Origin::parse(bad), None, "{bad}");
        }
    }
}
