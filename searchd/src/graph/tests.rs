//! The graph against an exact oracle, against damage, and its kernels against each other.

mod axes;
mod grow;
mod partitions;
mod rank;

use std::collections::HashSet;

use bytes::Bytes;
use half::f16;
use proptest::prelude::*;

use super::build::Plan;
use super::file::{Check, OpenError};
use super::kernel::{Filled, Kernel, Level, POOL_SPARE, Packed, Query, Width};
use super::random::Random;
use super::search::{Exact, Filter, Halted, Hit, Searcher, Through, Wanted};
use super::{Graph, Metric, Rows};

const PLAN: Plan = Plan { degree: 24, ef: 64, slack: 1.1, rounds: 1, threads: 1, seed: 42, stop: None };

/// Rows, one after the other.
struct Table {
    dimension: usize,
    values: Vec<f32>,
}

impl Table {
    /// Rows around twenty centres; one in fifty is the same as the one before.
    fn clustered(rows: usize, dimension: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut normal = || (0..6).map(|_| random.next() as f32 / u64::MAX as f32 - 0.5).sum::<f32>();
        let centres: Vec<f32> = (0..20 * dimension).map(|_| 2.0 * normal()).collect();
        let mut values = Vec::with_capacity(rows * dimension);
        for row in 0..rows {
            let centre = &centres[row % 20 * dimension..][..dimension];
            if row % 50 == 49 {
                let start = values.len() - dimension;
                values.extend_from_within(start..);
            } else {
                values.extend(centre.iter().map(|centre| centre + normal()));
            }
        }
        Self { dimension, values }
    }

    fn row(&self, row: u32) -> &[f32] {
        &self.values[row as usize * self.dimension..][..self.dimension]
    }
}

impl Rows for Table {
    fn len(&self) -> usize {
        self.values.len() / self.dimension
    }
    fn dimension(&self) -> usize {
        self.dimension
    }
    fn read(&self, row: u32, into: &mut [f32]) {
        into.copy_from_slice(self.row(row));
    }
}

struct Oracle<'a> {
    rows: &'a Table,
    metric: Metric,
    query: &'a [f32],
}

impl Exact for Oracle<'_> {
    fn distance(&self, row: u32) -> f32 {
        let pairs = || self.query.iter().zip(self.rows.row(row));
        let dot = pairs().map(|(a, b)| a * b).sum::<f32>();
        match self.metric {
            Metric::Cosine => -dot / self.rows.row(row).iter().map(|v| v * v).sum::<f32>().sqrt(),
            Metric::Dot => -dot,
            Metric::Euclidean => pairs().map(|(a, b)| (a - b) * (a - b)).sum(),
        }
    }
}

impl Oracle<'_> {
    fn nearest(&self, k: usize, admits: impl Fn(u32) -> bool) -> Vec<Hit> {
        let rows = (0..self.rows.len() as u32).filter(|row| admits(*row));
        let mut hits: Vec<Hit> = rows.map(|row| Hit { distance: self.distance(row), row }).collect();
        hits.sort_by(|a, b| a.distance.total_cmp(&b.distance).then(a.row.cmp(&b.row)));
        hits.truncate(k);
        hits
    }
}

fn wanted(query: &[f32]) -> Wanted<'_> {
    Wanted { query, k: 10, ef: 100, rescored: 80, filter: None, stop: None }
}

/// Recall by distance, so that equal rows count for each other.
fn recall(graph: &Graph, rows: &Table, metric: Metric) -> f64 {
    let queries = Table::clustered(60, rows.dimension, 5);
    let mut searcher = Searcher::default();
    let mut found = 0;
    for i in 0..60 {
        let query = queries.row(i);
        let oracle = Oracle { rows, metric, query };
        let worst = oracle.nearest(10, |_| true)[9].distance;
        let hits = graph.search(&mut searcher, &wanted(query), &oracle).unwrap();
        found += hits.iter().filter(|hit| hit.distance <= worst).count();
    }
    found as f64 / 600.0
}

