//! Endpoints that come from a file, and change.

use std::path::Path;
use std::time::Duration;

use nearfield_gateway::websocket;

use crate::stand_in::Running;
use crate::support::{ANY, Inside};

/// Waits until many clients are answered by just these.
async fn answered_by(inside: &Inside, expected: &[&str]) {
    let settled = async {
        loop {
            let mut names = futures::future::join_all((0..40).map(|client| inside.asked_by(client))).await;
            names.sort_unstable();
            names.dedup();
            if names == expected {
                return;
            }
        }
    };
    let settled = tokio::time::timeout(Duration::from_secs(20), settled).await;
    assert!(settled.is_ok(), "never answered by {expected:?}");
}

/// Puts a new file over an old one, as whoever writes such files should.
fn put(file: &Path, text: &str) {
    let beside = file.with_extension("new");
    fs_err::write(&beside, text).unwrap();
    fs_err::rename(beside, file).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_followed_and_a_bad_one_is_not() {
    let (a, b) = (Running::start("a", ANY.into()), Running::start("b", ANY.into()));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("endpoints.toml");
    put(&file, &format!("endpoints = [{:?}]", a.url()));
    let mut config = Inside::config(Vec::new());
    config.slow_start = Duration::ZERO;
    config.discovery.file = Some(file.clone());
    config.discovery.file_interval = Duration::from_millis(10);
    let inside = Inside::with(config, websocket::Config::default()).await;
    answered_by(&inside, &["a"]).await;
    put(&file, &format!("endpoints = [{:?}, {{ url = {:?}, weight = 2 }}]", a.url(), b.url()));
    answered_by(&inside, &["a", "b"]).await;
    for bad in ["endpoints = [", "endpoints = []", "endpoints = [\"searchd\"]", "endpoint = []"] {
        put(&file, bad);
        answered_by(&inside, &["a", "b"]).await;
    }
    put(&file, &format!("endpoints = [{:?}]", b.url()));
    answered_by(&inside, &["b"]).await;
}
