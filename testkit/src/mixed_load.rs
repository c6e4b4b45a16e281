//! Requests of every protocol that go on while a gateway is replaced or set differently, and what became of them.
//!
//! All of them may be sent twice, and so are counted as their clients would: one that fails is sent once more on a new
//! connection (RFC 9110 section 9.2.2), and what fails then has failed.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http::Method;
use nearfield_proto::v1::SearchRequest;
use nearfield_proto::v1::vector_search_client::VectorSearchClient;
use serde_json::json;

use crate::client::{Client, Protocol};
use crate::cluster::Cluster;
use crate::credentials::Claims;
use crate::grpc::{self, AuthorizedChannel, Credentials};
use crate::process::eventually;
use crate::vectors;
use crate::websocket::WebSocket;

const API: &str = "/api/v1";
const COLLECTION: &str = "mixed";
const POINTS: usize = 200;
const DIMENSION: usize = 4;
/// Requests of one who comes and goes, on each connection.
const VISIT: usize = 20;
/// How long more answers may take to come.
const WAIT: Duration = Duration::from_secs(60);
/// One who fails so often asks no more.
const FAILURES_MAX: usize = 100;

/// Who asks.
pub struct MixedLoad {
    stop: Arc<AtomicBool>,
    tally: Arc<Tally>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    staying: Vec<Client>,
}

/// What became of it.
#[derive(Debug)]
pub struct MixedOutcome {
    pub answered: usize,
    /// Of those, sent twice.
    pub repeated: usize,
    pub failed: usize,
    /// Why the first failed.
    pub failure: Option<String>,
    /// The longest wait for an answer, a second try included.
    pub longest: Duration,
}

#[derive(Default)]
struct Tally {
    answered: AtomicUsize,
    repeated: AtomicUsize,
    /// Of those, by ones who would have stayed.
    moved: AtomicUsize,
    failed: AtomicUsize,
    failure: Mutex<Option<String>>,
    longest_micros: AtomicU64,
}

impl Tally {
    fn fail(&self, name: &str, error: &anyhow::Error) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut first = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| format!("{name}: {error:#}"));
    }
}

/// Fills what is asked for, as the caller of `claims`.
///
/// # Errors
/// When the cluster does not take it.
pub async fn fill(cluster: &Cluster, claims: &Claims) -> Result<()> {
    let client = cluster.client_as(Protocol::Http2, claims)?;
    let collection = format!("{API}/collections/{COLLECTION}");
    client.put(&collection).json(&json!({"dimension": DIMENSION})).send().await?.expect(201)?;
    let vectors = vectors::clustered(POINTS as u64, POINTS, DIMENSION, 4);
    let points = vectors.into_iter().enumerate().map(|(i, values)| json!({"id": format!("p{i}"), "values": values}));
    let body = json!({"collection": COLLECTION, "vectors": points.collect::<Vec<_>>()});
    client.post(&format!("{API}/insert")).json(&body).send().await?.expect(200)?;
    Ok(())
}

impl MixedLoad {
    /// Asks for what [`fill`] has stored: HTTP of every version on connections that come and go, and of those that can on some
    /// that stay; WebSockets; gRPC.
    ///
    /// # Errors
    /// When the first connections cannot be made.
    pub async fn start(cluster: &Cluster, claims: &Claims) -> Result<Self> {
        let (stop, tally) = (Arc::<AtomicBool>::default(), Arc::<Tally>::default());
        let client = |protocol| cluster.client_as(protocol, claims);
        let mut askers = Vec::new();
        for protocol in Protocol::ALL {
            askers.push(Asker::Http { client: client(protocol)?, stays: false });
            askers.push(Asker::Socket { client: client(protocol)?, socket: None });
        }
        let staying = [client(Protocol::Http2)?, client(Protocol::Http3)?];
        askers.extend(staying.iter().map(|client| Asker::Http { client: client.clone(), stays: true }));
        let credentials = Credentials::bearer(&cluster.token(claims)?)?;
        let dial = (cluster.https()?, cluster.ca(), credentials);
        askers.push(Asker::Grpc { client: call(&dial).await?, dial });
        let tasks = askers.into_iter().map(|asker| tokio::spawn(asker.run(stop.clone(), tally.clone()))).collect();
        Ok(Self { stop, tally, tasks, staying: staying.to_vec() })
    }

    /// Waits until so many more requests were answered, or have failed.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn more(&self, requests: usize) -> Result<()> {
        let done = || self.tally.answered.load(Ordering::Relaxed) + self.tally.failed.load(Ordering::Relaxed);
        let target = done() + requests;
        eventually("the load goes on", WAIT, || async { (done() >= target).then_some(()) }).await
    }

    /// How many connections those who stay have had to make again.
    pub fn reconnected(&self) -> usize {
        let by_themselves: usize = self.staying.iter().map(|client| client.connections().saturating_sub(1)).sum();
        by_themselves + self.tally.moved.load(Ordering::Relaxed)
    }

    /// # Errors
    /// When one who asks has panicked.
    pub async fn finish(self) -> Result<MixedOutcome> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await?;
        }
        let tally = &self.tally;
        Ok(MixedOutcome {
            answered: tally.answered.load(Ordering::Relaxed),
            repeated: tally.repeated.load(Ordering::Relaxed),
            failed: tally.failed.load(Ordering::Relaxed),
            failure: tally.failure.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            longest: Duration::from_micros(tally.longest_micros.load(Ordering::Relaxed)),
        })
    }
}

