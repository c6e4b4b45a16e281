//! Searches beside writes: latency under a mixed load, and while much is stored and indexed.
//!
//! Over searchd's own gRPC port, on a collection of vectors like real ones, or of random clusters. Arrivals are open-loop and
//! latency counts from when a request was due. No search is asked twice.

mod slowest;
mod vectors;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::future::ready;
use futures::{StreamExt, TryStreamExt};
use hdrhistogram::Histogram;
use nearfield_proto::v1;
use nearfield_proto::v1::collections_client::CollectionsClient;
use nearfield_proto::v1::vector_search_client::VectorSearchClient;
use nearfield_testkit::grpc::{self, AuthorizedChannel, Credentials};
use nearfield_testkit::own_cpu_time;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

use crate::Arguments;
use crate::arrivals::Arrivals;
use crate::server::{Server, is_at_rest};
use crate::table::Table;
use slowest::Slowest;
use vectors::{Kind, Vectors};

const COLLECTION: &str = "mixed";
const K: i32 = 10;
/// Connections that searches are asked over. A gateway has up to 16 to each searchd.
const CONNECTIONS: usize = 4;
/// Points of one message while the collection is filled, and messages in flight.
const BATCH: usize = 1_000;
const IN_FLIGHT: usize = 4;
const INDEXING: Duration = Duration::from_secs(3_600);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A tenth of a core for so long is what searchd takes when it has nothing to do.
const QUIET: Duration = Duration::from_secs(8);
/// An insert that finds no room comes back after so long, so many times.
const COME_BACK: Duration = Duration::from_millis(200);
const MAX_WAITS: usize = 3_000;
/// Of so many requests one is a write of one point.
const WRITE_EVERY: usize = 10;
/// The part of the closed loop's rate at which the mixed load arrives, and searches beside the indexing.
const LOAD: f64 = 0.7;
const LOAD_WHILE_INDEXING: f64 = 0.3;
/// The backlog, as a part of the collection.
const BACKLOG_PART: usize = 5;

type Points = VectorSearchClient<AuthorizedChannel>;

pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    let vectors = Arc::new(Vectors::open(arguments.texts.as_deref()).await?);
    let server = Server::start_searchd(&arguments.searchd)?;
    let channel = grpc::searchd(&server.cluster.searchd_url(0), Credentials::none()).await?;
    let collection = Collection { points: VectorSearchClient::new(channel.clone()), vectors: vectors.clone() };
    let settings = v1::CollectionSettings { dimension: vectors.dimension() as u32, ..Default::default() };
    let request = v1::CreateCollectionRequest { name: COLLECTION.into(), settings: Some(settings) };
    CollectionsClient::new(channel).create(request).await?;
    let rows = arguments.rows;
    let started = Instant::now();
    let waits = collection.fill(collection.batches(0..rows)).await?;
    let stored = started.elapsed();
    collection.settle().await?;
    let searchd = server.cluster.searchd(0);
    println!(
        "{rows} points of {} dimensions, {}, stored in {:.0} s, at rest after {:.0} s; searchd: {:.0} s CPU, {} MiB resident, \
         {} MiB at its peak{}\n",
        vectors.dimension(),
        vectors.describe(),
        stored.as_secs_f64(),
        started.elapsed().as_secs_f64(),
        searchd.cpu_time()?.as_secs_f64(),
        searchd.resident_bytes()? >> 20,
        searchd.peak_resident_bytes()? >> 20,
        told_to_wait(waits),
    );
    let filled = built(&server).await?;
    let mut table =
        Table::new(&["load", "per s", "p50 ms", "p99 ms", "p99.9 ms", "cores of searchd", "of the load itself"]);
    let mut connections = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        let channel = grpc::searchd(&server.cluster.searchd_url(0), Credentials::none()).await?;
        connections.push(VectorSearchClient::new(channel));
    }
    let load = Load {
        server: &server,
        collection,
        connections,
        rows,
        concurrency: arguments.concurrency,
        explain: arguments.explain,
        next: Arc::default(),
    };
    load.during(arguments.time, None, 0).await?;
    learned(&server).await?;
    let peak = load.during(arguments.time, None, WRITE_EVERY).await?;
    peak.report("90 % searches, closed loop", &mut table);
    let mixed = load.during(arguments.time * 4, Some(peak.rate() * LOAD), WRITE_EVERY).await?;
    mixed.report(&format!("90 % searches, {:.0} % of that rate", LOAD * 100.0), &mut table);
    load.collection.settle().await?;
    let peak = load.during(arguments.time, None, 0).await?;
    let rate = peak.rate() * LOAD_WHILE_INDEXING;
    let steady = load.during(arguments.time * 4, Some(rate), 0).await?;
    steady.report("searches alone, 30 % of their closed loop", &mut table);
    backlog(&load, (&mixed, &steady, rate), filled, table).await
}

