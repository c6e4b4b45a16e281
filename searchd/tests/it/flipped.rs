//! Bits that flip in files which are too large to be checked before they are served: each answer is the right one, or says that
//! it cannot be given.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nearfield_proto::v1;
use nearfield_testkit::eventually;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tonic::{Code, Status};

use crate::faults::files;
use crate::process::{Served, command, number};
use crate::running::point;

/// So that the vectors of one segment are more than 64 MiB, and its graph more than one.
const DIMENSION: usize = 2_048;
const ROWS: usize = 8_192;
/// Points after those that are sealed.
const MORE: usize = 60;
const BLOCK: usize = 256;
const CENTRES: usize = 40;
const K: usize = 5;
/// What builds the segment gives way to everything else on the machine.
const PATIENCE: Duration = Duration::from_secs(600);

fn id(row: usize) -> String {
    format!("p{row:05}")
}

struct Points(Vec<Vec<f32>>);

impl Points {
    fn new() -> Self {
        let mut random = SmallRng::seed_from_u64(7);
        let mut noise = |scale: f32| (0..DIMENSION).map(|_| random.random_range(-scale..scale)).collect::<Vec<f32>>();
        let centres: Vec<Vec<f32>> = (0..CENTRES).map(|_| noise(1.0)).collect();
        let near =
            |row: usize, offset: Vec<f32>| centres[row % CENTRES].iter().zip(offset).map(|(a, b)| a + b).collect();
        Self((0..ROWS + MORE).map(|row| near(row, noise(0.5))).collect())
    }

    /// The ids of the nearest, best first. No two are so near to each other that rounding would matter.
    fn nearest(&self, query: &[f32]) -> Vec<String> {
        let distance = |row: &Vec<f32>| row.iter().zip(query).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        let mut all: Vec<(f64, usize)> =
            self.0.iter().enumerate().map(|(row, values)| (distance(values), row)).collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        all.iter().take(K).map(|(_, row)| id(*row)).collect()
    }

    async fn insert(&self, served: &Served, rows: std::ops::Range<usize>) {
        for first in rows.clone().step_by(BLOCK) {
            let block = first..(first + BLOCK).min(rows.end);
            let vectors = block.map(|row| point(&id(row), &self.0[row], "")).collect();
            served.points().insert(v1::InsertRequest { collection: "c".into(), vectors }).await.unwrap();
        }
    }
}

async fn search(served: &Served, query: &[f32], exact: bool) -> Result<Vec<String>, Status> {
    let query = query.to_vec();
    let request = v1::SearchRequest { collection: "c".into(), query, k: K as i32, exact, ..Default::default() };
    let results = served.points().search(request).await?.into_inner().results;
    Ok(results.into_iter().map(|hit| hit.vector_id).collect())
}

/// Returns how many answers were refused.
async fn check(served: &Served, points: &Points, rows: &[usize]) -> usize {
    let mut refused = 0;
    let mut refuse = |status: Status| {
        assert_eq!(status.code(), Code::DataLoss, "{status:?}");
        refused += 1;
    };
    for row in rows {
        let (values, ids) = (&points.0[*row], vec![id(*row)]);
        match search(served, values, true).await {
            Ok(hits) => assert_eq!(hits, points.nearest(values)),
            Err(status) => refuse(status),
        }
        match search(served, values, false).await {
            Ok(hits) => assert!(hits.len() == K && hits[0] == ids[0], "{hits:?} for {ids:?}"),
            Err(status) => refuse(status),
        }
        let request = v1::FetchRequest { collection: "c".into(), ids, ..Default::default() };
        match served.points().fetch(request).await {
            Ok(fetched) => assert_eq!(fetched.into_inner().records[0].values, *values),
            Err(status) => refuse(status),
        }
    }
    refused
}

fn large(directory: &Path) -> Vec<PathBuf> {
    let is_large = |file: &PathBuf| std::fs::metadata(file).is_ok_and(|found| found.len() > 1 << 20);
    files(&directory.join("collections")).into_iter().filter(is_large).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bit_that_flips_in_a_large_file_never_makes_a_wrong_answer() {
    let directory = tempfile::tempdir().unwrap();
    let start = || {
        let mut command = command(directory.path());
        command
            .env("NEARFIELD_LOG__LEVEL", "off")
            .env("NEARFIELD_STORAGE__LOG_FILE_BYTES", "30000000")
            .env("NEARFIELD_STORAGE__CHECKPOINT_BYTES", "20000000")
            .env("NEARFIELD_ENGINE__SEAL_ROWS", ROWS.to_string());
        Served::start(command)
    };
    let seed = number("NEARFIELD_SEED").unwrap_or_else(rand::random);
    println!("NEARFIELD_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let points = Points::new();
    let served = start().await.unwrap();
    served.create("c", DIMENSION as u32).await;
    points.insert(&served, 0..ROWS).await;
    let is_sealed = || async {
        let there = |end: &str| large(directory.path()).iter().any(|file| file.to_string_lossy().ends_with(end));
        (there(".vectors") && there(".graph")).then_some(())
    };
    eventually("a segment", PATIENCE, is_sealed).await.unwrap();
    points.insert(&served, ROWS..ROWS + MORE).await;
    // Its last act is a checkpoint that names the segment.
    served.process.terminate();
    assert!(served.process.wait_exit(PATIENCE).unwrap().success());
    let mut refused = 0;
    for round in 0..number("NEARFIELD_KILLS").unwrap_or(8) {
        let all = large(directory.path());
        let file = &all[round as usize % all.len()];
        let whole = std::fs::read(file).unwrap();
        let mut rows: Vec<usize> = (0..2).map(|_| random.random_range(0..ROWS + MORE)).collect();
        let mut damaged = whole.clone();
        let byte = random.random_range(0..whole.len());
        damaged[byte] ^= 1 << random.random_range(0..8);
        // The row that it may belong to, if these are vectors.
        rows.push((byte / (DIMENSION * size_of::<f32>())).min(ROWS - 1));
        std::fs::write(file, &damaged).unwrap();
        println!("byte {byte} of {}", file.display());
        match start().await {
            Ok(served) => {
                refused += check(&served, &points, &rows).await;
                served.process.kill().unwrap();
            }
            Err(refusal) => {
                let (words, name) = (format!("{refusal:#}"), file.file_name().unwrap().to_string_lossy());
                assert!(words.contains(&*name) && !words.contains("panicked"), "byte {byte} of {name}: {words}");
            }
        }
        // A graph may have been built anew.
        std::fs::write(file, &whole).unwrap();
    }
    println!("{refused} answers were refused");
    let rows: Vec<usize> = (0..4).map(|_| random.random_range(0..ROWS + MORE)).collect();
    assert_eq!(check(&start().await.unwrap(), &points, &rows).await, 0);
}
