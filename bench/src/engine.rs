//! Recall by CPU time: searchd at its own port for several ef, and usearch alone in this process.
//!
//! searchd's figure holds all that it does for a query: gRPC, planning, the walk, rescoring in full precision.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use usearch::{Index, IndexOptions, MetricKind, ScalarKind};

use crate::Arguments;
use crate::dataset::{DIMENSION, FashionMnist};
use crate::exact::{K, recall};
use crate::server::Server;
use crate::table::Table;
use crate::transport::{Query, Sender, Transport};

const EFS: [usize; 6] = [16, 32, 64, 128, 256, 512];

pub(crate) async fn run(
    arguments: &Arguments,
    server: &Server,
    data: &FashionMnist,
    truth: &[Vec<usize>],
) -> Result<()> {
    let mut table = Table::new(&["engine", "ef", "recall@10", "queries per CPU s", "CPU µs per query"]);
    for ef in EFS {
        let (recall, cpu, queries) = searchd(arguments, server, data, truth, ef).await?;
        table.row(row("searchd by default, gRPC included", ef, recall, cpu, queries));
    }
    let alone = tokio::task::block_in_place(|| build(data))?;
    for ef in EFS {
        let (recall, cpu, queries) = tokio::task::block_in_place(|| usearch_alone(arguments, &alone, data, truth, ef))?;
        table.row(row("usearch 2.26 alone, bf16", ef, recall, cpu, queries));
    }
    table.print();
    Ok(())
}

fn row(engine: &str, ef: usize, recall: f64, cpu: Duration, queries: usize) -> Vec<String> {
    let per_query = cpu.as_secs_f64() / queries.max(1) as f64;
    vec![
        engine.to_owned(),
        ef.to_string(),
        format!("{recall:.4}"),
        format!("{:.0}", 1.0 / per_query),
        format!("{:.0}", per_query * 1e6),
    ]
}

async fn searchd(
    arguments: &Arguments,
    server: &Server,
    data: &FashionMnist,
    truth: &[Vec<usize>],
    ef: usize,
) -> Result<(f64, Duration, usize)> {
    let mut sender = Sender::open(server, Transport::Direct).await?;
    let process = server.cluster.searchd(0);
    let (before, end) = (process.cpu_time()?, Instant::now() + arguments.time);
    let mut total = 0.0;
    let mut queries = 0;
    while queries < truth.len() || Instant::now() < end {
        let mut values = data.query_values(queries);
        // Past the first round, a query that no cache has seen, and whose answer is not compared.
        values[0] += (queries / truth.len()) as f32 / 64.0 + ef as f32 / 65_536.0;
        let found = sender.find(Query::new(values).with_ef(ef as u32)).await?;
        total += truth.get(queries).map_or(0.0, |exact| recall(exact, &found));
        queries += 1;
    }
    Ok((total / truth.len() as f64, process.cpu_time()? - before, queries))
}

fn build(data: &FashionMnist) -> Result<Index> {
    let options = IndexOptions {
        dimensions: DIMENSION,
        metric: MetricKind::L2sq,
        quantization: ScalarKind::BF16,
        connectivity: 16,
        expansion_add: 128,
        ..Default::default()
    };
    let index = Index::new(&options).context("making a usearch index")?;
    index.reserve_capacity_and_threads(data.points(), 1).context("reserving")?;
    // One writer: concurrent additions strand some vectors for ever.
    for i in 0..data.points() {
        let values: Vec<f32> = data.point(i).iter().map(|p| f32::from(*p)).collect();
        index.add(i as u64, &values).with_context(|| format!("adding {i}"))?;
    }
    Ok(index)
}

fn usearch_alone(
    arguments: &Arguments,
    index: &Index,
    data: &FashionMnist,
    truth: &[Vec<usize>],
    ef: usize,
) -> Result<(f64, Duration, usize)> {
    index.change_expansion_search(ef);
    let (before, end) = (thread_cpu(), Instant::now() + arguments.time);
    let mut total = 0.0;
    let mut queries = 0;
    while queries < truth.len() || Instant::now() < end {
        let matches = index.search(&data.query_values(queries), K).context("searching")?;
        let found: Vec<usize> = matches.keys.iter().map(|key| *key as usize).collect();
        total += truth.get(queries).map_or(0.0, |exact| recall(exact, &found));
        queries += 1;
    }
    Ok((total / truth.len() as f64, thread_cpu() - before, queries))
}

fn thread_cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec for the kernel to fill in.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