#[test]
fn the_nearest_are_found_by_every_metric_and_width() {
    for dimension in [50, 160] {
        let rows = Table::clustered(3_000, dimension, 5);
        for metric in [Metric::Cosine, Metric::Dot, Metric::Euclidean] {
            let mut graph = Graph::build(metric, &rows, Width::Eight, &PLAN).unwrap();
            assert!(graph.unreachable().is_empty());
            for (width, least) in [(Width::Eight, 0.97), (Width::Four, 0.95), (Width::Two, 0.9), (Width::One, 0.6)] {
                graph.repack(&rows, width);
                let recall = recall(&graph, &rows, metric);
                assert!(recall > least, "{metric:?} {width:?} {dimension}: {recall}");
                let packed = Graph::build(metric, &rows, width, &PLAN).unwrap();
                assert!(packed.to_bytes() == graph.to_bytes(), "packing again is as packing at once");
            }
        }
    }
}

#[test]
fn lean_graphs_are_lean() {
    let rows = Table::clustered(2_000, 384, 1);
    let graph = Graph::build(Metric::Cosine, &rows, Width::Two, &PLAN).unwrap();
    assert!(graph.bytes() <= 210 * graph.len(), "{} bytes a row", graph.bytes() / graph.len());
}

#[test]
fn equal_seeds_give_equal_graphs_on_any_number_of_threads() {
    let rows = Table::clustered(1_500, 64, 3);
    let bytes = |plan| Graph::build(Metric::Euclidean, &rows, Width::Four, &plan).unwrap().to_bytes();
    let one = bytes(PLAN);
    assert!(one == bytes(Plan { threads: 3, ..PLAN }));
    assert!(one != bytes(Plan { seed: 43, ..PLAN }));
    let portable = Graph::build_by(Kernel::of(Level::Portable), Metric::Euclidean, &rows, Width::Four, &PLAN, &[]);
    assert!(one == portable.unwrap().to_bytes());
}

#[test]
fn few_rows_equal_rows_and_rows_of_zero_are_found() {
    for rows in [0, 1, 2, 7] {
        for values in [0.0, 1.0] {
            let rows = Table { dimension: 8, values: vec![values; rows * 8] };
            for metric in [Metric::Cosine, Metric::Dot, Metric::Euclidean] {
                let graph = Graph::build(metric, &rows, Width::Four, &PLAN).unwrap();
                assert!(graph.unreachable().is_empty());
                let query = [1.0; 8];
                let hits = graph.search(
                    &mut Searcher::default(),
                    &wanted(&query),
                    &Oracle { rows: &rows, metric, query: &query },
                );
                assert_eq!(hits.unwrap().len(), rows.len());
            }
        }
    }
    let many = Table { dimension: 8, values: vec![1.0; 8 * 2_000] };
    let graph = Graph::build(Metric::Euclidean, &many, Width::Four, &PLAN).unwrap();
    assert!(graph.unreachable().is_empty());
}

