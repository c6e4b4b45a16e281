//! Several endpoints, of which one dies, drains or starts late. The searchds are stand-ins that say who they are.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures::stream::BoxStream;
use http_body_util::BodyExt;
use nearfield_gateway::websocket;
use nearfield_proto::load::{LOAD_METADATA, LoadReport};
use nearfield_proto::v1;
use nearfield_proto::v1::vector_search_server::{VectorSearch, VectorSearchServer};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use tower::util::MapResponseLayer;

use crate::support::Inside;

/// Answers every search with its own name.
struct StandIn {
    name: String,
    /// Says UNAVAILABLE, as a searchd that drains does.
    draining: Arc<AtomicBool>,
    /// Has not heard of the collection yet.
    lacking: Arc<AtomicBool>,
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
struct Running {
    address: SocketAddr,
    draining: Arc<AtomicBool>,
    lacking: Arc<AtomicBool>,
    /// Milliseconds that searches wait here, as it tells.
    queue_delay: Arc<AtomicU64>,
    runtime: Option<tokio::runtime::Runtime>,
    _serving: JoinHandle<()>,
}

impl Running {
    fn start(name: &str, address: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (draining, lacking) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let service = StandIn { name: name.to_owned(), draining: draining.clone(), lacking: lacking.clone() };
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
        let serving = runtime.spawn(async move {
            let (_, health) = tonic_health::server::health_reporter();
            let incoming = TcpListenerStream::new(TcpListener::from_std(listener).unwrap());
            let mut server = Server::builder().layer(reports);
            let router = server.add_service(VectorSearchServer::new(service)).add_service(health);
            let _ = router.serve_with_incoming(incoming).await;
        });
        Self { address, draining, lacking, queue_delay, runtime: Some(runtime), _serving: serving }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn kill(&mut self) {
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

const ANY: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

async fn two() -> (Inside, [Running; 2]) {
    let both = [Running::start("a", ANY.into()), Running::start("b", ANY.into())];
    let inside = Inside::around(both.iter().map(Running::url).collect(), websocket::Config::default()).await;
    (inside, both)
}

/// Who answers a search; an error is a panic.
async fn asked(inside: &Inside) -> String {
    let answer = inside.post("/search", json!({"query": [1]})).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["results"][0]["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_do_not_notice_a_death() {
    let (inside, mut both) = two().await;
    let home = asked(&inside).await;
    for _ in 0..20 {
        assert_eq!(asked(&inside).await, home, "one client's reads stay together");
    }
    let victim = usize::from(home == "b");
    both[victim].kill();
    for _ in 0..200 {
        assert_ne!(asked(&inside).await, home);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_readers_do_not_notice_either() {
    let (inside, mut both) = two().await;
    let victim = usize::from(asked(&inside).await == "b");
    let inside = Arc::new(inside);
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let inside = inside.clone();
            tokio::spawn(async move {
                for _ in 0..300 {
                    asked(&inside).await;
                }
            })
        })
        .collect();
    both[victim].kill();
    for reader in readers {
        reader.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_searchd_is_left_for_the_other() {
    let (inside, both) = two().await;
    let home = asked(&inside).await;
    both[usize::from(home == "b")].draining.store(true, Ordering::Relaxed);
    for _ in 0..50 {
        assert_ne!(asked(&inside).await, home);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_was_never_sent_goes_to_the_other() {
    let (inside, mut both) = two().await;
    let insert = json!({"vectors": [{"id": "a", "values": [1]}]});
    let home = inside.post("/insert", insert.clone()).await.json()["session"].as_str().unwrap().to_owned();
    both[usize::from(home == "b")].kill();
    // The first write may find the connection broken while it is under way: then it is told, not repeated.
    let mut statuses = Vec::new();
    for _ in 0..20 {
        statuses.push(inside.post("/insert", insert.clone()).await.status.as_u16());
    }
    assert!(statuses[1..].iter().all(|status| *status == 200), "{statuses:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_anybody_it_is_503() {
    let (inside, mut both) = two().await;
    both.iter_mut().for_each(Running::kill);
    let answer = inside.post("/search", json!({"query": [1]})).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.headers.contains_key("retry-after"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_searchd_that_starts_late_is_found() {
    let mut early = Running::start("a", ANY.into());
    early.kill();
    let inside = Inside::around(vec![early.url()], websocket::Config::default()).await;
    assert!(!inside.regions.is_healthy());
    assert_eq!(inside.post("/search", json!({"query": [1]})).await.status, 503);
    let late = Running::start("late", early.address);
    let healthy = async {
        let (tell, mut told) = tokio::sync::watch::channel(false);
        let follow = inside.regions.follow(|healthy| {
            tell.send_replace(healthy);
        });
        tokio::select! {
            () = follow => {}
            _ = told.wait_for(|healthy| *healthy) => {}
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), healthy).await.unwrap();
    assert_eq!(asked(&inside).await, "late");
    drop(late);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_has_not_heard_of_is_asked_of_who_took_the_write() {
    let (inside, both) = two().await;
    let reads = asked(&inside).await;
    // A collection whose writes go to the other one.
    let mut names = (0..).map(|i| format!("c{i}"));
    let collection = loop {
        let name = names.next().unwrap();
        let insert = json!({"collection": name, "vectors": [{"id": "a", "values": [1]}]});
        if inside.post("/insert", insert).await.json()["session"] != reads.as_str() {
            break name;
        }
    };
    let search = json!({"collection": collection, "query": [1]});
    assert_eq!(inside.post("/search", search.clone()).await.json()["results"][0]["id"], reads.as_str());
    both[usize::from(reads == "b")].lacking.store(true, Ordering::Relaxed);
    assert_ne!(inside.post("/search", search.clone()).await.json()["results"][0]["id"], reads.as_str());
    // A session says what to wait for: whoever waited knows.
    let mut with_session = search.clone();
    with_session["session"] = json!("x");
    assert_eq!(inside.post("/search", with_session).await.status, 404);
    both[usize::from(reads == "a")].lacking.store(true, Ordering::Relaxed);
    assert_eq!(inside.post("/search", search).await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_are_kept_from_where_searches_wait_and_writes_are_not() {
    let (inside, both) = two().await;
    let insert = json!({"vectors": [{"id": "a", "values": [1]}]});
    let writes = inside.post("/insert", insert.clone()).await.json()["session"].clone();
    let home = asked(&inside).await;
    let (loaded, other) = (&both[usize::from(home == "b")], &both[usize::from(home == "a")]);
    loaded.queue_delay.store(20, Ordering::Relaxed);
    // The answer to this one tells it.
    assert_eq!(asked(&inside).await, home);
    for _ in 0..20 {
        assert_ne!(asked(&inside).await, home);
        assert_eq!(inside.post("/insert", insert.clone()).await.json()["session"], writes);
    }
    other.queue_delay.store(20, Ordering::Relaxed);
    assert_ne!(asked(&inside).await, home);
    assert_eq!(asked(&inside).await, home, "when searches wait everywhere, nobody is spared");
}
