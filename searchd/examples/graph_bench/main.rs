//! Searches per CPU second at equal recall: the graph index beside usearch, one thread, one query at a time.
//!
//! `graph_bench FOLDER [FOLDER…]` reads `base.{f16,u8}.npy`, `queries.{f16,u8}.npy` and `gt_ids.i32.npy` of each folder;
//! bytes are compared by Euclidean distance, floats by cosine. `--no-usearch` leaves the peer out. `--segments` measures
//! what collections have instead: segments as settings make them, by recall that is asked for, with all their memory;
//! how fast they open; and what they are after every vector was replaced ten times. `--sweep` asks one segment with ever
//! more candidates, once it has its huge pages, for `bench/peers/run`, which puts other engines beside it. `--batches` measures what a search costs
//! alone and in batches; `--costs` what the ways of a search cost beside what the planner expects; `--filters` what each way
//! through a graph finds under filters; `--grown` what a graph that grew finds, beside one that was built at once;
//! `--grpc` what a search costs through gRPC, beside what it costs in process.

mod batches;
mod calibration;
mod costs;
mod data;
mod filters;
mod grown;
mod grpc;
mod pages;
mod segments;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use data::Data;
use nearfield_searchd::graph::build::Plan;
use nearfield_searchd::graph::exact::HalfRows;
use nearfield_searchd::graph::kernel::Kernel;
use nearfield_searchd::graph::search::{Searcher, Wanted};
use nearfield_searchd::graph::{Graph, Metric, Rows, Width};
use usearch::{Index, IndexOptions, MetricKind, ScalarKind};

const K: usize = 10;
/// Each figure is the best of this many runs: the machine is shared.
const RUNS: usize = 3;
const EFS: [usize; 19] = [4, 6, 8, 10, 15, 20, 30, 40, 50, 64, 80, 104, 130, 160, 200, 260, 340, 450, 700];
const RECALLS: [f64; 2] = [0.95, 0.99];

fn main() -> Result<()> {
    let (flags, folders): (Vec<String>, Vec<String>) = std::env::args().skip(1).partition(|arg| arg.starts_with("--"));
    if folders.is_empty() {
        bail!(
            "usage: graph_bench [--no-usearch | --segments | --sweep | --calibration | --batches | --costs | --filters | --grown | --grpc] FOLDER…"
        );
    }
    println!("kernels: {:?}", Kernel::detect().level());
    for folder in &folders {
        let data = Data::read(Path::new(folder)).with_context(|| format!("read {folder}"))?;
        println!("\n{folder}: {} × {} {:?}", data.len(), data.dimension, data.metric);
        if flags.iter().any(|flag| flag == "--segments") {
            segments::measure(&data)?;
            continue;
        }
        if flags.iter().any(|flag| flag == "--sweep") {
            segments::sweep(&data)?;
            continue;
        }
        if flags.iter().any(|flag| flag == "--calibration") {
            calibration::measure(&data)?;
            continue;
        }
        if flags.iter().any(|flag| flag == "--batches") {
            batches::measure(&data)?;
            continue;
        }
        if flags.iter().any(|flag| flag == "--costs") {
            costs::measure(&data)?;
            continue;
        }
        if flags.iter().any(|flag| flag == "--filters") {
            filters::measure(&data)?;
            continue;
        }
        if flags.iter().any(|flag| flag == "--grpc") {
            grpc::measure(&data)?;
            continue;
        }
        if flags.iter().any(|flag| flag == "--grown") {
            grown::measure(&data)?;
            continue;
        }
        measure_graph(&data, &Width::ALL)?;
        if !flags.iter().any(|flag| flag == "--no-usearch") {
            measure_usearch(&data)?;
        }
    }
    Ok(())
}

