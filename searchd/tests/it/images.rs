//! Recall on real data: the demo's images of clothes, against their exact neighbours in integer arithmetic.

use std::collections::HashSet;
use std::path::Path;

use nearfield_proto::v1;

use crate::running::{Running, config, point};

const PIXELS: usize = 784;
const K: usize = 10;
/// Every form in which a collection may keep its vectors; the first is what it does when nothing is said.
const QUANTIZATIONS: [&str; 7] = ["", "none", "f16", "bf16", "int8", "binary", "pq"];

/// Rows of a NumPy file of bytes (format version 1: ten bytes, a header whose length they end with, the rows).
fn rows(file: &str) -> Vec<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo").join(file);
    let bytes = std::fs::read(&path).unwrap();
    let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    bytes[header..].chunks_exact(PIXELS).map(<[u8]>::to_vec).collect()
}

fn distance(a: &[u8], b: &[u8]) -> u32 {
    a.iter().zip(b).map(|(a, b)| u32::from(a.abs_diff(*b)).pow(2)).sum()
}

/// The ids of the nearest; ties go to the smaller id, as a text.
fn nearest(query: &[u8], images: &[Vec<u8>]) -> HashSet<String> {
    let mut all: Vec<_> =
        images.iter().enumerate().map(|(id, image)| (distance(query, image), id.to_string())).collect();
    all.sort();
    all.into_iter().take(K).map(|(_, id)| id).collect()
}

fn floats(pixels: &[u8]) -> Vec<f32> {
    pixels.iter().map(|pixel| f32::from(*pixel)).collect()
}

async fn fill(running: &mut Running, quantization: &str, images: &[Vec<u8>]) -> String {
    let name = format!("images-{quantization}");
    let settings = v1::CollectionSettings {
        dimension: PIXELS as u32,
        metric: "euclidean".into(),
        quantization: quantization.into(),
        ..Default::default()
    };
    let request = v1::CreateCollectionRequest { name: name.clone(), settings: Some(settings) };
    running.collections.create(request).await.unwrap();
    for (block, images) in images.chunks(1_000).enumerate() {
        let points = images.iter().enumerate().map(|(i, image)| {
            let id = block * 1_000 + i;
            point(&id.to_string(), &floats(image), "{}")
        });
        running.insert(&name, points.collect()).await;
    }
    name
}

/// Waits until the bulk is in a graph: nothing that is searched exactly may flatter the recall.
async fn sealed(running: &mut Running, name: &str) {
    loop {
        let request = v1::DescribeCollectionRequest { name: name.into(), ..Default::default() };
        if running.collections.describe(request).await.unwrap().into_inner().disk_bytes > 0 {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_quantization_finds_the_images_that_are_near() {
    let (images, queries) = (rows("fashion-mnist.npy"), rows("queries.npy"));
    assert_eq!((images.len(), queries.len()), (5_000, 100));
    let oracle: Vec<_> = queries.iter().map(|query| nearest(query, &images)).collect();
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    config.engine.seal_rows = 4 * 1_024;
    let mut running = Running::with(config).await;
    for quantization in QUANTIZATIONS {
        let name = fill(&mut running, quantization, &images).await;
        sealed(&mut running, &name).await;
        let mut found = 0;
        for (query, oracle) in queries.iter().zip(&oracle) {
            let request =
                v1::SearchRequest { collection: name.clone(), query: floats(query), k: K as i32, ..Default::default() };
            let answer = running.search(request).await.unwrap();
            found += answer.results.iter().filter(|hit| oracle.contains(&hit.vector_id)).count();
            for hit in &answer.results {
                let id: usize = hit.vector_id.parse().unwrap();
                let exact = f64::from(distance(query, &images[id])).sqrt();
                assert!((f64::from(hit.score) - exact).abs() <= 1e-5 * exact.max(1.0), "{hit:?} is {exact} away");
            }
        }
        let recall = found as f64 / (K * queries.len()) as f64;
        assert!(recall >= 0.95, "{quantization:?}: recall@10 {recall}");
    }
    running.stop().await;
}
