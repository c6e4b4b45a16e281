//! Nearfield's figures: what a search costs end to end, over each protocol, with its recall beside it.
//!
//! Real processes (a gateway, a searchd) on this machine, the full Fashion-MNIST set, the load generator beside them.
//! Rates on a shared machine say little, so CPU time is counted for each process apart.

mod arrivals;
mod coalesce;
mod dataset;
mod drive;
mod edge;
mod end_to_end;
mod engine;
mod exact;
mod filters;
mod floods;
mod handshakes;
mod idle;
mod machine;
mod mixed;
mod overload;
mod peers;
mod restarts;
mod server;
mod table;
mod tenants;
mod texts;
mod transport;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Measures a gateway and a searchd started for the purpose.
#[derive(Parser)]
#[command(name = "nearfield-bench")]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// The folder with Fashion-MNIST's IDX files (Debian's package dataset-fashion-mnist).
    #[arg(long, global = true, env = "NEARFIELD_BENCH_DATA", default_value = "/usr/share/datasets/fashion-mnist")]
    data: PathBuf,
    /// How many of the 60,000 images are stored.
    #[arg(long, global = true, default_value_t = 60_000)]
    points: usize,
    /// Seconds of each measurement.
    #[arg(long, global = true, default_value = "5s", value_parser = humantime::parse_duration)]
    time: Duration,
    /// Requests in flight.
    #[arg(long, global = true, default_value_t = 8)]
    concurrency: usize,
    /// Queries that recall is measured with.
    #[arg(long, global = true, default_value_t = 500)]
    recall_queries: usize,
    /// A folder with described texts (base.f16.npy, queries.f16.npy, metadata.jsonl.gz): the part about filters needs it, the
    /// mixed load takes vectors like them.
    #[arg(long, global = true, env = "NEARFIELD_BENCH_TEXTS")]
    texts: Option<PathBuf>,
    /// Points of the collection that is searched and written to at once.
    #[arg(long, global = true, default_value_t = 1_000_000)]
    rows: usize,
    /// Has searchd explain each search of the mixed load: tells where the slowest spent their time, and costs a little.
    #[arg(long, global = true)]
    explain: bool,
    /// Settings of searchd that the mixed load is measured with, as its environment has them: `NEARFIELD_ENGINE__SEARCHED_BYTES=0`.
    #[arg(long, global = true, value_name = "NAME=VALUE", value_parser = setting)]
    searchd: Vec<(String, String)>,
    /// Searches that the upstream under overload answers at once.
    #[arg(long, global = true, default_value_t = 32)]
    workers: usize,
    /// How long it takes for each.
    #[arg(long, global = true, default_value = "40ms", value_parser = humantime::parse_duration)]
    service: Duration,
    /// Connections opened to weigh an idle one.
    #[arg(long, global = true, default_value_t = 2000)]
    sockets: usize,
    /// Of the floods and of the rows about idle connections, only those whose names begin so.
    #[arg(long, global = true)]
    only: Option<String>,
    /// TLS handshakes of each kind.
    #[arg(long, global = true, default_value_t = 2000)]
    handshakes: usize,
    /// Requests of each row of the edge's table.
    #[arg(long, global = true, default_value_t = 100_000)]
    requests: usize,
    /// A gateway's program that the rows about the edge and about idle connections are measured with too, in turn: an older
    /// one, or one of another profile.
    #[arg(long, global = true)]
    beside: Option<PathBuf>,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("has no `=`")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[derive(Clone, Copy, PartialEq, Eq, Subcommand)]
enum Part {
    /// Equal questions at once that nobody has asked before, beside nginx and Varnish.
    Coalesce,
    /// CPU of a request at the edge, beside nginx and HAProxy.
    Edge,
    /// Searches through the gateway: h1, h2, h3, gRPC; cached and not; closed and open loop.
    EndToEnd,
    /// Recall and queries per CPU second of searchd by ef, beside usearch alone.
    Engine,
    /// Recall and latency of filtered searches, by how much a filter admits.
    Filters,
    /// What one core that floods does to everybody else, by the way that it floods in.
    Floods,
    /// CPU time of the gateway per TLS handshake, full and resumed.
    Handshakes,
    /// Bytes per idle connection and WebSocket, and what is given back.
    Idle,
    /// Requests that fail while the program, its certificates and its settings are replaced.
    Restarts,
    /// Bytes per small collection.
    Tenants,
    /// Latency of searches beside writes, and while a backlog is indexed.
    Mixed,
    /// What five times the load that can be served leaves of goodput, latency and critical requests.
    Overload,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let wanted = |part| arguments.part.is_none_or(|only| only == part);
    machine::print();
    if wanted(Part::Handshakes) {
        handshakes::run(&arguments).await?;
    }
    if wanted(Part::Idle) {
        idle::run(&arguments).await?;
    }
    if wanted(Part::Overload) {
        overload::run(&arguments).await?;
    }
    if wanted(Part::Restarts) {
        restarts::run().await?;
    }
    if wanted(Part::Tenants) {
        tenants::run().await?;
    }
    // The largest by far: only when it is asked for.
    if arguments.part == Some(Part::Mixed) {
        mixed::run(&arguments).await?;
    }
    // It needs programs that the others do not: only when it is asked for.
    if arguments.part == Some(Part::Edge) {
        edge::run(&arguments).await?;
    }
    // Many gateways, one after the other: only when it is asked for.
    if arguments.part == Some(Part::Floods) {
        floods::run(&arguments).await?;
    }
    if arguments.part == Some(Part::Coalesce) {
        coalesce::run().await?;
    }
    match &arguments.texts {
        Some(folder) if wanted(Part::Filters) => filters::run(&arguments, folder).await?,
        None if arguments.part == Some(Part::Filters) => anyhow::bail!("--texts FOLDER is needed"),
        _ => {}
    }
    if wanted(Part::EndToEnd) || wanted(Part::Engine) {
        let data = dataset::FashionMnist::load(&arguments.data, arguments.points).await?;
        let truth = exact::nearest(&data, arguments.recall_queries);
        let server = server::Server::filled(&data).await?;
        if wanted(Part::EndToEnd) {
            end_to_end::run(&arguments, &server, &data, &truth).await?;
        }
        if wanted(Part::Engine) {
            engine::run(&arguments, &server, &data, &truth).await?;
        }
    }
    Ok(())
}