fn measure_graph(data: &Data, widths: &[Width]) -> Result<()> {
    let start = cpu(libc::CLOCK_PROCESS_CPUTIME_ID);
    let mut graph = Graph::build(data.metric, data, Width::Four, &Plan::default())?;
    report_build("graph", data, start);
    println!("  {} unreachable", graph.unreachable().len());
    let mut searcher = Searcher::default();
    let kernel = Kernel::detect();
    for width in widths {
        graph.repack(data, *width);
        println!("{width:?}: {:.1} bytes a row", graph.bytes() as f64 / data.len() as f64);
        let rescored = match width {
            Width::One => 16 * K,
            Width::Two => 8 * K,
            Width::Four => 3 * K,
            Width::Eight => K + K / 2,
        };
        sweep(data, |query, ef| {
            let exact = HalfRows::new(data.metric, kernel, &data.halves, None, query);
            let wanted = Wanted { query, k: K, ef, rescored, filter: None, stop: None };
            let hits = graph.search(&mut searcher, &wanted, &exact)?;
            Ok(hits.into_iter().map(|hit| u64::from(hit.row)).collect())
        })?;
    }
    Ok(())
}

fn measure_usearch(data: &Data) -> Result<()> {
    let metric = if data.metric == Metric::Euclidean { MetricKind::L2sq } else { MetricKind::IP };
    let options = IndexOptions {
        dimensions: data.dimension,
        metric,
        quantization: ScalarKind::BF16,
        connectivity: 16,
        expansion_add: 200,
        ..IndexOptions::default()
    };
    let index = Index::new(&options)?;
    index.reserve_capacity_and_threads(data.len(), 1)?;
    let start = cpu(libc::CLOCK_PROCESS_CPUTIME_ID);
    for (row, values) in data.base.chunks_exact(data.dimension).enumerate() {
        index.add(row as u64, values)?;
    }
    report_build("usearch bf16", data, start);
    println!("  {:.1} bytes a row", index.memory_usage() as f64 / data.len() as f64);
    sweep(data, |query, ef| {
        index.change_expansion_search(ef);
        Ok(index.search(query, K)?.keys)
    })
}

fn report_build(name: &str, data: &Data, start: Duration) {
    let seconds = (cpu(libc::CLOCK_PROCESS_CPUTIME_ID) - start).as_secs_f64();
    println!("{name}: built in {seconds:.1} CPU s, {:.0} rows per CPU second", data.len() as f64 / seconds);
}

/// Prints recall and speed for each `ef` until recall is past the highest asked for, then both at each asked-for recall.
fn sweep(data: &Data, mut search: impl FnMut(&[f32], usize) -> Result<Vec<u64>>) -> Result<()> {
    let mut points: Vec<(f64, f64)> = vec![];
    for ef in EFS {
        let mut best = f64::INFINITY;
        let mut found = 0;
        for run in 0..RUNS {
            let start = cpu(libc::CLOCK_THREAD_CPUTIME_ID);
            for (i, query) in data.queries.chunks_exact(data.dimension).enumerate() {
                let rows = search(query, ef)?;
                if run == 0 {
                    let truth = &data.nearest[i * data.truth..][..K];
                    found += rows.iter().filter(|row| truth.contains(&(**row as i32))).count();
                }
            }
            best = best.min((cpu(libc::CLOCK_THREAD_CPUTIME_ID) - start).as_secs_f64());
        }
        let queries = data.queries.len() / data.dimension;
        let (recall, micros) = (found as f64 / (queries * K) as f64, best / queries as f64 * 1e6);
        println!("  ef {ef:4}  recall {recall:.4}  {micros:7.1} µs  {:7.0} queries per CPU second", 1e6 / micros);
        points.push((recall, micros));
        if recall > RECALLS[1] + 0.003 {
            break;
        }
    }
    for wanted in RECALLS {
        let between = points.windows(2).find(|pair| pair[0].0 <= wanted && wanted <= pair[1].0);
        match between {
            Some([low, high]) => {
                let part = (wanted - low.0) / (high.0 - low.0).max(f64::EPSILON);
                let micros = low.1 + part * (high.1 - low.1);
                println!("  at recall {wanted}: {:.0} queries per CPU second", 1e6 / micros);
            }
            _ if points[0].0 >= wanted => {
                println!("  at recall {wanted}: {:.0} queries per CPU second, by the least effort", 1e6 / points[0].1);
            }
            _ => println!("  at recall {wanted}: not between two points"),
        }
    }
    Ok(())
}

fn cpu(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for the call to write.
    unsafe { libc::clock_gettime(clock, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
