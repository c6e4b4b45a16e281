//! Which region takes whose requests, by what clients see of it.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;
use nearfield_gateway::region::Config;
use nearfield_gateway::request::ClientAddr;
use nearfield_gateway::{body, websocket};

use crate::support::{Inside, region, request, searchd, searchd_at};

/// How many of a hundred clients each region answers.
async fn answered(inside: &Inside) -> BTreeMap<String, u32> {
    let mut by_region = BTreeMap::new();
    for client in 0..100 {
        let mut request = request(Method::GET, "/collections", "application/json", body::empty());
        let address = std::net::Ipv4Addr::from(0x0a00_0000 + client);
        request.extensions_mut().insert(ClientAddr((address, 1).into()));
        let answer = inside.send(request).await;
        let region = answer.headers["nearfield-region"].to_str().unwrap().to_owned();
        *by_region.entry(region).or_default() += 1;
    }
    by_region
}

async fn until(inside: &Inside, health: &str) {
    let known = async {
        while inside.get("/regions").await.json()["regions"][0]["health"] != health {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), known).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_was_lost_gets_its_clients_back_in_steps() {
    let (home, here, data) = searchd().await;
    let (_away, there, _more) = searchd().await;
    let file = data.path().join("topology.toml");
    let regions = [region("us-east1", "americas", -80.0, &[]), region("europe-west1", "europe", 4.0, &[&there])];
    fs_err::write(&file, regions.concat()).unwrap();
    let mut topology = Config { file: Some(file), ..Config::default() };
    topology.comeback.step = 0.3;
    let mut upstream = Inside::config(vec![here]);
    upstream.slow_start = Duration::ZERO;
    let inside = Inside::placed(&topology, "us-east1", upstream, websocket::Config::default()).await;
    let all = |region: &str| BTreeMap::from([(region.to_owned(), 100)]);
    assert_eq!(answered(&inside).await, all("us-east1"));
    let address = home.grpc_addr();
    home.shutdown().await;
    until(&inside, "unhealthy").await;
    assert_eq!(answered(&inside).await, all("europe-west1"));
    let _home = searchd_at(address, data.path()).await;
    until(&inside, "healthy").await;
    assert_eq!(inside.get("/regions").await.json()["regions"][0]["share"], 0.3);
    let back = answered(&inside).await;
    assert!((15..45).contains(&back["us-east1"]), "{back:?}");
    assert_eq!(answered(&inside).await, back, "the same clients every time");
}
