//! Recall through the whole path, against the exact answers of the same searchd.

use std::collections::HashSet;
use std::time::Duration;

use nearfield_proto::v1;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::running::{Running, config, fields, point};

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
    config.engine.recall_interval = Duration::from_millis(50);
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
    measuring_tells_what_was_found(&mut running).await;
    running.stop().await;
}

async fn measuring_tells_what_was_found(running: &mut Running) {
    let measure = |name: &str, samples| v1::MeasureRecallRequest { name: name.into(), samples, session: String::new() };
    let measured = running.collections.measure_recall(measure("c", 0)).await.unwrap().into_inner();
    assert_eq!(measured.samples, 50);
    // The mean of few questions at random strays; of many, less.
    let measured = running.collections.measure_recall(measure("c", 500)).await.unwrap().into_inner();
    assert!((0.94..=1.0).contains(&measured.recall_at_10) && measured.ef >= 64, "{measured:?}");
    assert!(measured.took_ms > 0.0);
    // There is always time for one question, and never for all of these.
    let mut hurried = tonic::Request::new(measure("c", 500));
    hurried.set_timeout(Duration::from_millis(100));
    match running.collections.measure_recall(hurried).await {
        Ok(measured) => assert!((1..=500).contains(&measured.into_inner().samples)),
        // The client keeps the deadline, too, and may be the first to say so.
        Err(status) => {
            assert!(matches!(status.code(), tonic::Code::DeadlineExceeded | tonic::Code::Cancelled), "{status:?}");
        }
    }
    let missing = running.collections.measure_recall(measure("nowhere", 0)).await.unwrap_err();
    assert_eq!(missing.code(), tonic::Code::NotFound);
    let many = running.collections.measure_recall(measure("c", 501)).await.unwrap_err();
    assert_eq!(fields(&many), ["/samples"]);

    running.create("empty", 4, "dot").await;
    let measured = running.collections.measure_recall(measure("empty", 0)).await.unwrap().into_inner();
    assert_eq!((measured.recall_at_10, measured.samples, measured.ef), (1.0, 0, 0));

    // The first few answers may be of hard questions; more are asked by and by.
    let watched = tokio::time::timeout(Duration::from_secs(60), async {
        let name = "nearfield_recall_at_10{tenant=\"\",collection=\"c\"} ";
        while !(0.9..=1.0).contains(&metric(running, name).await) {}
    });
    watched.await.expect("the watch finds what a measurement found");
}

/// A metric's value, once it is there.
async fn metric(running: &Running, name: &str) -> f64 {
    loop {
        let mut stream = TcpStream::connect(running.searchd.admin_addr()).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: searchd\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        if let Some(value) = answer.lines().find_map(|line| line.strip_prefix(name)) {
            return value.parse().unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_may_say_how_much_it_must_find() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    config.engine.seal_rows = 4 * 1_024;
    config.engine.recall_interval = Duration::from_millis(50);
    let mut running = Running::with(config).await;
    let settings = v1::CollectionSettings { dimension: 64, recall_target: 0.98, ..Default::default() };
    let request = v1::CreateCollectionRequest { name: "c".into(), settings: Some(settings.clone()) };
    let created = running.collections.create(request).await.unwrap().into_inner().collection.unwrap();
    let said = created.settings.unwrap();
    assert_eq!((said.recall_target, said.ef_search), (0.98, 0));
    for (block, values) in vectors(4_096, 64, 2).chunks(1_024).enumerate() {
        let points = values.iter().enumerate().map(|(i, values)| point(&(block * 1_024 + i).to_string(), values, "{}"));
        running.insert("c", points.collect()).await;
    }
    loop {
        let request = v1::DescribeCollectionRequest { name: "c".into(), ..Default::default() };
        if running.collections.describe(request).await.unwrap().into_inner().disk_bytes > 0 {
            break;
        }
        tokio::task::yield_now().await;
    }
    searches_find_what_they_must(&mut running).await;
    // Then by what users ask.
    for query in vectors(200, 64, 4) {
        search(&mut running, v1::SearchRequest { collection: "c".into(), query, ..Default::default() }).await;
    }
    let learned = tokio::time::timeout(Duration::from_secs(60), async {
        while metric(&running, "nearfield_searchd_graphs_tried_total ").await == 0.0 {}
    });
    learned.await.expect("the segment learns from what is asked");
    searches_find_what_they_must(&mut running).await;
    let both = v1::SearchRequest {
        collection: "c".into(),
        query: vec![1.0; 64],
        recall_target: 0.9,
        ef_search: 9,
        ..Default::default()
    };
    assert_eq!(fields(&running.search(both).await.unwrap_err()), ["/ef_search", "/recall_target"]);
    let both = v1::CollectionSettings { ef_search: 9, ..settings };
    let request = v1::CreateCollectionRequest { name: "d".into(), settings: Some(both) };
    let refused = running.collections.create(request).await.unwrap_err();
    assert_eq!(fields(&refused), ["/ef_search", "/recall_target"]);
    running.stop().await;
}

async fn searches_find_what_they_must(running: &mut Running) {
    for (target, least) in [(0.0, 0.97), (0.9, 0.88), (0.99, 0.98)] {
        let (mut hits, mut all) = (0, 0);
        for query in vectors(60, 64, 3) {
            let request = v1::SearchRequest { collection: "c".into(), query, ..Default::default() };
            let exact = search(running, v1::SearchRequest { exact: true, ..request.clone() }).await;
            let found = search(running, v1::SearchRequest { recall_target: target, ..request }).await;
            hits += exact.intersection(&found).count();
            all += exact.len();
        }
        assert!(hits as f64 >= least * all as f64, "{target}: recall {}", hits as f64 / all as f64);
    }
}