/// Prints what becomes of searches at a rate while a backlog is stored and indexed, beside what they are without. `filled`: what was
/// built when the collection was filled.
async fn backlog(
    load: &Load<'_>,
    (mixed, steady, rate): (&Outcome, &Outcome, f64),
    filled: [f64; 2],
    mut table: Table,
) -> Result<()> {
    let (server, rows, searchd) = (load.server, load.rows, load.server.cluster.searchd(0));
    let count = rows / BACKLOG_PART;
    // Made before: it would take from searchd what it is made with.
    let batches = load.collection.batches(rows..rows + count).collect();
    let started = Instant::now();
    let (before, cpu) = (built(server).await?, searchd.cpu_time()?);
    let (storing, waits) = load.during_fill(rate, batches).await?;
    let stored = started.elapsed();
    let indexing = load.until_settled(rate).await?;
    let (after, cpu) = (built(server).await?, searchd.cpu_time()? - cpu);
    storing.report(&format!("the same while {count} points are stored"), &mut table);
    indexing.report("and while what is left of them is indexed", &mut table);
    let mut slowest = Table::new(&["load", "the slowest hundredth of searches, mean ms", "of search"]);
    for (load, outcome) in
        [("mixed", mixed), ("searches alone", steady), ("while storing", &storing), ("while indexing", &indexing)]
    {
        outcome.slowest.report(load, &mut slowest);
    }
    let mut busy = storing;
    busy.add(indexing)?;
    busy.report("both", &mut table);
    table.print();
    let ratio = busy.p99() / steady.p99();
    if load.explain {
        slowest.print();
    }
    println!(
        "p99 of searches while storing and indexing is {ratio:.2} × that of the steady state; stored in {:.1} s, at rest after {:.1} s \
         and {:.1} s of CPU, searches included{}.\n\
         For each row stored {:.2} looked for their neighbours and {:.2} kept those which they had ({:.2} and {:.2} when the \
         collection was filled).\n",
        stored.as_secs_f64(),
        started.elapsed().as_secs_f64(),
        cpu.as_secs_f64(),
        told_to_wait(waits),
        (after[0] - before[0]) / count as f64,
        (after[1] - before[1]) / count as f64,
        filled[0] / rows as f64,
        filled[1] / rows as f64,
    );
    Ok(())
}

