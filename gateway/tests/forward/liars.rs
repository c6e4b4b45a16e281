//! A good searchd beside one that lies: whatever the lie, every read is answered, and soon the liar is not asked any
//! more.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::Method;
use nearfield_gateway::body;
use nearfield_gateway::request::ClientAddr;
use nearfield_gateway::websocket;
use nearfield_proto::v1;
use prost::Message;

use crate::liar::{Liar, Lie};
use crate::stand_in::Running;
use crate::support::{ANY, Inside, request};

const CLIENTS: u32 = 120;

async fn beside(lie: Lie) -> (Arc<Inside>, Liar, Running) {
    let (liar, good) = (Liar::start(lie).await, Running::start("good", ANY.into()));
    let mut config = Inside::config(vec![liar.url(), good.url()]);
    config.retry.patience = Duration::from_millis(250);
    (Arc::new(Inside::with(config, websocket::Config::default()).await), liar, good)
}

/// Every client's search is answered by the good one, several at once.
async fn check(lie: Lie) {
    let (inside, liar, good) = beside(lie).await;
    let mut clients = tokio::task::JoinSet::new();
    for first in 0..8 {
        let inside = inside.clone();
        clients.spawn(async move {
            for client in (first..CLIENTS).step_by(8) {
                assert_eq!(inside.asked_by(client).await, "good", "{lie:?}");
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    assert!(liar.asked.load(Ordering::Relaxed) > 0, "{lie:?}: nobody asked the liar");
    let ejected = format!("gateway_upstream_ejected{{region=\"local\",endpoint=\"{}\"}}", liar.url());
    assert_eq!(inside.metric(&ejected), 1.0, "{lie:?}: the liar is still asked");
    drop(good);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_lie_costs_a_search() {
    futures::future::join_all(Lie::ALL.map(check)).await;
}

/// The same for gRPC that is passed through.
async fn check_grpc(lie: Lie) {
    let (inside, liar, good) = beside(lie).await;
    let message = v1::SearchRequest { query: vec![1.0], k: 1, ..v1::SearchRequest::default() }.encode_to_vec();
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend_from_slice(&message);
    for client in 0..40 {
        let path = "/nearfield.v1.VectorSearch/Search";
        let mut call = request(Method::POST, path, "application/grpc", body::full(framed.clone()));
        *call.uri_mut() = path.parse().unwrap();
        let address = std::net::Ipv4Addr::from(0x0a00_0000 + client);
        call.extensions_mut().insert(ClientAddr((address, 1).into()));
        let answer = inside.send(call).await;
        let found = v1::SearchResponse::decode(&answer.body[5..]).unwrap();
        assert_eq!(found.results[0].vector_id, "good", "{lie:?}");
    }
    assert!(liar.asked.load(Ordering::Relaxed) > 0, "{lie:?}: nobody asked the liar");
    drop(good);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_lie_costs_a_search_by_grpc() {
    // What a message says is for the caller to read: it goes through as it is.
    let lies = Lie::ALL.into_iter().filter(|lie| *lie != Lie::BadMessage);
    futures::future::join_all(lies.map(check_grpc)).await;
}
