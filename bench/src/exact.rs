//! The exact neighbours, in integers: pixels are bytes, so squared distances are exact in u32.

use crate::dataset::FashionMnist;

pub(crate) const K: usize = 10;

/// The `K` nearest of each of the first `queries` queries, best first, ties by id.
pub(crate) fn nearest(data: &FashionMnist, queries: usize) -> Vec<Vec<usize>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut truth = vec![Vec::new(); queries];
    std::thread::scope(|scope| {
        for (t, part) in truth.chunks_mut(queries.div_ceil(threads).max(1)).enumerate() {
            let first = t * queries.div_ceil(threads).max(1);
            scope.spawn(move || {
                for (i, answer) in part.iter_mut().enumerate() {
                    *answer = nearest_to(data, data.query(first + i));
                }
            });
        }
    });
    truth
}

fn nearest_to(data: &FashionMnist, query: &[u8]) -> Vec<usize> {
    let mut best: Vec<(u32, usize)> = Vec::with_capacity(K + 1);
    for i in 0..data.points() {
        let entry = (squared_distance(query, data.point(i)), i);
        if best.len() < K || best.last().is_some_and(|worst| entry < *worst) {
            best.insert(best.partition_point(|other| *other < entry), entry);
            best.truncate(K);
        }
    }
    best.into_iter().map(|(_, i)| i).collect()
}

fn squared_distance(a: &[u8], b: &[u8]) -> u32 {
    a.iter()
        .zip(b)
        .map(|(x, y)| {
            let difference = i32::from(*x) - i32::from(*y);
            (difference * difference) as u32
        })
        .sum()
}

/// The id that image `i` is stored under: its text sorts as its number does, so ties break alike.
pub(crate) fn id(i: usize) -> String {
    format!("{i:05}")
}

pub(crate) fn number(id: &str) -> Option<usize> {
    id.parse().ok()
}

/// The share of the exact `K` that `found` has.
pub(crate) fn recall(exact: &[usize], found: &[usize]) -> f64 {
    exact.iter().filter(|i| found.contains(i)).count() as f64 / exact.len().max(1) as f64
}
