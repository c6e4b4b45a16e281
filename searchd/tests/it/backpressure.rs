//! More is written than can be indexed: writes wait, or are refused in words that say why; what was acknowledged is there.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use nearfield_proto::v1;
use nearfield_searchd::Config;
use nearfield_testkit::eventually;
use tonic::{Code, Request};

use crate::running::{Running, config, ids, point};

const DIMENSION: usize = 8;
/// Rows that may wait.
const BOUND: usize = 100;
const PATIENCE: Duration = Duration::from_secs(60);

fn bounded(directory: &Path) -> Config {
    let mut config = config(directory);
    config.engine.waiting_bytes = (BOUND * DIMENSION * 4) as u64;
    config
}

fn values(i: usize) -> Vec<f32> {
    (0..DIMENSION).map(|axis| ((i * 31 + axis * 17) % 997) as f32 + i as f32 / 1e4).collect()
}

fn insert(rows: std::ops::Range<usize>) -> v1::InsertRequest {
    let vectors = rows.map(|i| point(&format!("p{i:05}"), &values(i), "")).collect();
    v1::InsertRequest { collection: "c".into(), vectors }
}

fn search(i: usize) -> v1::SearchRequest {
    v1::SearchRequest { collection: "c".into(), query: values(i), k: 1, explain: true, ..Default::default() }
}

async fn count(running: &mut Running) -> u64 {
    let request = v1::DescribeCollectionRequest { name: "c".into(), ..Default::default() };
    running.collections.describe(request).await.unwrap().into_inner().count
}