#[test]
fn filters_admit_nothing_else_and_find_what_they_admit() {
    let rows = Table::clustered(3_000, 64, 5);
    let graph = Graph::build(Metric::Euclidean, &rows, Width::Four, &PLAN).unwrap();
    let mut searcher = Searcher::default();
    let ways = [Through::All, Through::Admitted, Through::Codes];
    let cases = [(2, 0.95), (10, 0.95), (50, 0.8)].into_iter();
    for ((every, least), through) in cases.flat_map(|case| ways.map(|way| (case, way))) {
        let admits = |row: u32| row % every == 1;
        let (mut found, mut asked) = (0, 0);
        for i in 0..40 {
            let query = rows.row(i * 7);
            let oracle = Oracle { rows: &rows, metric: Metric::Euclidean, query };
            let listed: Vec<u32> = (0..3_000).filter(|row| admits(*row)).collect();
            let listed = (i % 2 == 0).then_some(&listed[..]);
            let filter = Some(Filter { admits: &admits, fraction: 1.0 / every as f32, listed, through });
            let wanted = Wanted { filter, ..wanted(query) };
            let hits = graph.search(&mut searcher, &wanted, &oracle).unwrap();
            assert!(hits.iter().all(|hit| admits(hit.row)));
            if graph.propose(&mut searcher, &wanted).unwrap().is_short {
                // Rows are admitted by clusters here.
                continue;
            }
            asked += 10;
            let worst = oracle.nearest(10, admits)[9].distance;
            found += hits.iter().filter(|hit| hit.distance <= worst).count();
        }
        assert!(found as f64 >= least * f64::from(asked), "1 of {every} through {through:?}: {found} of {asked}");
        assert!(asked > 0, "1 of {every} through {through:?}");
    }
    for through in ways {
        let nothing = Some(Filter { admits: &|_| false, fraction: 0.0, listed: None, through });
        let query = rows.row(0);
        let oracle = Oracle { rows: &rows, metric: Metric::Euclidean, query };
        assert_eq!(graph.search(&mut searcher, &Wanted { filter: nothing, ..wanted(query) }, &oracle), Ok(vec![]));
    }
}

#[test]
fn a_filter_may_keep_out_just_what_is_near() {
    let rows = Table::clustered(6_000, 24, 12);
    let graph = Graph::build(Metric::Euclidean, &rows, Width::Eight, &PLAN).unwrap();
    let mut searcher = Searcher::default();
    let ways = [Through::All, Through::Admitted];
    for (kept_out, through) in [5, 15, 100, 300, 1_000].into_iter().flat_map(|kept_out| ways.map(|way| (kept_out, way)))
    {
        let (mut found, mut short) = (0, 0);
        for i in 0..40 {
            let query = rows.row(i * 7);
            let oracle = Oracle { rows: &rows, metric: Metric::Euclidean, query };
            let near: HashSet<u32> = oracle.nearest(kept_out, |_| true).iter().map(|hit| hit.row).collect();
            let admits = |row: u32| !near.contains(&row);
            let filter =
                Some(Filter { admits: &admits, fraction: 1.0 - kept_out as f32 / 6_000.0, listed: None, through });
            let wanted = Wanted { filter, ef: 40, rescored: 15, ..wanted(query) };
            if graph.propose(&mut searcher, &wanted).unwrap().is_short {
                short += 1;
                continue;
            }
            let hits = graph.search(&mut searcher, &wanted, &oracle).unwrap();
            let worst = oracle.nearest(10, admits)[9].distance;
            found += hits.iter().filter(|hit| hit.distance <= worst).count();
        }
        // The walk found them, or said that it had not; and only where much is kept out does it say so.
        assert!(found as f64 >= 0.93 * f64::from(10 * (40 - short)), "{kept_out} {through:?}: {found}, {short} short");
        let expected = if kept_out <= 5 {
            0..=0
        } else if kept_out >= 100 {
            36..=40
        } else {
            0..=40
        };
        assert!(expected.contains(&short), "{kept_out} {through:?}: {short} short");
    }
}

#[test]
fn a_search_stops_when_told() {
    let rows = Table::clustered(3_000, 16, 5);
    let graph = Graph::build(Metric::Euclidean, &rows, Width::Four, &PLAN).unwrap();
    let query = rows.row(3);
    let oracle = Oracle { rows: &rows, metric: Metric::Euclidean, query };
    let stopped = Wanted { stop: Some(&|| true), ..wanted(query) };
    assert_eq!(graph.search(&mut Searcher::default(), &stopped, &oracle), Err(Halted::Stopped));
}

