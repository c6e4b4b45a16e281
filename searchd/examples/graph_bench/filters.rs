//! Recall and CPU time of filtered searches by each way through a graph: a walk over all rows, one over admitted rows, and
//! none. Filters that are dealt out at random, that go with the query and against it, and such as clusters make.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use nearfield_searchd::engine::settings::{Effort, USUAL_EF};
use nearfield_searchd::graph::build::Plan;
use nearfield_searchd::graph::exact::HalfRows;
use nearfield_searchd::graph::kernel::Kernel;
use nearfield_searchd::graph::search::{Exact, Filter, Searcher, Through, Wanted};
use nearfield_searchd::graph::{Graph, Rows, Width};
use nearfield_searchd::index::admitted::Admitted;
use nearfield_searchd::index::{self, Index};
use nearfield_searchd::search::stop::Stop;

use crate::data::Data;
use crate::{K, RUNS, cpu, report_build, segments};

const QUERIES: usize = 96;
const EFS: [usize; 4] = [32, 64, 128, 256];
/// Rows by which all are divided into clusters.
const PIVOTS: u32 = 64;
/// Rows of which the clusters are near a query.
const NEAR: usize = 50;

/// Name, and the rows that are admitted to a query: by their order of distance from it, and by their clusters.
type Admits = fn(&Question<'_>, usize, u32) -> bool;

const FILTERS: [(&str, Admits); 13] = [
    ("one in 2", |_, _, row| mixed(row).is_multiple_of(2)),
    ("one in 5", |_, _, row| mixed(row).is_multiple_of(5)),
    ("one in 10", |_, _, row| mixed(row).is_multiple_of(10)),
    ("one in 20", |_, _, row| mixed(row).is_multiple_of(20)),
    ("one in 50", |_, _, row| mixed(row).is_multiple_of(50)),
    ("the nearest 5 %", |question, place, _| place * 20 < question.clusters.len()),
    ("all but the nearest 1 %", |question, place, _| place * 100 > question.clusters.len()),
    ("all but the nearest 10 %", |question, place, _| place * 10 > question.clusters.len()),
    ("all but the nearest half", |question, place, _| place * 2 > question.clusters.len()),
    ("half of the clusters", |question, _, row| mixed(question.clusters[row as usize]).is_multiple_of(2)),
    ("a tenth of the clusters", |question, _, row| mixed(question.clusters[row as usize]).is_multiple_of(10)),
    ("all clusters but its own", |question, _, row| question.clusters[row as usize] != question.cluster),
    ("no cluster that is near", |question, _, row| !question.near.contains(&question.clusters[row as usize])),
];

struct Question<'a> {
    clusters: &'a [u32],
    cluster: u32,
    /// Those of the nearest rows.
    near: Vec<u32>,
}

const WAYS: [(&str, Through, bool); 4] = [
    ("all", Through::All, false),
    ("admitted", Through::Admitted, false),
    ("codes", Through::Codes, true),
    ("codes, not listed", Through::Codes, false),
];

pub(crate) fn measure(data: &Data) -> Result<()> {
    let width = match data.dimension {
        512.. => Width::One,
        96.. => Width::Two,
        _ => Width::Four,
    };
    let start = cpu(libc::CLOCK_PROCESS_CPUTIME_ID);
    let graph = Graph::build(data.metric, data, width, &Plan::default())?;
    report_build(&format!("{width:?}"), data, start);
    let queries: Vec<&[f32]> = data.queries.chunks_exact(data.dimension).take(QUERIES).collect();
    let surroundings = Surroundings::learn(data, &queries);
    let directory = tempfile::tempdir()?;
    let index = segments::sealed(data, directory.path())?;
    let mut searcher = Searcher::default();
    println!("  filter | admitted | way | recall@10, µs, of 100 short; at ef {EFS:?}");
    for (name, admits) in FILTERS {
        let asked: Vec<Asked> = (0..queries.len()).map(|i| surroundings.asked(i, admits)).collect();
        let listed: usize = asked.iter().map(|asked| asked.listed.len()).sum();
        let share = listed as f64 / (asked.len() * data.len()) as f64;
        let admitted = format!("{name:24} | {:5.1} %", share * 100.0);
        println!("  {admitted} | as planned         | {}", planned(&index, &queries, &asked)?);
        for (way, through, is_listed) in WAYS {
            let cells = EFS.map(|ef| {
                by_way(data, &graph, &mut searcher, &queries, &asked, Course { ef, share, through, is_listed })
            });
            println!("  {admitted} | {way:18} | {}", cells.into_iter().collect::<Result<Vec<_>>>()?.join(" | "));
        }
    }
    Ok(())
}

