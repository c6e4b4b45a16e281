//! What a trial says of a graph, before and after users asked, beside what it finds of the data set's queries.

use anyhow::{Context, Result};
use nearfield_searchd::engine::settings::{Effort, Recall};
use nearfield_searchd::index::calibration::Calibration;
use nearfield_searchd::index::engines::Engines;
use nearfield_searchd::index::trial::Trial;
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
        let segments = index.segments();
        let segment = segments.first().context("rows to seal")?;
        let graph = segment.proposer().context("a graph")?.graph();
        let (settings, vectors) = (&index.settings, &segment.vectors);
        let others = others.iter().map(|(_, query)| (query.clone(), None));
        let truth = Trial::asking(settings, vectors, others, &stop)?.calibrate(graph)?;
        println!("{quantization}:");
        print("queries", &truth, &truth);
        print("nobody asked", &Trial::new(settings, vectors, &[], &stop)?.calibrate(graph)?, &truth);
        print("users asked", &Trial::new(settings, vectors, &asked, &stop)?.calibrate(graph)?, &truth);
    }
    Ok(())
}

fn print(name: &str, trial: &Calibration, truth: &Calibration) {
    let points = trial.points().iter().map(|point| format!("{}: {:.4}", point.ef, point.recall));
    println!("  {name:12} {}", points.collect::<Vec<_>>().join("  "));
    let targets = RECALLS.into_iter().filter_map(Recall::new).map(|target| {
        let ef = trial.candidates(Effort::Recall(target), 1);
        format!("{} -> {ef} candidates find {:.4}", target.share(), truth.recall(ef))
    });
    println!("  {:12} {}", "", targets.collect::<Vec<_>>().join(", "));
}