#[test]
fn one_searcher_serves_graphs_of_any_shape() {
    let mut searcher = Searcher::default();
    for round in 0..300 {
        let rows = Table::clustered(20 + round % 3 * 40, 8 + round % 2 * 70, 9);
        if !(6..=294).contains(&round) {
            let graph = Graph::build(Metric::Euclidean, &rows, Width::Four, &PLAN).unwrap();
            let query = rows.row(3);
            let oracle = Oracle { rows: &rows, metric: Metric::Euclidean, query };
            for _ in 0..60 {
                let hits = graph.search(&mut searcher, &wanted(query), &oracle).unwrap();
                assert_eq!(hits, oracle.nearest(10, |_| true));
            }
        }
    }
}

fn opened(bytes: Vec<u8>) -> Result<Graph, OpenError> {
    Graph::open(Bytes::from(bytes), Check::AtOnce)
}

#[test]
fn bytes_come_back_as_the_same_graph() {
    let rows = Table::clustered(1_000, 70, 5);
    for (metric, width) in [(Metric::Cosine, Width::Four), (Metric::Dot, Width::Two), (Metric::Euclidean, Width::Two)] {
        let graph = Graph::build(metric, &rows, width, &PLAN).unwrap();
        let again = opened(graph.to_bytes()).unwrap();
        assert!(again.to_bytes() == graph.to_bytes());
        let query = rows.row(1);
        let oracle = Oracle { rows: &rows, metric, query };
        let search = |graph: &Graph| graph.search(&mut Searcher::default(), &wanted(query), &oracle);
        assert_eq!(search(&again), search(&graph));
    }
}

#[test]
fn damage_is_an_error() {
    let rows = Table::clustered(60, 20, 5);
    no_bit_is_lost_on(Graph::build(Metric::Euclidean, &rows, Width::Two, &PLAN).unwrap().to_bytes());
}

fn no_bit_is_lost_on(bytes: Vec<u8>) {
    assert!(opened(bytes.clone()).is_ok());
    for length in 0..bytes.len() {
        assert!(opened(bytes[..length].to_vec()).is_err(), "cut at {length}");
    }
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(opened(bytes).is_err(), "bit {bit}");
    }
    let mut longer = bytes;
    longer.push(0);
    assert!(opened(longer).is_err());
}

#[test]
fn what_is_checked_when_touched_gives_the_same_answers_or_says_that_it_is_damaged() {
    let rows = Table::clustered(900, 40, 5);
    damage_is_noticed_when_touched(&Graph::build(Metric::Euclidean, &rows, Width::Two, &PLAN).unwrap(), &rows);
}

fn damage_is_noticed_when_touched(graph: &Graph, rows: &Table) {
    let bytes = graph.to_bytes();
    let answers = |graph: &Graph| {
        let mut searcher = Searcher::default();
        let queries = (0..6).map(|i| rows.row(i * 13));
        let answer = |query| graph.propose(&mut searcher, &wanted(query)).map(|proposed| proposed.rows.to_vec());
        queries.map(answer).collect::<Result<Vec<_>, _>>()
    };
    let right = answers(graph);
    let lazily = |bytes: Vec<u8>| Graph::open(Bytes::from(bytes), Check::WhenTouched);
    let whole = lazily(bytes.clone()).unwrap();
    assert!(answers(&whole) == right && whole.is_sound() && !whole.is_checked());
    let (mut refused, mut noticed) = (0, 0);
    for byte in (0..bytes.len()).step_by(61) {
        let mut bytes = bytes.clone();
        bytes[byte] ^= 1 << (byte % 8);
        match lazily(bytes) {
            Err(_) => refused += 1,
            Ok(damaged) => match answers(&damaged) {
                Err(halted) => {
                    assert!(halted == Halted::Damaged && !damaged.is_sound());
                    noticed += 1;
                }
                found => assert!(found == right && damaged.is_sound(), "byte {byte}"),
            },
        }
    }
    assert!(refused > 0 && noticed > 0, "{refused} {noticed}");
    for length in 0..bytes.len() {
        assert!(lazily(bytes[..length].to_vec()).is_err(), "cut at {length}");
    }
}

