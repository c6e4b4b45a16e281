//! Recall through the whole path, against the exact answers of the same searchd.

use std::collections::HashSet;

use nearfield_proto::v1;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::running::{Running, config, point};

/// Clusters of clusters: enough structure to be like embeddings, enough overlap to be hard.
fn vectors(count: usize, dimension: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut centres = SmallRng::seed_from_u64(1);
    let centres: Vec<Vec<f32>> =
        (0..64).map(|_| (0..dimension).map(|_| centres.random_range(-1.0f32..1.0)).collect()).collect();
    let mut random = SmallRng::seed_from_u64(seed);
    let mut vector = || {
        let (near, far) = (random.random_range(0..64), random.random_range(0..64));
        let share = random.random_range(0.0..0.5f32);
        let mixed = centres[near].iter().zip(&centres[far]).map(|(a, b)| a * (1.0 - share) + b * share);
        mixed.map(|value| value + random.random_range(-0.4f32..0.4)).collect()
    };
    (0..count).map(|_| vector()).collect()
}

async fn search(running: &mut Running, request: v1::SearchRequest) -> HashSet<String> {
    running.search(request).await.unwrap().results.into_iter().map(|hit| hit.vector_id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn default_settings_find_what_is_near_with_and_without_filters() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    config.engine.seal_rows = 5 * 1_024;
    let mut running = Running::with(config).await;
    running.create("c", 64, "cosine").await;
    for (block, values) in vectors(6_000, 64, 2).chunks(1_000).enumerate() {
        let points = values.iter().enumerate().map(|(i, values)| {
            let n = block * 1_000 + i;
            point(&n.to_string(), values, &format!("{{\"n\":{n},\"tenth\":{}}}", n % 10))
        });
        running.insert("c", points.collect()).await;
    }
    loop {
        let request = v1::DescribeCollectionRequest { name: "c".into(), ..Default::default() };
        if running.collections.describe(request).await.unwrap().into_inner().disk_bytes > 0 {
            break;
        }
        tokio::task::yield_now().await;
    }
    for filter in ["", r#"{"tenth":{"$lt":5}}"#, r#"{"tenth":3}"#, r#"{"n":{"$lt":25}}"#, r#"{"n":7}"#] {
        let (mut hits, mut all) = (0, 0);
        for query in vectors(60, 64, 3) {
            let request = v1::SearchRequest {
                collection: "c".into(),
                query,
                filter: filter.to_owned().into(),
                ..Default::default()
            };
            let exact = search(&mut running, v1::SearchRequest { exact: true, ..request.clone() }).await;
            let found = search(&mut running, request).await;
            assert_eq!(found.len(), exact.len(), "{filter}");
            hits += exact.intersection(&found).count();
            all += exact.len();
        }
        assert!(hits as f64 >= 0.95 * all as f64, "{filter}: recall {}", hits as f64 / all as f64);
    }
    running.stop().await;
}
