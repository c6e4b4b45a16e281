//! The private port of a process: health for whoever restarts and balances it, metrics for whoever watches it.
//!
//! `/health/live` answers while the process runs at all, `/health/ready` says whether it wants traffic, and `/metrics`
//! is the registry in OpenMetrics text; `/debug` shows what is going on, for people, and `/debug.json` for programs. There are no credentials: the port belongs on a private address.

mod exposition;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::exposition::{OPEN_METRICS, PROMETHEUS};
use crate::debug::{self, Views};
use crate::readiness::{Readiness, State};

/// Scrapers and probes are few; more connections than this wait their turn.
const MAX_CONNECTIONS: usize = 64;
/// How long a connection may take to send the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Accepting fails for as long as the process is out of file descriptors: a breath, not a spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

#[derive(Debug, thiserror::Error)]
#[error("binding the admin port {address}")]
pub struct Error {
    address: SocketAddr,
    source: std::io::Error,
}

/// The running server.
pub struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Binds `address` (port 0 picks a free one) and serves on the current runtime.
    pub async fn start(
        address: SocketAddr,
        registry: Registry,
        readiness: Readiness,
        views: Views,
    ) -> Result<Self, Error> {
        Self::start_on(Self::bind(address)?, registry, readiness, views)
    }

    /// A listener for [`Self::start_on`], which may be handed to another process.
    pub fn bind(address: SocketAddr) -> Result<std::net::TcpListener, Error> {
        std::net::TcpListener::bind(address).map_err(|source| Error { address, source })
    }

    /// Serves on `listener`, on the current runtime.
    pub fn start_on(
        listener: std::net::TcpListener,
        registry: Registry,
        readiness: Readiness,
        views: Views,
    ) -> Result<Self, Error> {
        let error = |source| Error { address: SocketAddr::from(([0, 0, 0, 0], 0)), source };
        let address = listener.local_addr().map_err(error)?;
        listener.set_nonblocking(true).map_err(error)?;
        let listener = TcpListener::from_std(listener).map_err(error)?;
        let stop = CancellationToken::new();
        let pages = Pages { registry: Arc::new(registry), readiness, views };
        let accepting = tokio::spawn(accept(listener, pages, stop.clone()));
        Ok(Self { address, stop, accepting })
    }

    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting.
    pub fn close(&self) {
        self.stop.cancel();
    }

    /// Stops accepting and lets answers under way finish.
    pub async fn stop(self) {
        self.stop.cancel();
        // It ends by the token, or it panicked: either way the port is closed.
        let _ = self.accepting.await;
    }
}

async fn accept(listener: TcpListener, pages: Pages, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = tokio_util::task::TaskTracker::new();
    while let Some(slot) = stop.run_until_cancelled(slots.clone().acquire_owned()).await {
        match stop.run_until_cancelled(listener.accept()).await {
            None => break,
            Some(Ok((stream, _))) => {
                let (pages, stop) = (pages.clone(), stop.clone());
                connections.spawn(async move {
                    serve(stream, pages, stop).await;
                    drop(slot);
                });
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "accepting on the admin port failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn serve(stream: TcpStream, pages: Pages, stop: CancellationToken) {
    let service = service_fn(move |request| {
        let answer = pages.answer(&request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // A probe that breaks off concerns nobody.
    if stop.run_until_cancelled(connection.as_mut()).await.is_none() {
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }
}

/// What is served.
#[derive(Clone)]
struct Pages {
    registry: Arc<Registry>,
    readiness: Readiness,
    views: Views,
}

impl Pages {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut answer = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n");
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        match request.uri().path() {
            "/health/live" => page(StatusCode::OK, JSON, "{\"status\":\"live\"}\n"),
            "/health/ready" => ready(&self.readiness.state()),
            "/metrics" => self.metrics(request.headers()),
            "/debug" | "/debug/" => page(StatusCode::OK, HTML, debug::page(&self.views.show(&self.text()))),
            "/debug.json" => page(StatusCode::OK, JSON, self.views.show(&self.text()).to_string()),
            _ => page(StatusCode::NOT_FOUND, TEXT, "here are /health/live, /health/ready, /metrics and /debug\n"),
        }
    }

    fn metrics(&self, asked: &HeaderMap) -> Response<Full<Bytes>> {
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            Ok(()) if exposition::asks_for_plain(asked) => page(StatusCode::OK, PROMETHEUS, exposition::plain(&text)),
            Ok(()) => page(StatusCode::OK, OPEN_METRICS, text),
            Err(_) => page(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "a metric could not be encoded\n"),
        }
    }

    /// The metrics as far as they can be encoded.
    fn text(&self) -> String {
        let mut text = String::new();
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

fn ready(state: &State) -> Response<Full<Bytes>> {
    let status = if *state == State::Ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    page(status, JSON, ready_json(state))
}

/// The body of `/health/ready`, the same on every port.
pub fn ready_json(state: &State) -> String {
    match state {
        State::Unready(reason) => format!("{{\"status\":\"unready\",\"reason\":{reason:?}}}\n"),
        other => format!("{{\"status\":\"{}\"}}\n", other.as_str()),
    }
}

fn page(status: StatusCode, kind: HeaderValue, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("the server listens");
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers in UTF-8");
        answer
    }

    #[tokio::test]
    async fn health_follows_readiness_and_metrics_are_open_metrics() {
        let mut registry = Registry::default();
        crate::process::register(&mut registry);
        let readiness = Readiness::new();
        let views = Views::default();
        views.add("weather", || serde_json::json!([{ "sky": "<blue>" }]));
        let server =
            Server::start(([127, 0, 0, 1], 0).into(), registry, readiness.clone(), views).await.expect("a free port");
        let address = server.addr();

        assert!(get(address, "/health/live").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/health/ready").await.starts_with("HTTP/1.1 503"));
        readiness.set(State::Unready("no healthy searchd"));
        assert!(
            get(address, "/health/ready")
                .await
                .ends_with("{\"status\":\"unready\",\"reason\":\"no healthy searchd\"}\n")
        );
        readiness.set(State::Ready);
        assert!(get(address, "/health/ready").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/").await.starts_with("HTTP/1.1 404"));

        let metrics = get(address, "/metrics").await;
        assert!(metrics.contains("application/openmetrics-text"), "{metrics}");
        assert!(metrics.ends_with("# EOF\n"), "{metrics}");

        let shown = get(address, "/debug").await;
        assert!(shown.contains("text/html") && shown.contains("&lt;blue&gt;"), "{shown}");
        assert!(shown.contains("process_resident_memory_bytes"), "{shown}");
        let json = get(address, "/debug.json").await;
        assert!(json.contains("\"weather\":[{\"sky\":\"<blue>\"}]"), "{json}");

        let idle = TcpStream::connect(address).await.expect("the server listens");
        server.stop().await;
        drop(idle);
        // A process that another test starts holds the listener between its fork and its exec.
        let closed = async { while TcpStream::connect(address).await.is_ok() {} };
        tokio::time::timeout(Duration::from_secs(10), closed).await.expect("the port is closed");
    }
}
