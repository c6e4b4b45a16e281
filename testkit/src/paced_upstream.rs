//! Stands in for a searchd of known capacity: answers searches with no hits, as many at once and as fast as it is told. To
//! whoever asks by plain HTTP it is an origin as fast, for peers that speak no gRPC.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// Serves until it is dropped.
pub struct PacedUpstream {
    url: String,
    pace: Arc<Pace>,
    accepting: JoinHandle<()>,
}

struct Pace {
    workers: Semaphore,
    service: Duration,
    /// Searches end one by one, as they are let.
    held: bool,
    asked: AtomicUsize,
    running: AtomicUsize,
}

impl PacedUpstream {
    /// `workers` answer one search each at a time, in the order in which they come, and take `service` for it. The queue
    /// before them has no end.
    pub async fn start(workers: usize, service: Duration) -> Result<Self> {
        Self::listen(workers, service, false).await
    }

    /// Every search waits until [`Self::let_go`].
    pub async fn holding() -> Result<Self> {
        Self::listen(0, Duration::ZERO, true).await
    }

    async fn listen(workers: usize, service: Duration, held: bool) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let (asked, running) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let pace = Arc::new(Pace { workers: Semaphore::new(workers), service, held, asked, running });
        let accepting = tokio::spawn(accept(listener, pace.clone()));
        Ok(Self { url, pace, accepting })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Searches that came so far.
    pub fn asked(&self) -> usize {
        self.pace.asked.load(Ordering::SeqCst)
    }

    /// Searches that wait or are answered now.
    pub fn running(&self) -> usize {
        self.pace.running.load(Ordering::SeqCst)
    }

    /// Answers so many of the searches that are held, in the order in which they came.
    pub fn let_go(&self, searches: usize) {
        self.pace.workers.add_permits(searches);
    }
}

impl Drop for PacedUpstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, pace: Arc<Pace>) {
    while let Ok((stream, _)) = listener.accept().await {
        let pace = pace.clone();
        let service = service_fn(move |request| answer(request, pace.clone()));
        let server = auto::Builder::new(TokioExecutor::new());
        tokio::spawn(async move { server.serve_connection(TokioIo::new(stream), service).await });
    }
}

type Answer = Response<http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>>;

async fn answer(request: Request<Incoming>, pace: Arc<Pace>) -> Result<Answer, Infallible> {
    let (parts, body) = request.into_parts();
    // A client that resets its call is no matter.
    let _ = body.collect().await;
    match (&parts.method, parts.uri.path()) {
        (_, "/grpc.health.v1.Health/Check") => Ok(message(&HEALTHY, "0")),
        // Every collection is there, and may be anywhere.
        (_, "/nearfield.v1.Collections/Describe") => Ok(message(&EMPTY, "0")),
        (_, "/nearfield.v1.VectorSearch/Search") => {
            pace.take_turn().await;
            Ok(message(&EMPTY, "0"))
        }
        (&Method::GET, _) => {
            pace.take_turn().await;
            Ok(resource())
        }
        _ => Ok(message(&[], UNIMPLEMENTED)),
    }
}

impl Pace {
    async fn take_turn(self: &Arc<Self>) {
        /// Counts one search out, however it ends.
        struct Running(Arc<Pace>);
        impl Drop for Running {
            fn drop(&mut self) {
                self.0.running.fetch_sub(1, Ordering::SeqCst);
            }
        }
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.running.fetch_add(1, Ordering::SeqCst);
        let _running = Running(self.clone());
        let worker = self.workers.acquire().await.expect("it is never closed");
        tokio::time::sleep_until(tokio::time::Instant::now() + self.service).await;
        if self.held {
            worker.forget();
        }
    }
}

/// What any cache may keep.
fn resource() -> Answer {
    let frame = Frame::data(Bytes::from_static(b"{\"results\":[],\"total_results\":0,\"collection_version\":0}"));
    let mut response = Response::new(StreamBody::new(futures::stream::iter([Ok(frame)])).boxed_unsync());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    response.headers_mut().insert("cache-control", HeaderValue::from_static("max-age=60"));
    response
}

/// One gRPC message, or none, and the status behind it.
fn message(framed: &'static [u8], status: &'static str) -> Answer {
    let trailers = HeaderMap::from_iter([("grpc-status".parse().expect("a name"), HeaderValue::from_static(status))]);
    let frames = [Frame::data(Bytes::from_static(framed)), Frame::trailers(trailers)];
    let frames = futures::stream::iter(frames.map(Ok));
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

/// A HealthCheckResponse that says SERVING, in gRPC's framing.
const HEALTHY: [u8; 7] = [0, 0, 0, 0, 2, 0x08, 1];
/// A SearchResponse without hits, or a Collection without settings.
const EMPTY: [u8; 5] = [0; 5];
const UNIMPLEMENTED: &str = "12";
