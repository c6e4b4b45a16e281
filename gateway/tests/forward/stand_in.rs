//! Searchds for tests of what happens to calls: they say who they are, and fail as they are told to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::stream::BoxStream;
use http_body_util::BodyExt;
use nearfield_proto::load::{LOAD_METADATA, LoadReport};
use nearfield_proto::v1;
use nearfield_proto::v1::vector_search_server::{VectorSearch, VectorSearchServer};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use tonic_health::server::HealthReporter;
use tower::util::MapResponseLayer;

/// Answers every search with its own name.
struct StandIn {
    name: String,
    /// Says UNAVAILABLE, as a searchd that drains does.
    draining: Arc<AtomicBool>,
    /// Has not heard of the collection yet.
    lacking: Arc<AtomicBool>,
    slowness: Arc<Slowness>,
}

/// How long searches take, and how they go.
#[derive(Default)]
pub(crate) struct Slowness {
    pub(crate) millis: AtomicU64,
    pub(crate) begun: AtomicU64,
    /// Given up by the caller.
    pub(crate) cancelled: AtomicU64,
}

impl Slowness {
    async fn pass(&self) {
        struct Left<'a>(&'a AtomicU64, bool);
        impl Drop for Left<'_> {
            fn drop(&mut self) {
                if !self.1 {
                    self.0.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        let mut left = Left(&self.cancelled, false);
        self.begun.fetch_add(1, Ordering::Relaxed);
        let millis = self.millis.load(Ordering::Relaxed);
        if millis > 0 {
            let done = tokio::time::Instant::now() + Duration::from_millis(millis);
            tokio::time::sleep_until(done).await;
        }
        left.1 = true;
    }
}

impl StandIn {
    fn answer(&self) -> Result<v1::SearchResponse, Status> {
        if self.draining.load(Ordering::Relaxed) {
            return Err(Status::unavailable("draining"));
        }
        if self.lacking.load(Ordering::Relaxed) {
            return Err(Status::not_found("no such collection"));
        }
        let hit = v1::SearchResult { vector_id: self.name.clone(), ..v1::SearchResult::default() };
        Ok(v1::SearchResponse { results: vec![hit], total_results: 1, collection_version: 1, explanation: None })
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl VectorSearch for StandIn {
    async fn search(&self, _: Request<v1::SearchRequest>) -> Answer<v1::SearchResponse> {
        self.slowness.pass().await;
        self.answer().map(Response::new)
    }

    async fn insert(&self, request: Request<v1::InsertRequest>) -> Answer<v1::InsertResponse> {
        self.answer()?;
        let inserted = request.get_ref().vectors.len() as u64;
        Ok(Response::new(v1::InsertResponse { inserted, session: self.name.clone() }))
    }

    type StreamSearchStream = BoxStream<'static, Result<v1::SearchResult, Status>>;
    async fn stream_search(&self, _: Request<v1::SearchRequest>) -> Answer<Self::StreamSearchStream> {
        Err(Status::unimplemented(""))
    }
    type BidirectionalSearchStream = BoxStream<'static, Result<v1::SearchResult, Status>>;
    async fn bidirectional_search(
        &self,
        _: Request<Streaming<v1::SearchRequest>>,
    ) -> Answer<Self::BidirectionalSearchStream> {
        Err(Status::unimplemented(""))
    }
    async fn batch_search(&self, _: Request<v1::BatchSearchRequest>) -> Answer<v1::BatchSearchResponse> {
        Err(Status::unimplemented(""))
    }
    async fn insert_stream(&self, _: Request<Streaming<v1::InsertRequest>>) -> Answer<v1::InsertResponse> {
        Err(Status::unimplemented(""))
    }
    async fn update(&self, _: Request<v1::UpdateRequest>) -> Answer<v1::UpdateResponse> {
        Err(Status::unimplemented(""))
    }
    async fn delete(&self, _: Request<v1::DeleteRequest>) -> Answer<v1::DeleteResponse> {
        Err(Status::unimplemented(""))
    }
    async fn fetch(&self, _: Request<v1::FetchRequest>) -> Answer<v1::FetchResponse> {
        Err(Status::unimplemented(""))
    }
    type ScanStream = BoxStream<'static, Result<v1::Record, Status>>;
    async fn scan(&self, _: Request<v1::ScanRequest>) -> Answer<Self::ScanStream> {
        Err(Status::unimplemented(""))
    }
}

/// A stand-in that runs on a runtime of its own, so that it can be killed with all its connections.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) draining: Arc<AtomicBool>,
    pub(crate) lacking: Arc<AtomicBool>,
    pub(crate) slowness: Arc<Slowness>,
    /// Milliseconds that searches wait here, as it tells.
    pub(crate) queue_delay: Arc<AtomicU64>,
    health: HealthReporter,
    shutdown: Arc<Notify>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Running {
    pub(crate) fn start(name: &str, address: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (draining, lacking) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let slowness = Arc::new(Slowness::default());
        let service = StandIn {
            name: name.to_owned(),
            draining: draining.clone(),
            lacking: lacking.clone(),
            slowness: slowness.clone(),
        };
        let (reporter, health) = tonic_health::server::health_reporter();
        let shutdown = Arc::new(Notify::new());
        let stopped = shutdown.clone();
        let queue_delay = Arc::new(AtomicU64::new(0));
        let told = queue_delay.clone();
        let reports = MapResponseLayer::new(move |answer: http::Response<Body>| {
            let report = LoadReport::new(0.5, told.load(Ordering::Relaxed) as f64).to_header();
            answer.map(|body| {
                Body::new(body.map_frame(move |mut frame| {
                    frame.trailers_mut().map(|trailers| trailers.insert(LOAD_METADATA, report.clone()));
                    frame
                }))
            })
        });
        runtime.spawn(async move {
            let incoming = TcpListenerStream::new(TcpListener::from_std(listener).unwrap());
            let mut server = Server::builder().layer(reports);
            let router = server.add_service(VectorSearchServer::new(service)).add_service(health);
            let _ = router.serve_with_incoming_shutdown(incoming, async move { stopped.notified().await }).await;
        });
        let (health, runtime) = (reporter, Some(runtime));
        Self { address, draining, lacking, slowness, queue_delay, health, shutdown, runtime }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Says by its health check that it takes no new calls.
    pub(crate) async fn leave(&self) {
        self.health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
    }

    /// Sends GOAWAY, finishes what it has, and listens no more.
    pub(crate) fn go_away(&self) {
        self.shutdown.notify_one();
    }

    pub(crate) fn kill(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
