//! Restarts: from checkpoints, with segments, and what a damaged or occupied directory is answered with.

use std::path::Path;
use std::time::Duration;

use nearfield_proto::v1;
use nearfield_searchd::Searchd;
use nearfield_testkit::eventually;

use crate::backup::metric;
use crate::faults::files;
use crate::process::{Served, command};
use crate::running::{Running, config, ids, point};

const PATIENCE: Duration = Duration::from_secs(60);

async fn settled(running: &mut Running, name: &str) -> v1::Collection {
    loop {
        let request = v1::DescribeCollectionRequest { name: name.into(), ..Default::default() };
        let collection = running.collections.describe(request).await.unwrap().into_inner();
        if collection.disk_bytes > 0 {
            return collection;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_restart_answers_as_before_with_segments_and_without_the_old_log() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    config.engine.seal_rows = 1_024;
    config.storage.log_file_bytes = 50_000;
    config.storage.checkpoint_bytes = 100_000;
    let mut running = Running::with(config.clone()).await;
    running.create("c", 4, "euclidean").await;
    let vector = |i: u32| [i as f32, (i % 7) as f32, (i % 11) as f32, 1.0];
    for block in 0..5 {
        let points =
            (block * 700..(block + 1) * 700).map(|i| point(&format!("p{i:04}"), &vector(i), &format!("{{\"n\":{i}}}")));
        running.insert("c", points.collect()).await;
    }
    settled(&mut running, "c").await;
    let delete = v1::DeleteRequest { collection: "c".into(), ids: vec!["p0010".into()], ..Default::default() };
    running.points.delete(delete).await.unwrap();
    running.insert("c", vec![point("p0011", &[9_000.0, 0.0, 0.0, 0.0], "")]).await;
    let query = |x: f32, filter: &str| v1::SearchRequest {
        collection: "c".into(),
        query: vec![x, 3.0, 5.0, 1.0],
        filter: filter.to_owned().into(),
        include: vec!["metadata".into(), "values".into()],
        ..Default::default()
    };
    let queries = [query(10.0, ""), query(2_000.0, ""), query(9_000.0, ""), query(0.0, r#"{"n":{"$gt":3000}}"#)];
    let mut before = Vec::new();
    for query in &queries {
        before.push(running.search(query.clone()).await.unwrap().results);
    }
    assert_eq!(before[2][0].vector_id, "p0011");
    running.stop().await;
    for _ in 0..2 {
        let mut running = Running::with(config.clone()).await;
        for (query, before) in queries.iter().zip(&before) {
            assert_eq!(running.search(query.clone()).await.unwrap().results, *before);
        }
        let describe = v1::DescribeCollectionRequest { name: "c".into(), ..Default::default() };
        assert_eq!(running.collections.describe(describe).await.unwrap().into_inner().count, 3_499);
        running.stop().await;
    }
    let logs = std::fs::read_dir(directory.path().join("wal")).unwrap().count();
    assert!(logs <= 3, "{logs} log files are left");
}

#[tokio::test]
async fn a_directory_has_one_user_and_a_damaged_one_none() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = Running::start(directory.path()).await;
    running.create("c", 1, "euclidean").await;
    running.insert("c", vec![point("a", &[1.0], "")]).await;
    let error = Searchd::start(config(directory.path())).await.err().unwrap();
    assert!(error.to_string().contains("another searchd uses the data directory"), "{error}");
    running.stop().await;
    let manifest = directory.path().join("MANIFEST");
    let mut bytes = std::fs::read(&manifest).unwrap();
    bytes[40] ^= 4;
    std::fs::write(&manifest, bytes).unwrap();
    let error = Searchd::start(config(directory.path())).await.err().unwrap();
    assert!(error.to_string().contains("MANIFEST is damaged"), "{error}");
}

#[tokio::test]
async fn a_cached_answer_never_hides_a_write() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = Running::start(directory.path()).await;
    running.create("c", 1, "euclidean").await;
    let query = v1::SearchRequest { collection: "c".into(), query: vec![0.0], k: 1, ..Default::default() };
    for i in (1..50).rev() {
        let inserted = running.insert("c", vec![point(&format!("p{i}"), &[i as f32], "")]).await;
        for session in [String::new(), inserted.session] {
            let found = running.search(v1::SearchRequest { session, ..query.clone() }).await.unwrap();
            assert_eq!(ids(&found), [format!("p{i}")]);
        }
    }
    running.stop().await;
}

/// Neither the size of the log nor an orderly end is a reason for a checkpoint here, but that what was sealed is new.
#[tokio::test]
async fn what_was_sealed_after_the_last_write_is_not_built_again_after_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let start = |rest_after: &str| {
        let mut command = command(directory.path());
        command.env("NEARFIELD_STORAGE__CHECKPOINT_BYTES", "1000000000").env("NEARFIELD_ENGINE__SEAL_ROWS", "1000000");
        command.env("NEARFIELD_ENGINE__REST_AFTER", rest_after);
        Served::start(command)
    };
    let served = start("100ms").await.unwrap();
    served.create("c", 4).await;
    let vectors = (0..2_000).map(|i| point(&format!("p{i:04}"), &[i as f32, 1.0, 2.0, 3.0], "")).collect();
    served.points().insert(v1::InsertRequest { collection: "c".into(), vectors }).await.unwrap();
    let is_settled = || async {
        let modified = |path: &Path| path.metadata().ok()?.modified().ok();
        let is_sealed = metric(&served, "nearfield_searchd_rows_waiting").await? == 0.0;
        let paths = files(directory.path());
        let last = paths
            .iter()
            .filter(|path| path.extension() == Some("graph".as_ref()))
            .filter_map(|path| modified(path))
            .max()?;
        (is_sealed && modified(&directory.path().join("MANIFEST"))? > last).then_some(())
    };
    eventually("a checkpoint that names the segment", PATIENCE, is_settled).await.unwrap();
    served.process.kill().unwrap();

    let served = start("1h").await.unwrap();
    assert_eq!(metric(&served, "nearfield_searchd_rows_waiting").await.unwrap(), 0.0);
    assert!(metric(&served, "nearfield_searchd_segments").await.unwrap() >= 1.0);
    let query =
        v1::SearchRequest { collection: "c".into(), query: vec![1_234.2, 1.0, 2.0, 3.0], k: 1, ..Default::default() };
    assert_eq!(served.points().search(query).await.unwrap().into_inner().results[0].vector_id, "p1234");
}
