//! Endpoints that come from a file or from DNS, and change.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use nearfield_gateway::websocket;

use crate::name_server::NameServer;
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

/// In front of what a name server says.
async fn discovering(
    server: &NameServer,
    set: impl FnOnce(&mut nearfield_gateway::forward::discovery::Config),
) -> Inside {
    let mut config = Inside::config(Vec::new());
    config.slow_start = Duration::ZERO;
    config.discovery.nameservers = vec![server.address];
    config.discovery.dns_timeout = Duration::from_millis(500);
    set(&mut config.discovery);
    let inside = Inside::with(config, websocket::Config::default()).await;
    let come = async {
        while !inside.regions.is_healthy() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), come).await.expect("nobody was found");
    inside
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_addresses_of_a_host_are_taken_as_soon_as_its_time_is_over() {
    let a = Running::start("a", ANY.into());
    let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), a.address.port());
    let (b, c) = (Running::start("b", at("127.0.0.2")), Running::start("c", at("::1")));
    let host = |addresses: &str| [format!("--host-record=searchd.test,{addresses}")];
    let mut server = NameServer::start(1, &host("127.0.0.1"));
    let inside = discovering(&server, |discovery| {
        discovery.dns = Some(format!("searchd.test:{}", a.address.port()));
        discovery.ttl_max = Duration::from_secs(3_600);
    });
    let inside = inside.await;
    answered_by(&inside, &["a"]).await;
    server.set(&[
        "--host-record=searchd.test,127.0.0.1,::1".to_owned(),
        "--host-record=searchd.test,127.0.0.2".to_owned(),
    ]);
    answered_by(&inside, &["a", "b", "c"]).await;
    server.set(&["--cname=searchd.test,other.test".to_owned(), "--host-record=other.test,127.0.0.2".to_owned()]);
    answered_by(&inside, &["b"]).await;
    drop((a, b, c));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn srv_records_are_followed_within_bounds_and_kept_while_dns_fails() {
    let (a, b) = (Running::start("a", ANY.into()), Running::start("b", ANY.into()));
    let srv = |server: &Running, priority: u16| {
        format!("--srv-host=_grpc._tcp.test,here.test,{},{priority},10", server.address.port())
    };
    let here = || "--host-record=here.test,127.0.0.1".to_owned();
    // What DNS says is good for an hour is asked again when `ttl_max` is over.
    let mut server = NameServer::start(3_600, &[here(), srv(&a, 1), srv(&b, 2)]);
    let inside = discovering(&server, |discovery| {
        discovery.srv = Some("_grpc._tcp.test".to_owned());
        discovery.ttl_min = Duration::from_millis(50);
        discovery.ttl_max = Duration::from_millis(200);
    });
    let inside = inside.await;
    answered_by(&inside, &["a"]).await;
    server.set(&[here(), srv(&a, 1), srv(&b, 1)]);
    answered_by(&inside, &["a", "b"]).await;
    // A name that is gone, a service that is not there, and nobody who answers.
    server.set(&[]);
    answered_by(&inside, &["a", "b"]).await;
    server.set(&["--srv-host=_grpc._tcp.test".to_owned()]);
    answered_by(&inside, &["a", "b"]).await;
    server.stop();
    answered_by(&inside, &["a", "b"]).await;
    server.set(&[here(), srv(&b, 1)]);
    answered_by(&inside, &["b"]).await;
}