/// Waits until searchd knows what is asked, and has done what follows from it.
async fn learned(server: &Server) -> Result<()> {
    let (started, searchd) = (Instant::now(), server.cluster.searchd(0));
    while metric(server, "nearfield_searchd_graphs_tried_total").await? == 0.0 {
        ensure!(started.elapsed() < INDEXING, "no graph was tried within {INDEXING:?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let mut busy = searchd.cpu_time()?;
    while started.elapsed() < INDEXING {
        tokio::time::sleep(QUIET).await;
        let now = searchd.cpu_time()?;
        if now - busy < QUIET / 10 {
            break;
        }
        busy = now;
    }
    Ok(())
}

/// Rows of graphs that searchd has built so far: those that looked for their neighbours, and those that kept them.
async fn built(server: &Server) -> Result<[f64; 2]> {
    let rows = |work: &str| format!("nearfield_searchd_graph_rows_total{{work=\"{work}\"}}");
    Ok([metric(server, &rows("placed")).await?, metric(server, &rows("kept")).await?])
}

/// A metric of searchd.
async fn metric(server: &Server, name: &str) -> Result<f64> {
    let admin = server.cluster.searchd(0).address("admin")?;
    let mut stream = TcpStream::connect(admin.trim_start_matches("http://")).await?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: searchd\r\nConnection: close\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).with_context(|| name.to_owned())
}

/// What to say of it, if anything.
fn told_to_wait(waits: usize) -> String {
    if waits == 0 { String::new() } else { format!("; inserts were told to wait {waits} times") }
}

/// What is asked and stored.
#[derive(Clone)]
struct Collection {
    points: Points,
    vectors: Arc<Vectors>,
}

impl Collection {
    /// The points of these rows, in messages' worth.
    fn batches(&self, rows: std::ops::Range<usize>) -> impl Iterator<Item = Vec<v1::Point>> {
        let end = rows.end;
        let batch = move |first| (first..end.min(first + BATCH)).map(|i| self.point(i, i, Kind::Stored)).collect();
        rows.step_by(BATCH).map(batch)
    }

    /// Returns how often an insert was told to come back later; it did.
    async fn fill(&self, batches: impl IntoIterator<Item = Vec<v1::Point>>) -> Result<usize> {
        let inserts = batches.into_iter().map(|vectors| async move {
            for wait in 0..MAX_WAITS {
                let request = v1::InsertRequest { collection: COLLECTION.into(), vectors: vectors.clone() };
                match self.points.clone().insert(request).await {
                    Err(status) if status.code() == Code::ResourceExhausted => tokio::time::sleep(COME_BACK).await,
                    answer => return answer.map(|_| wait).map_err(anyhow::Error::from),
                }
            }
            anyhow::bail!("an insert was told to wait {MAX_WAITS} times")
        });
        futures::stream::iter(inserts)
            .buffer_unordered(IN_FLIGHT)
            .try_fold(0, |sum, waits| ready(Ok(sum + waits)))
            .await
    }

    async fn settle(&self) -> Result<()> {
        // Each look is a search itself.
        let mut looks = tokio::time::interval(LOOK_EVERY);
        let start = Instant::now();
        loop {
            looks.tick().await;
            let probe = v1::SearchRequest { explain: true, ..self.search(usize::MAX) };
            let explanation = self.points.clone().search(probe).await?.into_inner().explanation;
            if is_at_rest(&explanation.context("an explanation")?) {
                return Ok(());
            }
            ensure!(start.elapsed() < INDEXING, "not at rest within {INDEXING:?}");
        }
    }

    fn point(&self, i: usize, number: usize, kind: Kind) -> v1::Point {
        let metadata = format!("{{\"n\":{i}}}").into();
        v1::Point { id: format!("p{i:08}"), values: self.vectors.of(number, kind), metadata }
    }

    fn search(&self, i: usize) -> v1::SearchRequest {
        v1::SearchRequest {
            collection: COLLECTION.into(),
            query: self.vectors.of(i, Kind::Asked),
            k: K,
            include: vec!["id".into()],
            ..Default::default()
        }
    }
}

struct Load<'s> {
    server: &'s Server,
    collection: Collection,
    /// Senders take turns at them.
    connections: Vec<Points>,
    rows: usize,
    concurrency: usize,
    /// Asks searchd where each search spent its time.
    explain: bool,
    next: Arc<AtomicUsize>,
}

/// Microseconds, up to a minute.
fn latencies() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000, 3)?)
}

/// Latencies in microseconds.
struct Outcome {
    searches: Histogram<u64>,
    writes: Histogram<u64>,
    elapsed: Duration,
    /// CPU time of searchd, and of this process.
    cpu: [Duration; 2],
    slowest: Slowest,
}

