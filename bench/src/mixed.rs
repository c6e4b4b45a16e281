//! Searches beside writes: latency under a mixed load, and while much is stored and indexed.
//!
//! Over searchd's own gRPC port, on a collection of random clusters. Arrivals are open-loop and latency counts from when
//! a request was due. No search is asked twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use hdrhistogram::Histogram;
use nearfield_proto::v1;
use nearfield_proto::v1::collections_client::CollectionsClient;
use nearfield_proto::v1::vector_search_client::VectorSearchClient;
use nearfield_testkit::grpc::{self, AuthorizedChannel, Credentials};

use crate::Arguments;
use crate::server::{Server, is_at_rest};
use crate::table::Table;

const COLLECTION: &str = "mixed";
const DIMENSION: usize = 384;
const CENTRES: u64 = 2_000;
const K: i32 = 10;
/// Points of one message while the collection is filled, and messages in flight.
const BATCH: usize = 1_000;
const IN_FLIGHT: usize = 4;
const INDEXING: Duration = Duration::from_secs(3_600);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Of so many requests one is a write of one point.
const WRITE_EVERY: usize = 10;
/// The part of the closed loop's rate at which the mixed load arrives, and searches beside the indexing.
const LOAD: f64 = 0.7;
const LOAD_WHILE_INDEXING: f64 = 0.3;
/// The backlog, as a part of the collection.
const BACKLOG_PART: usize = 5;

type Points = VectorSearchClient<AuthorizedChannel>;

pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    let server = Server::start()?;
    let channel = grpc::searchd(&server.cluster.searchd_url(0), Credentials::none()).await?;
    let points = VectorSearchClient::new(channel.clone());
    let settings = v1::CollectionSettings { dimension: DIMENSION as u32, ..Default::default() };
    let request = v1::CreateCollectionRequest { name: COLLECTION.into(), settings: Some(settings) };
    CollectionsClient::new(channel).create(request).await?;
    let rows = arguments.rows;
    let started = Instant::now();
    fill(&points, 0..rows).await?;
    let stored = started.elapsed();
    settle(&points).await?;
    let searchd = server.cluster.searchd(0);
    println!(
        "{rows} points of {DIMENSION} dimensions stored in {:.0} s, at rest after {:.0} s; searchd: {:.0} s CPU, {} MiB resident, {} MiB at its peak\n",
        stored.as_secs_f64(),
        started.elapsed().as_secs_f64(),
        searchd.cpu_time()?.as_secs_f64(),
        searchd.resident_bytes()? >> 20,
        searchd.peak_resident_bytes()? >> 20,
    );
    let mut table = Table::new(&["load", "per s", "p50 ms", "p99 ms", "p99.9 ms"]);
    let load = Load { points, rows, concurrency: arguments.concurrency, next: Arc::default() };
    load.during(arguments.time, None, 0).await?;
    let peak = load.during(arguments.time, None, WRITE_EVERY).await?;
    peak.report("90 % searches, closed loop", &mut table);
    let mixed = load.during(arguments.time * 4, Some(peak.rate() * LOAD), WRITE_EVERY).await?;
    mixed.report(&format!("90 % searches, {:.0} % of that rate", LOAD * 100.0), &mut table);
    settle(&load.points).await?;
    let peak = load.during(arguments.time, None, 0).await?;
    let rate = peak.rate() * LOAD_WHILE_INDEXING;
    let steady = load.during(arguments.time * 4, Some(rate), 0).await?;
    steady.report("searches alone, 30 % of their closed loop", &mut table);
    let backlog = rows..rows + rows / BACKLOG_PART;
    let started = Instant::now();
    let (busy, stored) = load.until_settled(rate, backlog).await?;
    busy.report(&format!("the same while {} points are stored and indexed", rows / BACKLOG_PART), &mut table);
    table.print();
    println!(
        "p99 of searches while storing and indexing is {:.2} × that of the steady state; stored in {:.0} s, at rest after {:.0} s.\n",
        busy.p99() / steady.p99(),
        stored.as_secs_f64(),
        started.elapsed().as_secs_f64(),
    );
    Ok(())
}

async fn fill(points: &Points, rows: std::ops::Range<usize>) -> Result<()> {
    let end = rows.end;
    let inserts = rows.step_by(BATCH).map(|first| {
        let mut points = points.clone();
        async move {
            let vectors = (first..end.min(first + BATCH)).map(point).collect();
            points.insert(v1::InsertRequest { collection: COLLECTION.into(), vectors }).await.map(|_| ())
        }
    });
    Ok(futures::stream::iter(inserts).buffer_unordered(IN_FLIGHT).try_collect::<()>().await?)
}

