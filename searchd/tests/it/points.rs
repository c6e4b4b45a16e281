//! Points: inserted, updated, deleted, fetched, and still there after a restart.

use nearfield_proto::v1;
use tonic::Code;

use crate::running::{Running, fields, point};

async fn fetch(running: &mut Running, ids: &[&str]) -> Vec<v1::Record> {
    let ids = ids.iter().map(|id| id.to_string()).collect();
    let request = v1::FetchRequest { collection: "c".into(), ids, ..Default::default() };
    running.points.fetch(request).await.unwrap().into_inner().records
}

fn update(id: &str, metadata: &str) -> v1::UpdateRequest {
    v1::UpdateRequest {
        collection: "c".into(),
        id: id.into(),
        metadata: metadata.to_owned().into(),
        ..Default::default()
    }
}

fn delete(ids: &[&str], filter: &str) -> v1::DeleteRequest {
    let ids = ids.iter().map(|id| id.to_string()).collect();
    v1::DeleteRequest { collection: "c".into(), ids, filter: filter.to_owned().into() }
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = Running::start(directory.path()).await;
    running.create("c", 2, "cosine").await;
    let points = vec![point("a", &[1.0, 0.0], r#"{"n":1}"#), point("b", &[0.0, 1.0], ""), point("d", &[1.0, 1.0], "")];
    let inserted = running.insert("c", points).await;
    assert_eq!(inserted.inserted, 3);
    let updated = running.points.update(update("a", r#"{"n":null,"m":{"x":[1,2]}}"#)).await.unwrap().into_inner();
    assert_eq!(updated.version, 2);
    let deleted = running.points.delete(delete(&["b", "nothing"], "")).await.unwrap().into_inner();
    assert_eq!(deleted.deleted, 1);
    for round in 0..2 {
        let records = fetch(&mut running, &["a", "b", "d"]).await;
        let shown: Vec<_> = records.iter().map(|r| (r.id.as_str(), r.version, &r.metadata[..])).collect();
        assert_eq!(shown, [("a", 2, &br#"{"m":{"x":[1,2]}}"#[..]), ("d", 1, b"{}")], "round {round}");
        assert_eq!(records[1].values, [1.0, 1.0]);
        running.stop().await;
        running = Running::start(directory.path()).await;
    }
    running.stop().await;
}

#[tokio::test]
async fn an_update_is_conditional_on_the_version_that_was_seen() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = Running::start(directory.path()).await;
    running.create("c", 2, "cosine").await;
    running.insert("c", vec![point("a", &[1.0, 0.0], "")]).await;
    let conditional = |version| v1::UpdateRequest { if_version: Some(version), ..update("a", r#"{"x":1}"#) };
    assert_eq!(running.points.update(conditional(1)).await.unwrap().into_inner().version, 2);
    assert_eq!(running.points.update(conditional(1)).await.unwrap_err().code(), Code::Aborted);
    assert_eq!(running.points.update(update("b", "")).await.unwrap_err().code(), Code::NotFound);
    running.insert("c", vec![point("a", &[0.0, 1.0], "")]).await;
    assert_eq!(fetch(&mut running, &["a"]).await[0].version, 3);
    running.stop().await;
}

#[tokio::test]
async fn of_racing_conditional_updates_one_wins() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = Running::start(directory.path()).await;
    running.create("c", 2, "cosine").await;
    running.insert("c", vec![point("a", &[1.0, 0.0], "")]).await;
    let race = (0..20).map(|i| {
        let mut points = running.points.clone();
        let request = v1::UpdateRequest { if_version: Some(1), ..update("a", &format!("{{\"winner\":{i}}}")) };
        async move { points.update(request).await.is_ok() }
    });
    let won = futures::future::join_all(race).await.into_iter().filter(|won| *won).count();
    assert_eq!(won, 1);
    running.stop().await;
}

#[tokio::test]
async fn a_filter_says_what_is_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = Running::start(directory.path()).await;
    running.create("c", 1, "euclidean").await;
    let points = (0..10).map(|i| point(&format!("p{i}"), &[i as f32], &format!("{{\"n\":{i}}}"))).collect();
    running.insert("c", points).await;
    let deleted = running.points.delete(delete(&[], r#"{"n":{"$gte":4}}"#)).await.unwrap().into_inner();
    assert_eq!(deleted.deleted, 6);
    let again = running.points.delete(delete(&[], r#"{"n":{"$gte":4}}"#)).await.unwrap().into_inner();
    assert_eq!(again.deleted, 0);
    let error = running.points.delete(delete(&[], r#"{"n":{"$foo":4}}"#)).await.unwrap_err();
    assert_eq!((error.code(), fields(&error)), (Code::InvalidArgument, vec!["/filter/n/$foo".into()]));
    assert_eq!(running.points.delete(delete(&[], "")).await.unwrap_err().code(), Code::InvalidArgument);
    running.stop().await;
}

#[tokio::test]
async fn a_refused_insert_names_every_fault_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = Running::start(directory.path()).await;
    running.create("c", 2, "cosine").await;
    let vectors = vec![
        point("good", &[1.0, 0.0], ""),
        point("", &[1.0, 0.0], ""),
        point("short", &[1.0], ""),
        point("nan", &[1.0, f32::NAN], ""),
        point("zero", &[0.0, 0.0], ""),
        point("json", &[1.0, 0.0], "[1]"),
    ];
    let request = v1::InsertRequest { collection: "c".into(), vectors };
    let error = running.points.insert(request).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert_eq!(
        fields(&error),
        ["/vectors/1/id", "/vectors/2/values", "/vectors/3/values/1", "/vectors/4/values", "/vectors/5/metadata"]
    );
    assert!(fetch(&mut running, &["good"]).await.is_empty());
    let large = format!("{{\"x\":\"{}\"}}", "y".repeat(64 * 1024));
    let request = v1::InsertRequest { collection: "c".into(), vectors: vec![point("a", &[1.0, 0.0], &large)] };
    let error = running.points.insert(request).await.unwrap_err();
    assert_eq!((error.code(), fields(&error)), (Code::OutOfRange, vec!["/vectors/0/metadata".into()]));
    let request = v1::InsertRequest { collection: "nowhere".into(), vectors: vec![] };
    assert_eq!(running.points.insert(request).await.unwrap_err().code(), Code::NotFound);
    running.stop().await;
}

#[tokio::test]
async fn a_scan_streams_every_live_point() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = Running::start(directory.path()).await;
    running.create("c", 1, "euclidean").await;
    let points = (0..3_000).map(|i| point(&format!("p{i}"), &[i as f32], &format!("{{\"n\":{}}}", i % 3))).collect();
    running.insert("c", points).await;
    running.points.delete(delete(&["p0"], "")).await.unwrap();
    let request = v1::ScanRequest { collection: "c".into(), filter: r#"{"n":0}"#.into(), ..Default::default() };
    let mut stream = running.points.scan(request).await.unwrap().into_inner();
    let mut seen = 0;
    while let Some(record) = stream.message().await.unwrap() {
        assert_eq!(record.values[0] as u32 % 3, 0);
        seen += 1;
    }
    assert_eq!(seen, 999);
    running.stop().await;
}