async fn a_write_waits(running: &Running) {
    let admin = format!("http://{}", running.searchd.admin_addr());
    let is_held = || async {
        let text = crate::process::metrics_of(&admin).await?;
        text.contains("nearfield_searchd_writes_held 1").then_some(())
    };
    eventually("the write waits", PATIENCE, is_held).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_wait_for_room_and_everything_acknowledged_is_found_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = Running::with(bounded(directory.path())).await;
    running.create("c", DIMENSION as u32, "euclidean").await;
    let points = running.points.clone();
    let mut inserts = futures::stream::iter((0..120).map(|block| {
        let mut points = points.clone();
        async move {
            let rows = block * 20..(block + 1) * 20;
            points.insert(insert(rows.clone())).await.unwrap();
            for i in [rows.start, rows.end - 1] {
                let found = points.search(search(i)).await.unwrap().into_inner();
                assert_eq!(ids(&found), [format!("p{i:05}")]);
                let explanation = found.explanation.unwrap();
                let head = explanation.segments.iter().find(|segment| segment.segment == "head");
                let waiting = head.map_or(0, |head| head.rows);
                assert!(waiting <= BOUND as u64, "{waiting} rows wait");
            }
        }
    }))
    .buffer_unordered(4);
    while inserts.next().await.is_some() {}
    drop(inserts);
    // One message that is larger than the bound is let in by itself.
    running.points.insert(insert(2_400..2_400 + 3 * BOUND)).await.unwrap();
    assert_eq!(count(&mut running).await, 2_700);
    running.stop().await;
    let mut running = Running::with(bounded(directory.path())).await;
    assert_eq!(count(&mut running).await, 2_700);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_its_deadline_a_write_is_refused_by_the_bounds_name_and_taken_when_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = Running::with(bounded(directory.path())).await;
    running.create("c", DIMENSION as u32, "euclidean").await;
    // Where segments go there is a file: nothing is sealed.
    let obstacle = directory.path().join("collections");
    std::fs::write(&obstacle, "").unwrap();
    running.points.insert(insert(0..90)).await.unwrap();
    let mut refusal = None;
    for _ in 0..50 {
        let mut request = Request::new(insert(90..140));
        request.set_timeout(Duration::from_millis(300));
        let error = running.points.insert(request).await.unwrap_err();
        // The client keeps the deadline, too, and may be the first to say so.
        if !matches!(error.code(), Code::Cancelled | Code::DeadlineExceeded) {
            refusal = Some(error);
            break;
        }
    }
    let refusal = refusal.expect("a refusal in so many words");
    assert_eq!(refusal.code(), Code::ResourceExhausted, "{refusal}");
    let bound = bounded(directory.path()).engine.waiting_bytes.to_string();
    assert!(refusal.message().contains("engine.waiting_bytes") && refusal.message().contains(&bound), "{refusal}");
    assert_eq!(count(&mut running).await, 90, "nothing of it was stored");
    // What takes no room goes on.
    running.points.insert(insert(0..5)).await.expect("there is room for five");
    assert_eq!(ids(&running.search(search(42)).await.unwrap()), ["p00042"]);
    let delete = v1::DeleteRequest { collection: "c".into(), ids: vec!["p00089".into()], ..Default::default() };
    running.points.delete(delete).await.unwrap();
    let mut points = running.points.clone();
    let waiting = tokio::spawn(async move { points.insert(insert(90..140)).await });
    std::fs::remove_file(&obstacle).unwrap();
    tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(count(&mut running).await, 139);
    for i in [0, 88, 90, 139] {
        assert_eq!(ids(&running.search(search(i)).await.unwrap()), [format!("p{i:05}")]);
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_searches_are_asked_many_points_wait_for_the_lower_bound_and_few_do_not() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    config.engine.searched_bytes = (BOUND * DIMENSION * 4) as u64;
    let bound = config.engine.searched_bytes.to_string();
    let mut running = Running::with(config).await;
    running.create("c", DIMENSION as u32, "euclidean").await;
    // Nothing is sealed.
    std::fs::write(directory.path().join("collections"), "").unwrap();
    running.points.insert(insert(0..3 * BOUND)).await.expect("nobody searches");
    let is_over = Arc::new(AtomicBool::new(false));
    let searching = tokio::spawn({
        let (mut points, is_over) = (running.points.clone(), is_over.clone());
        async move {
            let mut asked = 0;
            while !is_over.load(Ordering::Relaxed) {
                let mut search = search(asked % BOUND);
                // Another one each time, so that none is answered by a cache.
                search.query[0] += 1e-4 * (asked % 20_000) as f32;
                points.search(search).await.unwrap();
                asked += 1;
            }
        }
    });
    eventually("a refusal that names the bound", PATIENCE, || async {
        let mut request = Request::new(insert(1_000..1_000 + BOUND));
        request.set_timeout(Duration::from_millis(300));
        // One that came before the first search is taken; the client keeps the deadline, too, and may be the first to say so.
        let refusal = running.points.clone().insert(request).await.err()?;
        let names = |text: &str| refusal.message().contains(text);
        (refusal.code() == Code::ResourceExhausted && names("engine.searched_bytes") && names(&bound)).then_some(())
    })
    .await
    .unwrap();
    running.points.insert(insert(2_000..2_005)).await.expect("few points have all the room there is");
    assert_eq!(ids(&running.search(search(2_004)).await.unwrap()), ["p02004"]);
    let mut points = running.points.clone();
    let waiting = tokio::spawn(async move { points.insert(insert(3_000..3_000 + BOUND)).await });
    a_write_waits(&running).await;
    // Without a search there is nobody to be held up.
    is_over.store(true, Ordering::Relaxed);
    searching.await.unwrap();
    tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(ids(&running.search(search(3_000)).await.unwrap()), ["p03000"]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_waits_is_told_when_its_collection_goes() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = Running::with(bounded(directory.path())).await;
    running.create("c", DIMENSION as u32, "euclidean").await;
    std::fs::write(directory.path().join("collections"), "").unwrap();
    running.points.insert(insert(0..90)).await.unwrap();
    let mut points = running.points.clone();
    let waiting = tokio::spawn(async move { points.insert(insert(90..140)).await });
    a_write_waits(&running).await;
    let request = v1::DeleteCollectionRequest { name: "c".into() };
    running.collections.delete(request).await.unwrap();
    let error = tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error.code(), Code::NotFound | Code::Aborted), "{error}");
    running.stop().await;
}