/// What lies around the queries.
struct Surroundings {
    /// Of every row from each query.
    distances: Vec<Vec<f32>>,
    /// The nearest pivot of each row.
    clusters: Vec<u32>,
    /// That of each query.
    own: Vec<u32>,
}

impl Surroundings {
    fn learn(data: &Data, queries: &[&[f32]]) -> Self {
        let rows = 0..data.len() as u32;
        let from = |point: &[f32]| -> Vec<f32> {
            let scorer = HalfRows::new(data.metric, Kernel::detect(), &data.halves, None, point);
            rows.clone().map(|row| scorer.distance(row)).collect()
        };
        let distances: Vec<Vec<f32>> = queries.iter().map(|query| from(query)).collect();
        let mut clusters = vec![(f32::INFINITY, 0); data.len()];
        let mut own = vec![(f32::INFINITY, 0); queries.len()];
        for pivot in 0..PIVOTS {
            let row = mixed(pivot) as usize % data.len();
            let pivoting = from(&data.base[row * data.dimension..][..data.dimension]);
            for (nearest, distance) in clusters.iter_mut().zip(pivoting) {
                *nearest = if distance < nearest.0 { (distance, pivot) } else { *nearest };
            }
            for (own, distances) in own.iter_mut().zip(&distances) {
                *own = if distances[row] < own.0 { (distances[row], pivot) } else { *own };
            }
        }
        let pivots = |nearest: Vec<(f32, u32)>| nearest.into_iter().map(|(_, pivot)| pivot).collect();
        Self { distances, clusters: pivots(clusters), own: pivots(own) }
    }

    /// What a filter admits to a query, and the nearest of that.
    fn asked(&self, query: usize, admits: Admits) -> Asked {
        let distances = &self.distances[query];
        let rows = 0..distances.len() as u32;
        let mut order: Vec<u32> = rows.clone().collect();
        order.sort_unstable_by(|a, b| distances[*a as usize].total_cmp(&distances[*b as usize]));
        let near = order.iter().take(NEAR).map(|row| self.clusters[*row as usize]).collect();
        let question = Question { clusters: &self.clusters, cluster: self.own[query], near };
        let is_admitted = |(place, row): &(usize, &u32)| admits(&question, *place, **row);
        let found: Vec<u32> = order.iter().enumerate().filter(is_admitted).map(|(_, row)| *row).collect();
        let mut admitted = vec![false; distances.len()];
        found.iter().for_each(|row| admitted[*row as usize] = true);
        let nearest = found.iter().take(K).copied().collect();
        let listed = rows.filter(|row| admitted[*row as usize]).collect();
        Asked { admitted, listed, nearest }
    }
}

/// How a graph is asked.
struct Course {
    ef: usize,
    share: f64,
    through: Through,
    is_listed: bool,
}

