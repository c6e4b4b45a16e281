//! Filters by the whole path: as many hits as there are, of the right points, whatever way the planner takes.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use nearfield_proto::v1;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::running::{Running, config, point};

const ROWS: usize = 12_000;
const CLUSTERS: usize = 60;
/// So long that comparing all rows costs more than a walk.
const DIMENSION: usize = 128;
const QUERIES: usize = 30;

fn centres() -> Vec<Vec<f32>> {
    let mut random = SmallRng::seed_from_u64(5);
    (0..CLUSTERS).map(|_| (0..DIMENSION).map(|_| random.random_range(-1.0f32..1.0)).collect()).collect()
}

/// The clusters, those first that are nearest to the query.
fn clusters_near(query: &[f32]) -> Vec<usize> {
    let centres = centres();
    let distance = |cluster: usize| centres[cluster].iter().zip(query).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
    let mut clusters: Vec<usize> = (0..CLUSTERS).collect();
    clusters.sort_by(|a, b| distance(*a).total_cmp(&distance(*b)));
    clusters
}

/// A point near one of the centres, and how far it is along a line that runs through them all.
fn vectors(count: usize, seed: u64) -> Vec<(usize, Vec<f32>)> {
    let centres = centres();
    let mut random = SmallRng::seed_from_u64(seed);
    let near = |cluster: usize, random: &mut SmallRng| {
        centres[cluster].iter().map(|value| value + random.random_range(-0.5f32..0.5)).collect()
    };
    (0..count).map(|i| (i % CLUSTERS, near(i % CLUSTERS, &mut random))).collect()
}

/// `n` has nothing to do with the vector, `cluster` and `side` have everything.
fn metadata(i: usize, cluster: usize, values: &[f32]) -> String {
    let n = i * 7_919 % ROWS;
    let side = values[0];
    format!(
        r#"{{"n":{n},"cluster":{cluster},"side":{side},"even":{},"tags":["t{}","u{}"],"nested":{{"n":{}}}}}"#,
        n.is_multiple_of(2),
        n % 100,
        n % 7,
        n % 1_000
    )
}

async fn filled(directory: &std::path::Path) -> (Running, nearfield_searchd::Config) {
    let mut config = config(directory);
    config.engine.seal_rows = 4 * 1_024;
    let mut running = Running::with(config.clone()).await;
    running.create("c", DIMENSION as u32, "euclidean").await;
    let mut points = Vec::new();
    for (i, (cluster, values)) in vectors(ROWS, 6).iter().enumerate() {
        points.push(point(&format!("{i:05}"), values, &metadata(i, *cluster, values)));
        if points.len() == 1_000 {
            running.insert("c", std::mem::take(&mut points)).await;
        }
    }
    // Some points are replaced and some are gone, so that segments have dead rows.
    let again = vectors(ROWS, 7);
    let replaced = (0..ROWS).step_by(20).map(|i| {
        let (cluster, values) = &again[i];
        point(&format!("{i:05}"), values, &metadata(i, *cluster, values))
    });
    running.insert("c", replaced.collect()).await;
    let ids = (0..ROWS).step_by(33).map(|i| format!("{i:05}")).collect();
    let delete = v1::DeleteRequest { collection: "c".into(), ids, ..Default::default() };
    running.points.delete(delete).await.unwrap();
    (running, config)
}

fn request(query: &[f32], filter: &str) -> v1::SearchRequest {
    v1::SearchRequest {
        collection: "c".into(),
        query: query.to_vec(),
        filter: filter.to_owned().into(),
        explain: true,
        ..Default::default()
    }
}

async fn explained(running: &mut Running, filter: &str) -> v1::Explanation {
    running.search(request(&[0.0; DIMENSION], filter)).await.unwrap().explanation.unwrap()
}

