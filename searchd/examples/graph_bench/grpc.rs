//! What a search costs searchd when it is asked through gRPC, beside what it costs in process: CPU time of the whole process.
//!
//! The same segment in both: all rows at once, brought to rest. No query is asked twice.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use nearfield_proto::v1;
use nearfield_proto::v1::collections_client::CollectionsClient;
use nearfield_proto::v1::vector_search_client::VectorSearchClient;
use nearfield_searchd::engine::settings::Effort;
use nearfield_searchd::graph::Rows;
use nearfield_searchd::index::{Index, Wanted};
use nearfield_searchd::search::stop::Stop;
use nearfield_testkit::Process;
use tonic::transport::Channel;

use crate::data::Data;
use crate::{K, RUNS, cpu, segments};

const COLLECTION: &str = "c";
const EFS: [u32; 3] = [16, 64, 256];
/// Searches in flight: one after the other, as the goal has it, and as many as keep two cores busy.
const IN_FLIGHT: [usize; 2] = [1, 8];
const TIME: Duration = Duration::from_secs(4);
const START: Duration = Duration::from_secs(60);
const INDEXING: Duration = Duration::from_secs(3_600);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Points of one insert.
const BATCH: usize = 500;
/// Rows of the head that stay there at rest.
const AT_REST: u64 = 256;
/// The goal: so many times what it takes in process, and so many µs.
const TIMES: f64 = 1.25;
const MICROS: f64 = 60.0;

pub(crate) fn measure(data: &Data) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let index = segments::sealed(data, directory.path())?;
    let inside: Vec<f64> = EFS.iter().map(|ef| in_process(&index, data, *ef)).collect::<Result<_>>()?;
    drop(index);
    tokio::runtime::Runtime::new()?.block_on(through_grpc(data, &inside))
}

/// µs of CPU for a search, the least of some runs.
fn in_process(index: &Index, data: &Data, ef: u32) -> Result<f64> {
    let (stop, mut best) = (Stop::default(), f64::INFINITY);
    for _ in 0..RUNS {
        let start = cpu(libc::CLOCK_THREAD_CPUTIME_ID);
        for query in data.queries.chunks_exact(data.dimension) {
            let scorer = index.scorer(query);
            let effort = Effort::Candidates(ef);
            let wanted = Wanted { scorer: &scorer, k: K, effort, exact: false, admitted: None, except: None };
            let (hits, _) = index.search(&wanted, &|a, b| a.cmp(&b), &stop)??;
            ensure!(hits.len() == K, "{} hits", hits.len());
        }
        best = best.min((cpu(libc::CLOCK_THREAD_CPUTIME_ID) - start).as_secs_f64());
    }
    Ok(best / (data.queries.len() / data.dimension) as f64 * 1e6)
}

async fn through_grpc(data: &Data, inside: &[f64]) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut command = Command::new(program()?);
    command
        .env("NEARFIELD_SERVER__LISTEN", "127.0.0.1:0")
        .env("NEARFIELD_SERVER__ADMIN", "127.0.0.1:0")
        .env("NEARFIELD_STORAGE__DATA_DIR", directory.path())
        // A line a search would be a good part of what is measured.
        .env("NEARFIELD_LOG__LEVEL", "warn");
    let process = Process::start("searchd", command, START)?;
    let channel = Channel::from_shared(process.address("grpc")?)?.connect().await?;
    let metric = segments::metric(data).to_owned();
    let settings = v1::CollectionSettings { dimension: data.dimension as u32, metric, ..Default::default() };
    let request = v1::CreateCollectionRequest { name: COLLECTION.into(), settings: Some(settings) };
    CollectionsClient::new(channel.clone()).create(request).await?;
    let points = VectorSearchClient::new(channel);
    fill(&points, data).await?;
    settle(&points, data).await?;
    let asked = AtomicUsize::new(0);
    for (ef, inside) in EFS.iter().zip(inside) {
        let goal = TIMES * inside + MICROS;
        for in_flight in IN_FLIGHT {
            let micros = drive(&process, &points, data, *ef, in_flight, &asked).await?;
            println!(
                "  ef {ef:3}, {in_flight} in flight: {micros:6.1} µs of CPU through gRPC, {inside:6.1} in process; \
                 the goal is {goal:.1}"
            );
        }
    }
    Ok(())
}

/// Of the same build.
fn program() -> Result<std::path::PathBuf> {
    Ok(std::env::current_exe()?.parent().and_then(Path::parent).context("target/release")?.join("searchd"))
}

async fn fill(points: &VectorSearchClient<Channel>, data: &Data) -> Result<()> {
    let inserts = (0..data.len()).step_by(BATCH).map(|first| {
        let point = |row: usize| v1::Point {
            id: format!("p{row:07}"),
            values: data.base[row * data.dimension..][..data.dimension].to_vec(),
            metadata: Default::default(),
        };
        let vectors = (first..data.len().min(first + BATCH)).map(point).collect();
        let mut points = points.clone();
        async move { points.insert(v1::InsertRequest { collection: COLLECTION.into(), vectors }).await.map(drop) }
    });
    Ok(futures::stream::iter(inserts).buffer_unordered(2).try_collect::<()>().await?)
}

async fn settle(points: &VectorSearchClient<Channel>, data: &Data) -> Result<()> {
    let end = Instant::now() + INDEXING;
    let mut looks = tokio::time::interval(LOOK_EVERY);
    while Instant::now() < end {
        looks.tick().await;
        let probe = v1::SearchRequest { explain: true, ..search(data, 0, EFS[0], 0) };
        let explanation = points.clone().search(probe).await?.into_inner().explanation.context("an explanation")?;
        let head = |part: &&v1::SegmentExplanation| part.segment == "head";
        let waiting: u64 = explanation.segments.iter().filter(head).map(|head| head.rows).sum();
        if waiting < AT_REST && explanation.segments.iter().filter(|part| !head(part)).count() == 1 {
            return Ok(());
        }
    }
    anyhow::bail!("not at rest within {INDEXING:?}")
}

/// A query that no cache has seen: the first number is a little different each time.
fn search(data: &Data, number: usize, ef: u32, nth: usize) -> v1::SearchRequest {
    let queries = data.queries.len() / data.dimension;
    let mut query = data.queries[number % queries * data.dimension..][..data.dimension].to_vec();
    query[0] += (1 + nth) as f32 * 1e-7;
    v1::SearchRequest { collection: COLLECTION.into(), query, k: K as i32, ef_search: ef, ..Default::default() }
}

/// µs of CPU of the process for each search.
async fn drive(
    process: &Process,
    points: &VectorSearchClient<Channel>,
    data: &Data,
    ef: u32,
    in_flight: usize,
    asked: &AtomicUsize,
) -> Result<f64> {
    let data = Arc::new(data);
    let (before, end, first) = (process.cpu_time()?, Instant::now() + TIME, asked.load(Ordering::Relaxed));
    let senders = (0..in_flight).map(|_| {
        let (mut points, data) = (points.clone(), data.clone());
        async move {
            while Instant::now() < end {
                let nth = asked.fetch_add(1, Ordering::Relaxed);
                let found = points.search(search(&data, nth, ef, nth)).await?.into_inner();
                ensure!(found.results.len() == K, "{} hits", found.results.len());
            }
            Ok(())
        }
    });
    futures::future::try_join_all(senders).await?;
    let searches = asked.load(Ordering::Relaxed) - first;
    Ok((process.cpu_time()? - before).as_secs_f64() / searches.max(1) as f64 * 1e6)
}