/// Recall, CPU time and how many of a hundred searches said that they met too few.
fn by_way(
    data: &Data,
    graph: &Graph,
    searcher: &mut Searcher,
    queries: &[&[f32]],
    asked: &[Asked],
    course: Course,
) -> Result<String> {
    let Course { ef, share, through, is_listed } = course;
    let rescored = match graph.width() {
        Width::One => ef,
        Width::Two => (8 * K).max(ef / 4),
        _ => 3 * K,
    };
    let mut best = Duration::MAX;
    let (mut found, mut all, mut short) = (0, 0, 0);
    for run in 0..RUNS {
        let start = cpu(libc::CLOCK_THREAD_CPUTIME_ID);
        for (query, asked) in queries.iter().zip(asked) {
            let admits = |row: u32| asked.admitted[row as usize];
            let listed = is_listed.then_some(&asked.listed[..]);
            let filter = Some(Filter { admits: &admits, fraction: share as f32, listed, through });
            let wanted = Wanted { query, k: K, ef, rescored, filter, stop: None };
            let proposed = graph.propose(searcher, &wanted)?;
            let scorer = HalfRows::new(data.metric, Kernel::detect(), &data.halves, None, query);
            let mut hits: Vec<_> = proposed.rows.iter().map(|row| (scorer.distance(*row), *row)).collect();
            hits.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
            if run == 0 && proposed.is_short {
                short += 1;
            } else if run == 0 {
                found += hits.iter().take(K).filter(|hit| asked.nearest.contains(&hit.1)).count();
                all += asked.nearest.len();
            }
        }
        best = best.min(cpu(libc::CLOCK_THREAD_CPUTIME_ID) - start);
    }
    let micros = best.as_secs_f64() / queries.len() as f64 * 1e6;
    let recall = f64::from(found as u32) / f64::from(all.max(1) as u32);
    Ok(format!("{recall:.3} {micros:6.0} {:3}", short * 100 / queries.len()))
}

/// What a collection's search does by default: recall, CPU time, and which ways it takes.
fn planned(collection: &Index, queries: &[&[f32]], asked: &[Asked]) -> Result<String> {
    let mut best = Duration::MAX;
    let (mut found, mut all, mut ways, mut compared) = (0, 0, BTreeMap::<&str, usize>::new(), 0);
    let admitted: Vec<Admitted> = asked.iter().map(|asked| asked.listed.iter().copied().collect()).collect();
    let search = |query: &[f32], admitted: &Admitted, exact: bool| {
        let (scorer, effort) = (collection.scorer(query), Effort::Candidates(USUAL_EF));
        let wanted = index::Wanted { scorer: &scorer, k: K, effort, exact, admitted: Some(admitted), except: None };
        Ok::<_, anyhow::Error>(collection.search(&wanted, &|a, b| a.cmp(&b), &Stop::default())??)
    };
    // By the values that are stored: halves of them would put rows that are so much alike into another order.
    let exact = |(query, admitted): (&&[f32], &Admitted)| Ok(search(query, admitted, true)?.0);
    let exact = queries.iter().zip(&admitted).map(exact).collect::<Result<Vec<_>>>()?;
    for run in 0..RUNS {
        let start = cpu(libc::CLOCK_THREAD_CPUTIME_ID);
        for ((query, exact), admitted) in queries.iter().zip(&exact).zip(&admitted) {
            let (hits, trail) = search(query, admitted, false)?;
            if run == 0 {
                found += hits.iter().filter(|hit| exact.iter().any(|exact| exact.slot == hit.slot)).count();
                all += exact.len();
                let step = trail.last().context("a segment")?;
                compared += step.compared;
                let way = if step.fell_back { "codes after a walk" } else { step.plan.way.name() };
                *ways.entry(way).or_default() += 1;
            }
        }
        best = best.min(cpu(libc::CLOCK_THREAD_CPUTIME_ID) - start);
    }
    let (recall, micros) = (found as f64 / all.max(1) as f64, best.as_secs_f64() / queries.len() as f64 * 1e6);
    Ok(format!("{recall:.3} {micros:6.0} µs, {} compared, {ways:?}", compared / queries.len()))
}

struct Asked {
    admitted: Vec<bool>,
    listed: Vec<u32>,
    nearest: Vec<u32>,
}

/// SplitMix64 of a small number, cut.
fn mixed(number: u32) -> u32 {
    let mut mixed = (u64::from(number) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed >> 33) as u32
}