type Dial = (String, PathBuf, Credentials);

async fn call((https, ca, credentials): &Dial) -> Result<VectorSearchClient<AuthorizedChannel>> {
    Ok(VectorSearchClient::new(grpc::gateway(https, ca, credentials.clone()).await?))
}

enum Asker {
    Http { client: Client, stays: bool },
    Socket { client: Client, socket: Option<WebSocket> },
    Grpc { client: VectorSearchClient<AuthorizedChannel>, dial: Dial },
}

impl Asker {
    async fn run(mut self, stop: Arc<AtomicBool>, tally: Arc<Tally>) {
        let (mut i, mut failures) = (0, 0);
        while !stop.load(Ordering::Relaxed) && failures < FAILURES_MAX {
            let began = Instant::now();
            let mut asked = self.ask(i).await;
            if asked.is_err() {
                tally.repeated.fetch_add(1, Ordering::Relaxed);
                if matches!(self, Self::Http { stays: true, .. }) {
                    tally.moved.fetch_add(1, Ordering::Relaxed);
                }
                asked = match self.anew().await {
                    Ok(()) => self.ask(i).await,
                    Err(error) => Err(error),
                };
            }
            tally.longest_micros.fetch_max(began.elapsed().as_micros() as u64, Ordering::Relaxed);
            match asked {
                Ok(()) => {
                    tally.answered.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    failures += 1;
                    tally.fail(&self.name(), &error);
                }
            }
            i += 1;
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Http { client, stays } => format!("{:?}, stays: {stays}", client.protocol()),
            Self::Socket { client, .. } => format!("WebSocket over {:?}", client.protocol()),
            Self::Grpc { .. } => "gRPC".to_owned(),
        }
    }

    /// Goes on over a new connection.
    async fn anew(&mut self) -> Result<()> {
        match self {
            Self::Http { client, .. } => *client = client.separate(),
            Self::Socket { socket, .. } => *socket = None,
            Self::Grpc { client, dial } => *client = call(dial).await?,
        }
        Ok(())
    }

    async fn ask(&mut self, i: usize) -> Result<()> {
        // Each asks for something else than before, so that caches answer some only.
        let vector = [1 + i % 7, i % 11, i % 13, i % 17];
        match self {
            Self::Http { client, stays } => {
                // New handshakes beside old connections.
                if !*stays && i.is_multiple_of(VISIT) {
                    *client = client.separate();
                }
                request(client, i, vector).await
            }
            Self::Socket { client, socket } => {
                let id = format!("q{i}");
                let socket = match socket {
                    Some(socket) => socket,
                    None => socket.insert(WebSocket::connect(&client.separate()).await?),
                };
                let search = json!({"type": "search", "id": id, "collection": COLLECTION, "query": vector, "k": 3, "stream": false});
                socket.send(&search).await?;
                let answers = socket.until(&id, &["results", "error"]).await?;
                ensure!(answers.last().is_some_and(|last| last["type"] == "results"), "{answers:?}");
                Ok(())
            }
            Self::Grpc { client, .. } => {
                let query = vector.map(|x| x as f32).to_vec();
                let request = SearchRequest { collection: COLLECTION.to_owned(), query, k: 3, ..Default::default() };
                let answer = client.search(request).await.context("a search by gRPC")?.into_inner();
                ensure!(answer.results.len() == 3, "{} hits", answer.results.len());
                Ok(())
            }
        }
    }
}

/// One of each kind in turn.
async fn request(client: &Client, i: usize, vector: [usize; DIMENSION]) -> Result<()> {
    let point = format!("p{}", i % POINTS);
    let request = match i % 4 {
        0 => client.get(&format!("{API}/embed/{point}?collection={COLLECTION}")),
        1 => {
            let query = Method::from_bytes(b"QUERY")?;
            let body = json!({"collection": COLLECTION, "query": vector, "k": 3});
            client.request(query, &format!("{API}/search")).json(&body)
        }
        2 => client.get(&format!("{API}/search?collection={COLLECTION}&query_vector_id={point}&k=3")),
        _ => client.get(&format!("{API}/stream/search?collection={COLLECTION}&query_vector_id={point}&k=3")),
    };
    let answer = request.send().await?;
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
    ensure!(i % 4 != 3 || answer.text().contains("search_complete"), "a stream broke off: {}", answer.text());
    Ok(())
}