/// Waits until there is a segment and all metadata are indexed.
async fn settled(running: &mut Running) {
    loop {
        let explanation = explained(running, r#"{"n":-1}"#).await;
        if explanation.segments.len() > 1 && explanation.filter.unwrap().index == "complete" {
            return;
        }
        tokio::task::yield_now().await;
    }
}

async fn found(running: &mut Running, request: v1::SearchRequest) -> (HashSet<String>, v1::Explanation) {
    let found = running.search(request).await.unwrap();
    (found.results.into_iter().map(|hit| hit.vector_id).collect(), found.explanation.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_share_and_every_correlation_gives_all_hits_and_nearly_all_the_nearest() {
    let directory = tempfile::tempdir().unwrap();
    let (mut running, _) = filled(directory.path()).await;
    settled(&mut running).await;
    let mut ways = BTreeSet::new();
    let below = |share: f64| format!(r#"{{"n":{{"$lt":{}}}}}"#, (ROWS as f64 * share).ceil());
    let near: Vec<Vec<usize>> = vectors(QUERIES, 8).iter().map(|(_, query)| clusters_near(query)).collect();
    let filters: BTreeMap<&str, Box<dyn Fn(usize) -> String + '_>> = BTreeMap::from([
        ("a half", Box::new(move |_| below(0.5)) as Box<dyn Fn(usize) -> String + '_>),
        ("a tenth", Box::new(move |_| below(0.1))),
        ("a hundredth", Box::new(move |_| below(0.01))),
        ("a thousandth", Box::new(move |_| below(0.001))),
        ("a ten-thousandth", Box::new(move |_| below(0.000_1))),
        ("nearly all", Box::new(|_| r#"{"n":{"$ne":5}}"#.into())),
        ("nothing", Box::new(|_| r#"{"n":{"$gt":1000000}}"#.into())),
        ("correlated", Box::new(|i| format!(r#"{{"cluster":{}}}"#, i % CLUSTERS))),
        ("anticorrelated", Box::new(|i| format!(r#"{{"cluster":{{"$ne":{}}}}}"#, i % CLUSTERS))),
        (
            "none of the nearer half",
            Box::new(|i| format!(r#"{{"cluster":{{"$nin":{:?}}}}}"#, &near[i][..CLUSTERS / 2])),
        ),
        ("elsewhere", Box::new(|i| format!(r#"{{"cluster":{}}}"#, (i + 17) % CLUSTERS))),
        ("one side", Box::new(|_| r#"{"side":{"$gte":0.9}}"#.into())),
        (
            "combined",
            Box::new(|i| {
                format!(
                    r#"{{"even":true,"$not":{{"cluster":{}}},"$or":[{{"tags":{{"$in":["u1","u2"]}}}},{{"nested.n":{{"$lt":300}}}}]}}"#,
                    i % CLUSTERS
                )
            }),
        ),
        ("tight and wide", Box::new(|_| r#"{"tags":"t7","side":{"$gt":-5}}"#.into())),
    ]);
    for (name, filter) in &filters {
        let (mut hits, mut all) = (0, 0);
        for (i, (_, query)) in vectors(QUERIES, 8).into_iter().enumerate() {
            let request = request(&query, &filter(i));
            let (exact, explanation) = found(&mut running, v1::SearchRequest { exact: true, ..request.clone() }).await;
            let matches = explanation.filter.unwrap().admitted;
            assert_eq!(exact.len() as u64, matches.min(10), "{name}");
            let (approximate, explanation) = found(&mut running, request).await;
            assert_eq!(approximate.len(), exact.len(), "{name}: {explanation:?}");
            ways.extend(explanation.segments.into_iter().map(|segment| segment.way));
            hits += exact.intersection(&approximate).count();
            all += exact.len();
        }
        assert!(hits as f64 >= 0.95 * all as f64, "{name}: recall {}", hits as f64 / all as f64);
    }
    assert!(ways.contains("codes") && ways.contains("rows") && ways.contains("skip"), "{ways:?}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_of_few_compares_few_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let (mut running, config) = filled(directory.path()).await;
    settled(&mut running).await;
    let few = explained(&mut running, r#"{"n":{"$gte":100,"$lt":130}}"#).await;
    let filter = few.filter.clone().unwrap();
    assert!(filter.admitted > 20 && filter.admitted <= 30, "{few:?}");
    assert_eq!((few.plan.as_str(), few.distances, filter.records_read), ("rows", filter.admitted, 0), "{few:?}");
    assert!(few.segments.iter().all(|segment| segment.counted && segment.way != "graph"), "{few:?}");
    let again = explained(&mut running, r#"{"n":{"$gte":100,"$lt":130}}"#).await;
    assert_eq!(again.filter.unwrap().cache, "hit");
    // With little effort: rows as short as these are soon compared in full.
    let quick = v1::SearchRequest { ef_search: 10, ..request(&[0.0; DIMENSION], r#"{"n":{"$gte":10}}"#) };
    let wide = running.search(quick).await.unwrap().explanation.unwrap();
    let proposing = ["codes", "two-hop", "graph"];
    assert!(
        wide.segments.iter().any(|segment| proposing.contains(&segment.way.as_str()) && segment.candidates > 0),
        "{wide:?}"
    );
    // A write is seen at once, and of what is kept only what was written is looked at anew.
    running.insert("c", vec![point("new", &[0.0; DIMENSION], r#"{"n":110}"#)]).await;
    let written = explained(&mut running, r#"{"n":{"$gte":100,"$lt":130}}"#).await.filter.unwrap();
    assert_eq!((written.cache.as_str(), written.admitted, written.records_read), ("hit", filter.admitted + 1, 1));
    running.stop().await;

    // After a restart the first answer is as good as the last; the index comes by and by.
    let mut running = Running::with(config).await;
    let first = explained(&mut running, r#"{"n":{"$gte":100,"$lt":130}}"#).await.filter.unwrap();
    assert_eq!(first.admitted, filter.admitted + 1);
    settled(&mut running).await;
    let then = explained(&mut running, r#"{"n":{"$gte":100,"$lt":131}}"#).await.filter.unwrap();
    assert_eq!((then.index.as_str(), then.records_read), ("complete", 0));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletes_and_scans_by_filter_take_what_matches() {
    let directory = tempfile::tempdir().unwrap();
    let (mut running, _) = filled(directory.path()).await;
    settled(&mut running).await;
    let scan = |filter: &str| v1::ScanRequest {
        collection: "c".into(),
        filter: filter.to_owned().into(),
        ..Default::default()
    };
    let filter = r#"{"tags":"t42","even":true}"#;
    let mut records = running.points.scan(scan(filter)).await.unwrap().into_inner();
    let mut scanned = 0;
    while let Some(record) = records.message().await.unwrap() {
        assert!(std::str::from_utf8(&record.metadata).unwrap().contains(r#""t42""#));
        scanned += 1;
    }
    let admitted = explained(&mut running, filter).await.filter.unwrap().admitted;
    assert!(admitted > 50);
    let delete = v1::DeleteRequest { collection: "c".into(), filter: filter.to_owned().into(), ..Default::default() };
    let deleted = running.points.delete(delete).await.unwrap().into_inner().deleted;
    assert_eq!((scanned, deleted), (admitted, admitted));
    assert_eq!(explained(&mut running, filter).await.filter.unwrap().admitted, 0);
    assert!(running.points.scan(scan(filter)).await.unwrap().into_inner().message().await.unwrap().is_none());
    running.stop().await;
}
