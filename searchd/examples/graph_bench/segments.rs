//! Segments as collections have them.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nearfield_proto::v1;
use nearfield_searchd::engine::settings::{Effort, Recall, Settings};
use nearfield_searchd::graph::Metric;
use nearfield_searchd::index::engines::Engines;
use nearfield_searchd::index::kernel::Kernel;
use nearfield_searchd::index::seal::SEAL_CHUNKS;
use nearfield_searchd::index::segment::Segment;
use nearfield_searchd::index::{Index, Wanted};
use nearfield_searchd::search::stop::Stop;

use crate::data::Data;
use crate::{K, cpu, report_build};

/// As it is by default.
pub(crate) const DEFAULT: &str = "pq";
const QUANTIZATIONS: [&str; 4] = [DEFAULT, "int8", "binary", "bf16"];
const RECALLS: [f64; 4] = [0.9, 0.95, 0.98, 0.99];
/// Times that every vector is replaced.
const REPLACED: usize = 10;

pub(crate) fn measure(data: &Data) -> Result<()> {
    for quantization in QUANTIZATIONS {
        let directory = tempfile::tempdir()?;
        let index = index(data, quantization)?;
        let builder = Engines::new(2);
        put(&index, data);
        let start = cpu(libc::CLOCK_PROCESS_CPUTIME_ID);
        rest(&index, directory.path(), &builder)?;
        report_build(quantization, data, start);
        report(&index, data)?;
        let segment = index.segments().first().context("rows to seal")?.sealed;
        let start = Instant::now();
        let opened = Segment::open(directory.path(), segment, &index.settings, &builder)?;
        println!("  opened {} rows in {:.1} ms", opened.live(), start.elapsed().as_secs_f64() * 1e3);
        drop(opened);
        if quantization == DEFAULT {
            for _ in 0..REPLACED {
                put(&index, data);
                while let Some(sources) = index.sources(SEAL_CHUNKS) {
                    index.seal(&sources, directory.path(), &builder)?;
                }
            }
            rest(&index, directory.path(), &builder)?;
            println!("  after every vector was replaced {REPLACED} times:");
            report(&index, data)?;
        }
    }
    Ok(())
}

/// All of it in one segment as it is by default.
pub(crate) fn sealed(data: &Data, directory: &Path) -> Result<Index> {
    let index = index(data, DEFAULT)?;
    put(&index, data);
    rest(&index, directory, &Engines::new(2))?;
    Ok(index)
}

/// Seals as in production once nobody writes: a set that is whole becomes one segment.
pub(crate) fn rest(index: &Index, directory: &Path, builder: &Engines) -> Result<()> {
    while let Some(sources) = index.sources_at_rest(Duration::MAX) {
        index.seal(&sources, directory, builder)?;
    }
    Ok(())
}

/// One segment as it is by default, asked with ever more candidates.
pub(crate) fn sweep(data: &Data) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let index = index(data, DEFAULT)?;
    put(&index, data);
    let start = cpu(libc::CLOCK_PROCESS_CPUTIME_ID);
    rest(&index, directory.path(), &Engines::new(1))?;
    report_build(DEFAULT, data, start);
    crate::pages::settle()?;
    report(&index, data)?;
    let stop = Stop::default();
    crate::sweep(data, |query, ef| {
        let scorer = index.scorer(query);
        let effort = Effort::Candidates(ef as u32);
        let wanted = Wanted { scorer: &scorer, k: K, effort, exact: false, admitted: None, except: None };
        let (hits, _) = index.search(&wanted, &|a, b| a.cmp(&b), &stop)??;
        Ok(hits.into_iter().map(|hit| u64::from(hit.slot)).collect())
    })
}

/// As settings call it.
pub(crate) fn metric(data: &Data) -> &'static str {
    match data.metric {
        Metric::Cosine => "cosine",
        Metric::Dot => "dot",
        Metric::Euclidean => "euclidean",
    }
}

pub(crate) fn index(data: &Data, quantization: &str) -> Result<Index> {
    let message = v1::CollectionSettings {
        dimension: data.dimension as u32,
        metric: metric(data).to_owned(),
        quantization: quantization.to_owned(),
        ..v1::CollectionSettings::default()
    };
    let settings = Settings::from_message(&message).ok().context("settings that are allowed")?;
    Ok(Index::new(settings, Kernel::detect()))
}

pub(crate) fn put(index: &Index, data: &Data) {
    for (slot, values) in data.base.chunks_exact(data.dimension).enumerate() {
        index.put(slot as u32, values);
    }
}

pub(crate) fn report(index: &Index, data: &Data) -> Result<()> {
    let segments = index.segments();
    let rows: usize = segments.iter().map(|segment| segment.vectors.len()).sum();
    let sealed: u64 = segments.iter().map(|segment| segment.memory_bytes()).sum();
    println!(
        "  {} segments, {:.1} bytes of graphs a row, {:.1} bytes of all a vector",
        segments.len(),
        sealed as f64 / rows as f64,
        index.memory_bytes() as f64 / data.base.len() as f64 * data.dimension as f64
    );
    let calibrations = segments.iter().filter_map(|segment| segment.proposer()).map(|proposer| proposer.calibration());
    for calibration in calibrations {
        println!("  calibrated: {:?}", calibration.points().iter().map(|p| (p.ef, p.recall)).collect::<Vec<_>>());
    }
    search(index, data, "default", index.settings.effort)?;
    for share in RECALLS {
        let recall = Recall::new(share).context("a recall that may be asked for")?;
        search(index, data, &format!("recall {share}"), Effort::Recall(recall))?;
    }
    Ok(())
}

fn search(index: &Index, data: &Data, name: &str, effort: Effort) -> Result<()> {
    let (stop, mut found) = (Stop::default(), 0);
    let queries = data.queries.len() / data.dimension;
    let start = cpu(libc::CLOCK_THREAD_CPUTIME_ID);
    for (i, query) in data.queries.chunks_exact(data.dimension).enumerate() {
        let scorer = index.scorer(query);
        let wanted = Wanted { scorer: &scorer, k: K, effort, exact: false, admitted: None, except: None };
        let (hits, _) = index.search(&wanted, &|a, b| a.cmp(&b), &stop)??;
        let truth = &data.nearest[i * data.truth..][..K];
        found += hits.iter().filter(|hit| truth.contains(&(hit.slot as i32))).count();
    }
    let micros = (cpu(libc::CLOCK_THREAD_CPUTIME_ID) - start).as_secs_f64() / queries as f64 * 1e6;
    let ef = index.segments().iter().filter_map(|s| s.proposer()).map(|p| p.candidates(effort, K)).max().unwrap_or(0);
    let recall = found as f64 / (queries * K) as f64;
    println!("  {name:12} ef {ef:4}  recall {recall:.4}  {micros:7.1} µs  {:7.0} queries per CPU second", 1e6 / micros);
    Ok(())
}