async fn settle(points: &Points) -> Result<()> {
    // Each look is a search itself.
    let mut looks = tokio::time::interval(LOOK_EVERY);
    let start = Instant::now();
    loop {
        looks.tick().await;
        let probe = v1::SearchRequest { explain: true, ..search(usize::MAX) };
        let explanation = points.clone().search(probe).await?.into_inner().explanation;
        if is_at_rest(&explanation.context("an explanation")?) {
            return Ok(());
        }
        ensure!(start.elapsed() < INDEXING, "not at rest within {INDEXING:?}");
    }
}

fn point(i: usize) -> v1::Point {
    v1::Point { id: format!("p{i:08}"), values: near(i as u64, 0), metadata: format!("{{\"n\":{i}}}").into() }
}

fn search(i: usize) -> v1::SearchRequest {
    v1::SearchRequest {
        collection: COLLECTION.into(),
        query: near(i as u64, 1),
        k: K,
        include: vec!["id".into()],
        ..Default::default()
    }
}

/// A vector near one of the centres, another one for each number and kind.
fn near(number: u64, kind: u64) -> Vec<f32> {
    let mut centre = Mix(number.wrapping_mul(7_919) % CENTRES);
    let mut noise = Mix((number << 8 | kind).wrapping_add(CENTRES << 32));
    (0..DIMENSION).map(|_| centre.next() + noise.next()).collect()
}

/// SplitMix64: numbers between -1 and 1, cheap enough to be made while the load runs.
struct Mix(u64);

impl Mix {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

struct Load {
    points: Points,
    rows: usize,
    concurrency: usize,
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
}

impl Load {
    /// Closed loop without a `rate`. Every `write_every`-th request is a write; 0 for none.
    async fn during(&self, time: Duration, rate: Option<f64>, write_every: usize) -> Result<Outcome> {
        let end = Instant::now() + time;
        self.drive(rate, write_every, move || Instant::now() >= end).await
    }

    /// Searches at `rate` while `more` points are stored and until everything is in one segment; and how long storing took.
    async fn until_settled(&self, rate: f64, more: std::ops::Range<usize>) -> Result<(Outcome, Duration)> {
        let is_settled = Arc::new(AtomicBool::new(false));
        let (points, settled, started) = (self.points.clone(), is_settled.clone(), Instant::now());
        let watch = tokio::spawn(async move {
            let storing = async {
                fill(&points, more).await?;
                let stored = started.elapsed();
                settle(&points).await?;
                Ok(stored)
            };
            let outcome: Result<Duration> = storing.await;
            settled.store(true, Ordering::Relaxed);
            outcome
        });
        let outcome = self.drive(Some(rate), 0, move || is_settled.load(Ordering::Relaxed)).await;
        let stored = watch.await??;
        Ok((outcome?, stored))
    }

    async fn drive(
        &self,
        rate: Option<f64>,
        write_every: usize,
        is_over: impl Fn() -> bool + Clone + Send + 'static,
    ) -> Result<Outcome> {
        let (started, sent) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
        // Enough for an open loop to go on while some answers are late.
        let senders = if rate.is_some() { 8 * self.concurrency } else { self.concurrency };
        let tasks = (0..senders).map(|_| {
            let (mut points, next, sent, rows) = (self.points.clone(), self.next.clone(), sent.clone(), self.rows);
            let is_over = is_over.clone();
            tokio::spawn(async move {
                let (mut searches, mut writes) = (latencies()?, latencies()?);
                while !is_over() {
                    let (i, number) = (next.fetch_add(1, Ordering::Relaxed), sent.fetch_add(1, Ordering::Relaxed));
                    let due =
                        rate.map_or_else(Instant::now, |rate| started + Duration::from_secs_f64(number as f64 / rate));
                    tokio::time::sleep_until(due.into()).await;
                    if write_every > 0 && number.is_multiple_of(write_every) {
                        // Some are new, most are known.
                        let vectors =
                            vec![v1::Point { values: near(i as u64, 2), ..point(i * 7_919 % (rows + rows / 50)) }];
                        points.insert(v1::InsertRequest { collection: COLLECTION.into(), vectors }).await?;
                        writes.saturating_record(due.elapsed().as_micros() as u64);
                    } else {
                        points.search(search(i)).await?;
                        searches.saturating_record(due.elapsed().as_micros() as u64);
                    }
                }
                anyhow::Ok((searches, writes))
            })
        });
        let (mut searches, mut writes) = (latencies()?, latencies()?);
        for task in tasks.collect::<Vec<_>>() {
            let (some, others) = task.await??;
            searches.add(some)?;
            writes.add(others)?;
        }
        Ok(Outcome { searches, writes, elapsed: started.elapsed() })
    }
}

impl Outcome {
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
            let row = [format!("{load}: {what}"), rate, milliseconds(0.5), milliseconds(0.99), milliseconds(0.999)];
            table.row(row);
        }
    }
}