impl Load<'_> {
    /// Closed loop without a `rate`. Every `write_every`-th request is a write; 0 for none.
    async fn during(&self, time: Duration, rate: Option<f64>, write_every: usize) -> Result<Outcome> {
        let end = Instant::now() + time;
        self.drive(rate, write_every, move || Instant::now() >= end).await
    }

    /// Searches at `rate` while `more` points are stored, and how often an insert was told to wait.
    async fn during_fill(&self, rate: f64, more: Vec<Vec<v1::Point>>) -> Result<(Outcome, usize)> {
        let (url, collection) = (self.server.cluster.searchd_url(0), self.collection.clone());
        // Whoever stores much has a connection of its own, and a thread: what it makes and sends is not before what others ask.
        let store = async move {
            let points = VectorSearchClient::new(grpc::searchd(&url, Credentials::none()).await?);
            Collection { points, ..collection }.fill(more).await
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (done, stored) = tokio::sync::oneshot::channel();
        thread::Builder::new().name("writer".into()).spawn(move || done.send(runtime.block_on(store)))?;
        self.beside(rate, async move { stored.await? }).await
    }

    /// Searches at `rate` until everything is in one segment.
    async fn until_settled(&self, rate: f64) -> Result<Outcome> {
        let collection = self.collection.clone();
        let (outcome, ()) = self.beside(rate, async move { collection.settle().await }).await?;
        Ok(outcome)
    }

    /// Searches at `rate` until `work` is done.
    async fn beside<T: Send + 'static>(
        &self,
        rate: f64,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<(Outcome, T)> {
        let is_done = Arc::new(AtomicBool::new(false));
        let done = is_done.clone();
        let working = tokio::spawn(async move {
            let outcome = work.await;
            done.store(true, Ordering::Relaxed);
            outcome
        });
        let outcome = self.drive(Some(rate), 0, move || is_done.load(Ordering::Relaxed)).await;
        let worked = working.await??;
        Ok((outcome?, worked))
    }

    async fn drive(
        &self,
        rate: Option<f64>,
        write_every: usize,
        is_over: impl Fn() -> bool + Clone + Send + 'static,
    ) -> Result<Outcome> {
        let (started, sent) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
        let cpu = self.cpu()?;
        let arrivals = rate.map(Arrivals::start).transpose()?.map(Arc::new);
        // Enough for an open loop to go on while some answers are late.
        let senders = if rate.is_some() { 8 * self.concurrency } else { self.concurrency };
        let tasks = (0..senders).zip(self.connections.iter().cycle()).map(|(_, points)| {
            let (collection, next, sent, rows) = (self.collection.clone(), self.next.clone(), sent.clone(), self.rows);
            let (mut points, arrivals, explain) = (points.clone(), arrivals.clone(), self.explain);
            let is_over = is_over.clone();
            tokio::spawn(async move {
                let (mut searches, mut writes, mut slowest) = (latencies()?, latencies()?, Slowest::default());
                while !is_over() {
                    let due = match &arrivals {
                        Some(arrivals) => arrivals.next().await?,
                        None => Instant::now(),
                    };
                    let (i, number) = (next.fetch_add(1, Ordering::Relaxed), sent.fetch_add(1, Ordering::Relaxed));
                    if write_every > 0 && number.is_multiple_of(write_every) {
                        // Some are new, most are known.
                        let vectors = vec![collection.point(i * 7_919 % (rows + rows / 50), i, Kind::Replaced)];
                        points.insert(v1::InsertRequest { collection: COLLECTION.into(), vectors }).await?;
                        writes.saturating_record(due.elapsed().as_micros() as u64);
                    } else {
                        let answer =
                            points.search(v1::SearchRequest { explain, ..collection.search(i) }).await?.into_inner();
                        let took = due.elapsed();
                        searches.saturating_record(took.as_micros() as u64);
                        slowest.add(took, answer.explanation);
                    }
                }
                anyhow::Ok((searches, writes, slowest))
            })
        });
        let (mut searches, mut writes, mut slowest) = (latencies()?, latencies()?, Slowest::default());
        for task in tasks.collect::<Vec<_>>() {
            let (some, others, slow) = task.await??;
            searches.add(some)?;
            writes.add(others)?;
            slowest.take(slow);
        }
        let [searchd, load] = self.cpu()?;
        let cpu = [searchd - cpu[0], load - cpu[1]];
        Ok(Outcome { searches, writes, elapsed: started.elapsed(), cpu, slowest })
    }

    /// CPU time of searchd, and of this process, so far.
    fn cpu(&self) -> Result<[Duration; 2]> {
        Ok([self.server.cluster.searchd(0).cpu_time()?, own_cpu_time()?])
    }
}

impl Outcome {
    /// Both, one after the other.
    fn add(&mut self, other: Self) -> Result<()> {
        self.searches.add(other.searches)?;
        self.writes.add(other.writes)?;
        self.elapsed += other.elapsed;
        self.cpu.iter_mut().zip(other.cpu).for_each(|(cpu, more)| *cpu += more);
        self.slowest.take(other.slowest);
        Ok(())
    }

    fn rate(&self) -> f64 {
        (self.searches.len() + self.writes.len()) as f64 / self.elapsed.as_secs_f64()
    }

    fn p99(&self) -> f64 {
        self.searches.value_at_quantile(0.99) as f64
    }

    fn report(&self, load: &str, table: &mut Table) {
        for (what, latencies) in [("searches", &self.searches), ("writes", &self.writes)] {
            if latencies.is_empty() {
                continue;
            }
            let milliseconds = |quantile| format!("{:.2}", latencies.value_at_quantile(quantile) as f64 / 1e3);
            let rate = format!("{:.0}", latencies.len() as f64 / self.elapsed.as_secs_f64());
            let [searchd, own] = self.cpu.map(|cpu| format!("{:.2}", cpu.as_secs_f64() / self.elapsed.as_secs_f64()));
            let row = [
                format!("{load}: {what}"),
                rate,
                milliseconds(0.5),
                milliseconds(0.99),
                milliseconds(0.999),
                searchd,
                own,
            ];
            table.row(row);
        }
    }
}
