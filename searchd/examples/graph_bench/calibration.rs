//! What a trial says of a graph, before and after users asked, beside what it finds of the data set's queries.

use anyhow::{Context, Result};
use nearfield_searchd::engine::settings::{Effort, Recall};
use nearfield_searchd::index::calibration::Calibration;
use nearfield_searchd::index::engines::Engines;
use nearfield_searchd::index::trial::{K, Trial};
use nearfield_searchd::index::{Index, Wanted};
use nearfield_searchd::search::stop::Stop;

use crate::data::Data;
use crate::segments::{index, put, rest};

const QUANTIZATIONS: [&str; 3] = ["pq", "int8", "binary"];
const RECALLS: [f64; 4] = [0.9, 0.95, 0.98, 0.99];
/// Queries that users asked before; the others are what recall is measured with.
const ASKED: usize = 128;

pub(crate) fn measure(data: &Data) -> Result<()> {
    let queries: Vec<Vec<f32>> = data.queries.chunks_exact(data.dimension).map(<[f32]>::to_vec).collect();
    // Sets are sorted, some of them.
    let every = (queries.len() / ASKED).max(2);
    let (asked, others): (Vec<_>, Vec<_>) =
        queries.into_iter().enumerate().partition(|(number, _)| number.is_multiple_of(every));
    let asked: Vec<Vec<f32>> = asked.into_iter().map(|(_, query)| query).collect();
    let stop = Stop::default();
    for quantization in QUANTIZATIONS {
        let directory = tempfile::tempdir()?;
        let index = index(data, quantization)?;
        put(&index, data);
        rest(&index, directory.path(), &Engines::new(2))?;
        println!("{quantization}:");
        report("nobody asked", &index, &others)?;
        for query in &asked {
            let scorer = index.scorer(query);
            let effort = index.settings.effort;
            let wanted = [Wanted { scorer: &scorer, k: K, effort, exact: false, admitted: None, except: None }];
            index.search_all(&wanted, &|a, b| a.cmp(&b), &stop)?;
        }
        index.learn(&stop)?;
        report("users asked", &index, &others)?;
        rest(&index, directory.path(), &Engines::new(2))?;
        report("at rest", &index, &others)?;
    }
    Ok(())
}

/// What the trial of the one segment said, and what so many candidates find of the queries that were not asked.
fn report(name: &str, index: &Index, queries: &[(usize, Vec<f32>)]) -> Result<()> {
    let segments = index.segments();
    let segment = segments.first().context("rows to seal")?;
    let proposer = segment.proposer().context("a graph")?;
    let queries = queries.iter().map(|(_, query)| (query.clone(), None));
    let truth =
        Trial::asking(&index.settings, &segment.vectors, queries, &Stop::default())?.calibrate(proposer.graph())?;
    println!("  {name}: {:.0} bytes of graph a row", proposer.memory_bytes() as f64 / segment.vectors.len() as f64);
    print("trial", &proposer.calibration(), &truth);
    print("queries", &truth, &truth);
    Ok(())
}

fn print(name: &str, trial: &Calibration, truth: &Calibration) {
    let points = trial.points().iter().map(|point| format!("{}: {:.4}", point.ef, point.recall));
    println!("    {name:8} {}", points.collect::<Vec<_>>().join("  "));
    let targets = RECALLS.into_iter().filter_map(Recall::new).map(|target| {
        let ef = trial.candidates(Effort::Recall(target), 1);
        format!("{} -> {ef} candidates find {:.4}", target.share(), truth.recall(ef))
    });
    println!("    {:8} {}", "", targets.collect::<Vec<_>>().join(", "));
}
