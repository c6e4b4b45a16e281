//! Two searchds that follow each other: writes at either are visible at both, through restarts and gaps.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use nearfield_proto::v1;
use tonic::Request;

use crate::running::{Running, config, ids, point};

/// A port that is free now.
fn free() -> SocketAddr {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap()
}

async fn start(directory: &Path, own: SocketAddr, peer: SocketAddr) -> Running {
    let mut config = config(directory);
    config.server.listen = own;
    config.replication.peers = vec![format!("http://{peer}")];
    // So little that a peer that was away for long gets the state instead of the log.
    config.replication.kept_log_bytes = 0;
    config.storage.log_file_bytes = 2_000;
    config.storage.checkpoint_bytes = 4_000;
    Running::with(config).await
}

/// What a read with the session sees; it waits for the write to arrive.
async fn all(running: &mut Running, session: &str) -> Vec<String> {
    let search = v1::SearchRequest {
        collection: "c".into(),
        query: vec![0.0],
        k: 10_000,
        session: session.into(),
        ..Default::default()
    };
    let mut request = Request::new(search);
    request.set_timeout(Duration::from_secs(20));
    let found = running.points.search(request).await.unwrap().into_inner();
    ids(&found).into_iter().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_at_either_are_seen_at_both_through_restarts() {
    let (left_home, right_home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (left_port, right_port) = (free(), free());
    let mut left = start(left_home.path(), left_port, right_port).await;
    let mut right = start(right_home.path(), right_port, left_port).await;
    left.create("c", 1, "euclidean").await;
    let first = left.insert("c", vec![point("a", &[1.0], "{\"n\":1}")]).await.session;
    assert_eq!(all(&mut right, &first).await, ["a"]);
    let second = right.insert("c", vec![point("b", &[2.0], "")]).await.session;
    assert_eq!(all(&mut left, &second).await, ["a", "b"]);
    let request = v1::DeleteRequest { collection: "c".into(), ids: vec!["a".into()], ..Default::default() };
    let third = right.points.delete(request).await.unwrap().into_inner().session;
    assert_eq!(all(&mut left, &third).await, ["b"]);

    // One is away while much is written, so that the other's log no longer reaches back.
    right.stop().await;
    let mut session = String::new();
    for i in 0..60 {
        let name = format!("x{i:02}");
        session = left
            .insert("c", vec![point(&name, &[3.0 + i as f32], "{\"long\":\"text that fills the log\"}")])
            .await
            .session;
    }
    left.stop().await;
    let mut left = start(left_home.path(), left_port, right_port).await;
    let mut right = start(right_home.path(), right_port, left_port).await;
    assert_eq!(all(&mut right, &session).await.len(), 61);
    let last = right.insert("c", vec![point("z", &[-1.0], "")]).await.session;
    assert_eq!(all(&mut left, &last).await[0], "z");
    assert_eq!(all(&mut left, "").await, all(&mut right, "").await);
    left.stop().await;
    right.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_newcomer_gets_everything() {
    let (old_home, new_home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (old_port, new_port) = (free(), free());
    let mut old = start(old_home.path(), old_port, new_port).await;
    old.create("c", 1, "euclidean").await;
    for i in 0..40 {
        old.insert("c", vec![point(&format!("p{i:02}"), &[i as f32], "{\"n\":1}")]).await;
    }
    let request = v1::UpdateRequest {
        collection: "c".into(),
        id: "p07".into(),
        values: vec![-5.0],
        metadata: "{\"m\":2}".into(),
        ..Default::default()
    };
    let session = old.points.update(request).await.unwrap().into_inner().session;
    old.stop().await;
    let old = start(old_home.path(), old_port, new_port).await;
    let mut new = start(new_home.path(), new_port, old_port).await;
    let found = all(&mut new, &session).await;
    assert_eq!((found.len(), found[0].as_str()), (40, "p00"));
    let request = v1::FetchRequest { collection: "c".into(), ids: vec!["p07".into()], ..Default::default() };
    let record = new.points.fetch(request).await.unwrap().into_inner().records.remove(0);
    assert_eq!((record.values[0], record.version, &record.metadata[..]), (-5.0, 2, &br#"{"n":1,"m":2}"#[..]));
    old.stop().await;
    new.stop().await;
}
