//! Short searches that come alone are done on the reactor: the answers are the same, and what is long or comes with others is not.

use std::time::Duration;

use futures::StreamExt;
use nearfield_proto::v1;
use nearfield_testkit::eventually;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::process::metrics_of;
use crate::running::{Running, ids, point};

const DIMENSION: usize = 16;
const POINTS: usize = 500;
/// Searches, one after the other, by which a collection is known to be in memory.
const UNTIL_WARM: usize = 1_100;
const ASKED: usize = 50;
const PATIENCE: Duration = Duration::from_secs(60);

fn vector(random: &mut SmallRng) -> Vec<f32> {
    (0..DIMENSION).map(|_| random.random_range(-1.0..1.0)).collect()
}

fn search(query: &[f32]) -> v1::SearchRequest {
    v1::SearchRequest { collection: "c".into(), query: query.to_vec(), k: 5, ..Default::default() }
}

/// Searches that were done on a reactor.
async fn on_reactor(running: &Running) -> u64 {
    let admin = format!("http://{}", running.searchd.admin_addr());
    let read = || async {
        let text = metrics_of(&admin).await?;
        text.lines().find_map(|line| line.strip_prefix("nearfield_searchd_searches_on_reactor_total ")?.parse().ok())
    };
    eventually("the metric", PATIENCE, read).await.unwrap()
}

fn exact(all: &[Vec<f32>], query: &[f32]) -> Vec<String> {
    let distance = |i: &usize| all[*i].iter().zip(query).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
    let mut rows: Vec<usize> = (0..all.len()).collect();
    rows.sort_by(|a, b| distance(a).total_cmp(&distance(b)));
    rows.iter().take(5).map(|i| format!("p{i:04}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_alone_is_answered_where_it_came_in_and_answered_alike() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = Running::start(directory.path()).await;
    running.create("c", DIMENSION as u32, "euclidean").await;
    let mut random = SmallRng::seed_from_u64(7);
    let all: Vec<Vec<f32>> = (0..POINTS).map(|_| vector(&mut random)).collect();
    let points = all.iter().enumerate().map(|(i, values)| point(&format!("p{i:04}"), values, "")).collect();
    running.insert("c", points).await;
    for _ in 0..UNTIL_WARM {
        let query = vector(&mut random);
        assert_eq!(ids(&running.search(search(&query)).await.unwrap()), exact(&all, &query));
    }
    let before = on_reactor(&running).await;
    assert!(before > 0, "none was done where it came in");
    // What is asked for exactly may take long.
    for _ in 0..ASKED {
        let query = vector(&mut random);
        let request = v1::SearchRequest { exact: true, ..search(&query) };
        assert_eq!(ids(&running.search(request).await.unwrap()), exact(&all, &query));
    }
    assert_eq!(on_reactor(&running).await, before);
    // Many at once, and writes between them.
    let queries: Vec<Vec<f32>> = (0..ASKED).map(|_| vector(&mut random)).collect();
    let mut asking = futures::stream::iter(&queries)
        .map(|query| {
            let mut points = running.points.clone();
            async move { (query, points.search(search(query)).await.unwrap().into_inner()) }
        })
        .buffer_unordered(8);
    while let Some((query, found)) = asking.next().await {
        assert_eq!(ids(&found), exact(&all, query));
    }
    drop(asking);
    for i in 0..ASKED {
        let (id, query) = (format!("new{i}"), vector(&mut random));
        running.insert("c", vec![point(&id, &query, "")]).await;
        assert_eq!(ids(&running.search(search(&query)).await.unwrap())[0], id, "a write is found at once");
    }
    assert!(on_reactor(&running).await > before);
    running.stop().await;
}
