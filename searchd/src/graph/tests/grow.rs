//! Graphs that grow from others, against graphs that are built of the same rows at once.

use super::*;
use crate::graph::build::grow::Source;

/// Rows beside each other.
fn joined(parts: &[&Table], keeps: impl Fn(usize, u32) -> bool) -> (Table, Vec<Vec<Option<u32>>>) {
    let mut all = Table { dimension: parts[0].dimension, values: vec![] };
    let mut numbers = vec![];
    for (i, part) in parts.iter().enumerate() {
        let kept = (0..part.len() as u32).map(|row| {
            keeps(i, row).then(|| {
                all.values.extend_from_slice(part.row(row));
                all.len() as u32 - 1
            })
        });
        numbers.push(kept.collect());
    }
    (all, numbers)
}

fn grown(metric: Metric, all: &Table, graphs: &[&Graph], numbers: &[Vec<Option<u32>>], plan: &Plan) -> Graph {
    let sources = graphs.iter().zip(numbers).map(|(graph, rows)| Source { graph, rows });
    Graph::grow(metric, all, Width::Eight, plan, &sources.collect::<Vec<_>>()).unwrap()
}

#[test]
fn grown_over_and_over_a_graph_finds_what_one_built_at_once_does() {
    for metric in [Metric::Cosine, Metric::Dot, Metric::Euclidean] {
        let mut rows = Table::clustered(2_000, 24, 5);
        let mut graph = Graph::build(metric, &rows, Width::Eight, &PLAN).unwrap();
        for round in 0..12 {
            // Like those that are there, and like nothing before; some of each size.
            let seed = if round % 3 == 0 { 50 + round } else { 5 };
            let added = Table::clustered(60 + 90 * (round as usize % 4), 24, seed);
            let other = Graph::build(metric, &added, Width::Eight, &PLAN).unwrap();
            let (all, numbers) = joined(&[&rows, &added], |part, row| part == 1 || row % 10 != round as u32 % 10);
            graph = grown(metric, &all, &[&graph, &other], &numbers, &PLAN);
            assert!(graph.inherited() * 10 >= all.len() * 7, "{} of {}", graph.inherited(), all.len());
            assert!(graph.unreachable().is_empty());
            rows = all;
        }
        let fresh = Graph::build(metric, &rows, Width::Eight, &PLAN).unwrap();
        assert_eq!(fresh.inherited(), 0);
        let (now, then) = (recall(&graph, &rows, metric), recall(&fresh, &rows, metric));
        assert!(now >= then - 0.01, "{metric:?}: {now}, at once {then}");
        let long = |graph: &Graph| graph.lists.starts()[graph.len()] as f64 / graph.len() as f64;
        assert!(long(&graph) <= 1.25 * long(&fresh), "{} neighbours a row, at once {}", long(&graph), long(&fresh));
        let mut searcher = Searcher::default();
        for row in (0..rows.len() as u32).step_by(7) {
            let oracle = Oracle { rows: &rows, metric, query: rows.row(row) };
            let best = oracle.nearest(1, |_| true)[0].distance;
            let hits = graph.search(&mut searcher, &wanted(rows.row(row)), &oracle).unwrap();
            assert!(hits[0].distance <= best, "{metric:?}: {row} leads to itself, or to what is as near");
        }
    }
}

#[test]
fn what_is_gone_is_bridged() {
    let rows = Table::clustered(3_000, 24, 5);
    let graph = Graph::build(Metric::Euclidean, &rows, Width::Eight, &PLAN).unwrap();
    let (left, numbers) = joined(&[&rows], |_, row| row % 4 != 1);
    let bridged = grown(Metric::Euclidean, &left, &[&graph], &numbers, &PLAN);
    let fresh = Graph::build(Metric::Euclidean, &left, Width::Eight, &PLAN).unwrap();
    assert!(bridged.unreachable().is_empty() && bridged.inherited() * 100 >= left.len() * 99);
    let (now, then) = (recall(&bridged, &left, Metric::Euclidean), recall(&fresh, &left, Metric::Euclidean));
    assert!(now >= then - 0.01, "{now}, at once {then}");
}

#[test]
fn equal_sources_give_equal_graphs_on_any_number_of_threads() {
    let parts = [Table::clustered(1_500, 64, 3), Table::clustered(400, 64, 4)];
    let graphs = parts.each_ref().map(|rows| Graph::build(Metric::Cosine, rows, Width::Two, &PLAN).unwrap());
    let (all, numbers) = joined(&[&parts[0], &parts[1]], |part, row| row % 9 != part as u32);
    let bytes = |plan| grown(Metric::Cosine, &all, &[&graphs[0], &graphs[1]], &numbers, &plan).to_bytes();
    let one = bytes(PLAN);
    assert!(one == bytes(Plan { threads: 3, ..PLAN }));
    // Of what width the codes are that were searched, and whether a graph was written and read, makes no difference.
    let again = graphs.each_ref().map(|graph| Graph::open(graph.to_bytes().into(), Check::WhenTouched).unwrap());
    let read = grown(Metric::Cosine, &all, &[&again[0], &again[1]], &numbers, &PLAN);
    assert!(one == read.to_bytes());
}

#[test]
fn a_source_that_is_no_use_is_built_anew() {
    let rows = Table::clustered(600, 16, 5);
    let graph = Graph::build(Metric::Euclidean, &rows, Width::Eight, &PLAN).unwrap();
    let anew = |rows: &Table| Graph::build(Metric::Euclidean, rows, Width::Eight, &PLAN).unwrap().to_bytes();
    // Most of it is gone.
    let (left, numbers) = joined(&[&rows], |_, row| row % 2 == 0);
    assert!(grown(Metric::Euclidean, &left, &[&graph], &numbers, &PLAN).to_bytes() == anew(&left));
    // All of it is gone.
    let (left, mut numbers) = joined(&[&rows], |_, _| true);
    numbers[0].fill(None);
    assert!(grown(Metric::Euclidean, &left, &[&graph], &numbers, &PLAN).to_bytes() == anew(&left));
    // It is of another metric.
    let (left, numbers) = joined(&[&rows], |_, _| true);
    let other = Graph::build(Metric::Cosine, &rows, Width::Eight, &PLAN).unwrap();
    assert!(grown(Metric::Euclidean, &left, &[&other], &numbers, &PLAN).to_bytes() == anew(&left));
    // It is damaged, which nobody has noticed yet.
    let mut bytes = graph.to_bytes();
    let near_the_end = bytes.len() * 4 / 5;
    bytes[near_the_end] ^= 1;
    let damaged = Graph::open(bytes.into(), Check::WhenTouched).unwrap();
    assert!(grown(Metric::Euclidean, &left, &[&damaged], &numbers, &PLAN).to_bytes() == anew(&left));
    assert!(!damaged.is_sound());
}
