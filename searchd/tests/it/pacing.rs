//! Much is stored while searches are asked: writes of many points wait for what storing may take, and all of each is there when it
//! is acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use nearfield_proto::v1;
use nearfield_testkit::eventually;
use tonic::{Code, Request};

use crate::process::metrics_of;
use crate::running::{Running, config, ids, point};

const DIMENSION: usize = 8;
/// Points of one write: many, and few.
const MANY: usize = 150;
const FEW: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);

fn values(i: usize) -> Vec<f32> {
    (0..DIMENSION).map(|axis| ((i * 31 + axis * 17) % 997) as f32 + i as f32 / 1e4).collect()
}

fn insert(rows: std::ops::Range<usize>) -> v1::InsertRequest {
    let vectors = rows.map(|i| point(&format!("p{i:05}"), &values(i), "")).collect();
    v1::InsertRequest { collection: "c".into(), vectors }
}

fn nearest(i: usize) -> v1::SearchRequest {
    v1::SearchRequest { collection: "c".into(), query: values(i), k: 1, exact: true, ..Default::default() }
}

async fn paced_seconds(running: &Running) -> f64 {
    let admin = format!("http://{}", running.searchd.admin_addr());
    let read = || async {
        let text = metrics_of(&admin).await?;
        text.lines().find_map(|line| line.strip_prefix("nearfield_searchd_writes_paced_seconds_total ")?.parse().ok())
    };
    eventually("the metric", PATIENCE, read).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stores_much_waits_for_searches_and_finds_all_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    // Whatever storing takes, it owes more than it may.
    config.engine.storing_share = 1e-6;
    let mut running = Running::with(config).await;
    running.create("c", DIMENSION as u32, "euclidean").await;
    running.points.insert(insert(0..MANY)).await.unwrap();
    assert_eq!(paced_seconds(&running).await, 0.0, "nobody searched");

    let is_over = Arc::new(AtomicBool::new(false));
    let searching = tokio::spawn({
        let (mut points, is_over) = (running.points.clone(), is_over.clone());
        async move {
            let mut asked = 0;
            while !is_over.load(Ordering::Relaxed) {
                // Another one each time, so that none is answered by a cache.
                let mut search = nearest(asked % MANY);
                search.query[0] += 1e-4 * (asked % 20_000) as f32;
                assert_eq!(ids(points.search(search).await.unwrap().get_ref()), [format!("p{:05}", asked % MANY)]);
                asked += 1;
            }
        }
    });
    let points = running.points.clone();
    let writes = futures::stream::iter((1..5).map(|write| {
        let mut points = points.clone();
        async move {
            let rows = write * MANY..(write + 1) * MANY;
            points.insert(insert(rows.clone())).await.unwrap();
            for i in [rows.start, rows.end - 1] {
                assert_eq!(ids(points.search(nearest(i)).await.unwrap().get_ref()), [format!("p{i:05}")]);
            }
            points.insert(insert(rows.end - FEW..rows.end)).await.unwrap();
        }
    }));
    writes.buffer_unordered(3).collect::<Vec<()>>().await;
    assert!(paced_seconds(&running).await > 0.0, "nobody waited");

    // One whose time is over before its turn leaves nothing behind.
    let mut late = Request::new(insert(9_000..9_000 + MANY));
    late.set_timeout(Duration::from_millis(1));
    let refusal = running.points.insert(late).await.unwrap_err();
    assert!(matches!(refusal.code(), Code::Cancelled | Code::DeadlineExceeded), "{refusal}");
    is_over.store(true, Ordering::Relaxed);
    searching.await.unwrap();
    let request = v1::DescribeCollectionRequest { name: "c".into(), ..Default::default() };
    let count = || async {
        let described = running.collections.clone().describe(request.clone()).await.unwrap().into_inner();
        (described.count == 5 * MANY as u64).then_some(())
    };
    eventually("all that was acknowledged, and nothing else", PATIENCE, count).await.unwrap();
    running.stop().await;
}
