//! Rows that lie mostly along a few directions, as real ones do.

use super::*;

/// Rows that are sums of few directions, each less than the one before, and some noise.
fn flat(count: usize, dimension: usize, seed: u64) -> Table {
    let mut random = Random::new(seed);
    let mut normal = || (0..8).map(|_| random.next() as f32 / u64::MAX as f32 - 0.5).sum::<f32>();
    let directions: Vec<Vec<f32>> = {
        let mut random = Random::new(77);
        let mut any = || random.next() as f32 / u64::MAX as f32 - 0.5;
        (0..6).map(|_| (0..dimension).map(|_| any()).collect()).collect()
    };
    let mut values = Vec::with_capacity(count * dimension);
    for _ in 0..count {
        let mut row: Vec<f32> = (0..dimension).map(|_| 3.0 + 0.1 * normal()).collect();
        for (i, direction) in directions.iter().enumerate() {
            let along = normal() * 4.0 / (i + 1) as f32;
            row.iter_mut().zip(direction).for_each(|(value, part)| *value += along * part);
        }
        values.extend(row);
    }
    Table { dimension, values }
}

/// Of the ten nearest by codes, how many are among the ten nearest, of a hundred; without a walk.
fn found(graph: &Graph, rows: &Table, metric: Metric) -> usize {
    let queries = flat(40, rows.dimension, 6);
    let mut searcher = Searcher::default();
    let mut found = 0;
    for i in 0..40 {
        let query = queries.row(i);
        let distance = |row: u32| -> f32 {
            let pairs = query.iter().zip(rows.row(row));
            match metric {
                Metric::Euclidean => pairs.map(|(a, b)| (a - b) * (a - b)).sum(),
                Metric::Dot => -pairs.map(|(a, b)| a * b).sum::<f32>(),
                Metric::Cosine => {
                    let length = rows.row(row).iter().map(|value| value * value).sum::<f32>().sqrt();
                    -pairs.map(|(a, b)| a * b).sum::<f32>() / length
                }
            }
        };
        let mut order: Vec<u32> = (0..rows.len() as u32).collect();
        order.sort_by(|a, b| distance(*a).total_cmp(&distance(*b)));
        let mut take = |ranked: &[u32], _: &[f32]| {
            found += ranked.iter().filter(|row| order[..10].contains(row)).count();
            f32::NEG_INFINITY
        };
        graph.rank(&mut searcher, &Wanted { ef: 10, rescored: 100, ..wanted(query) }, &mut take).unwrap();
    }
    found / 4
}

#[test]
fn coarse_codes_rank_rows_well_that_lie_along_a_few_directions() {
    for metric in [Metric::Euclidean, Metric::Cosine, Metric::Dot] {
        // Of so few rows, or of so short ones, there are no axes.
        let rows = flat(2_000, 192, 5);
        let mut graph = Graph::build(metric, &rows, Width::One, &PLAN).unwrap();
        let with = found(&graph, &rows, metric);
        assert!(graph.space.axes.count() >= 3, "{metric:?}");
        let again = opened(graph.to_bytes()).unwrap();
        assert!(again.to_bytes() == graph.to_bytes() && again.space.axes == graph.space.axes);
        assert_eq!(found(&again, &rows, metric), with);
        graph.repack(&rows, Width::Two);
        assert!(found(&graph, &rows, metric) + 3 >= with, "{metric:?}: more bits");
        graph.repack(&rows, Width::Eight);
        assert_eq!(graph.space.axes.count(), 0, "fine codes need none");
        graph.repack(&rows, Width::One);
        assert_eq!(graph.to_bytes(), again.to_bytes(), "the same as if it had been so from the beginning");
        // The same codes without.
        graph.space.axes = Default::default();
        let grid = super::super::Grid::learn(&graph.space, &rows);
        let shape = grid.shape(Width::One, &graph.space, metric == Metric::Euclidean);
        let order = graph.rows.get();
        graph.codes = super::super::pack(&graph.space, &rows, shape, |row| order[row] as usize);
        let without = found(&graph, &rows, metric);
        assert!((100 - with) * 2 <= 100 - without, "{metric:?}: {with} with axes, {without} without");
    }
}

#[test]
fn axes_are_orthogonal_whatever_the_rows() {
    struct Alike(usize, f32);
    impl Rows for Alike {
        fn len(&self) -> usize {
            self.0
        }
        fn dimension(&self) -> usize {
            100
        }
        fn read(&self, row: u32, into: &mut [f32]) {
            into.fill(self.1);
            into[row as usize % 3] += self.1 * (row % 7) as f32;
        }
    }
    for (count, size) in [(500, 1.0), (500, 0.0), (500, 1e16), (500, 1e-16), (3, 1.0)] {
        for metric in [Metric::Euclidean, Metric::Cosine, Metric::Dot] {
            let graph = Graph::build(metric, &Alike(count, size), Width::Two, &PLAN).unwrap();
            let dims = graph.space.dims();
            let axes: Vec<&[f32]> = graph.space.axes.values().chunks_exact(dims).collect();
            for (i, one) in axes.iter().enumerate() {
                for (j, other) in axes[..=i].iter().enumerate() {
                    let dot: f32 = one.iter().zip(*other).map(|(a, b)| a * b).sum();
                    let is_missing = one.iter().all(|value| *value == 0.0);
                    let expected = if i == j && !is_missing { 1.0 } else { 0.0 };
                    assert!((dot - expected).abs() < 1e-3, "{metric:?} {count} {size}: {i}, {j}: {dot}");
                }
            }
            assert!(opened(graph.to_bytes()).is_ok());
        }
    }
}