fn levels() -> impl Iterator<Item = Kernel> {
    [Level::Portable, Level::Avx2, Level::Avx512].into_iter().filter(|level| level.is_available()).map(Kernel::of)
}

proptest! {
    #[test]
    fn kernels_agree_on_sums(
        seed: u64,
        width in prop::sample::select(Width::ALL.to_vec()),
        blocks in 1usize..20,
        offset in 0usize..20,
        extra in 0usize..9,
    ) {
        let mut random = Random::new(seed);
        let plane = blocks * 16;
        let stride = offset + plane + extra;
        let data: Vec<u8> = (0..stride * 9).map(|_| random.next() as u8).collect();
        let mut query = Query::empty(plane, width);
        for values in query.values.chunks_exact_mut(query.padded) {
            values[..plane].iter_mut().for_each(|value| *value = random.next() as i8);
        }
        let ids: Vec<u32> = (0..13).map(|_| random.below(9) as u32).collect();
        let rows = Packed { data: &data, stride, offset, plane };
        let all: Vec<Vec<i32>> = levels().map(|kernel| {
            let mut sums = vec![0; ids.len()];
            kernel.dots(width, rows, &query, &ids, &mut sums);
            sums
        }).collect();
        prop_assert!(all.iter().all(|sums| *sums == all[0]), "{all:?}");
    }

    #[test]
    fn kernels_agree_on_candidates(
        capacity in 0usize..40,
        offers in prop::collection::vec(prop::collection::vec(-20i8..20, 0..40), 1..6),
    ) {
        let all: Vec<(Filled, Vec<u64>)> = levels().map(|kernel| {
            let mut pool = vec![u64::MAX; capacity + POOL_SPARE];
            let mut filled = Filled { len: 0, capacity, lowest: 0 };
            let mut next = 0;
            for offer in &offers {
                let rows: Vec<u32> = (next..next + offer.len() as u32).collect();
                next += offer.len() as u32;
                let distances: Vec<f32> = offer.iter().map(|distance| f32::from(*distance) / 2.0).collect();
                filled.lowest = filled.len;
                kernel.offer(&mut pool, &mut filled, &rows, &distances);
            }
            pool.truncate(filled.len);
            (filled, pool)
        }).collect();
        prop_assert!(all[0].1.is_sorted());
        prop_assert!(all.iter().all(|one| *one == all[0]), "{all:?}");
    }

    #[test]
    fn kernels_agree_on_butterflies(seed: u64, size in 0u32..10, lowest in 0u32..6) {
        let mut random = Random::new(seed);
        let values: Vec<f32> = (0..1 << size).map(|_| random.next() as f32).collect();
        let all: Vec<Vec<f32>> = levels().map(|kernel| {
            let mut values = values.clone();
            kernel.butterflies(&mut values, 1 << lowest);
            values
        }).collect();
        prop_assert!(all.iter().all(|values| *values == all[0]));
    }

    #[test]
    fn kernels_agree_on_half_precision(seed: u64, length in 0usize..100) {
        let mut random = Random::new(seed);
        let mut values = || (0..length).map(|_| random.next() as f32 / u64::MAX as f32 - 0.5).collect::<Vec<_>>();
        let row: Vec<f16> = values().into_iter().map(f16::from_f32).collect();
        let query = values();
        for kernel in levels() {
            let dot: f32 = row.iter().zip(&query).map(|(a, b)| a.to_f32() * b).sum();
            let squared: f32 = row.iter().zip(&query).map(|(a, b)| (a.to_f32() - b).powi(2)).sum();
            prop_assert!((kernel.dot(&row, &query) - dot).abs() < 1e-4);
            prop_assert!((kernel.squared_distance(&row, &query) - squared).abs() < 1e-3);
        }
    }
}
