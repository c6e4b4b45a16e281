//! A drain loses nothing that was admitted, and says so to every client in its protocol's words.

use std::sync::Arc;
use std::time::Duration;

use nearfield_gateway::body::{self, Request, Response};
use nearfield_gateway::error::Error;
use tokio::sync::Semaphore;

use crate::support::{Edge, READ, TRANSPORTS, Transport, tls};

/// Answers once `gate` has been opened for it; `entered` counts who waits.
fn gated(
    entered: Arc<Semaphore>,
    gate: Arc<Semaphore>,
) -> impl hyper::service::Service<Request, Response = Response, Error = Error, Future: Send + 'static>
+ Clone
+ Send
+ Sync
+ 'static {
    hyper::service::service_fn(move |_request: Request| {
        let (entered, gate) = (entered.clone(), gate.clone());
        async move {
            entered.add_permits(1);
            gate.acquire().await.unwrap().forget();
            Ok(Response::new(body::full(vec![b'x'; 200_000])))
        }
    })
}

const EACH: u32 = 5;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_admitted_is_answered_on_every_transport() {
    let (entered, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let edge = Edge::start(|_| {}, gated(entered.clone(), gate.clone())).await;
    let mut requests = tokio::task::JoinSet::new();
    for transport in TRANSPORTS {
        for _ in 0..EACH {
            let mut client = edge.connect(transport).await;
            requests.spawn(async move { (transport, client.get(READ).await) });
        }
    }
    let _all_inside = entered.acquire_many(3 * EACH).await.unwrap();
    let (addr, certificate) = (edge.gateway.https_addr(), edge.certificate);
    let shutdown = tokio::spawn(edge.gateway.shutdown());
    // Refused connections show that the drain has begun.
    while tls(addr, &certificate.der, &[b"http/1.1"]).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!shutdown.is_finished());
    gate.add_permits(3 * EACH as usize);
    while let Some(answered) = requests.join_next().await {
        let (transport, answer) = answered.unwrap();
        assert_eq!((answer.status, answer.body.len()), (200, 200_000), "{transport:?}");
        if transport == Transport::Http1 {
            assert_eq!(answer.header("connection"), "close");
        }
    }
    assert!(tokio::time::timeout(Duration::from_secs(20), shutdown).await.unwrap().unwrap(), "nothing was cut off");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http1_client_that_had_just_connected_still_gets_its_answer() {
    let (entered, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(1)));
    let edge = Edge::start(|_| {}, gated(entered, gate)).await;
    let mut fresh = edge.connect(Transport::Http1).await;
    let (addr, certificate) = (edge.gateway.https_addr(), edge.certificate);
    let shutdown = tokio::spawn(edge.gateway.shutdown());
    while tls(addr, &certificate.der, &[b"http/1.1"]).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let answer = fresh.get(READ).await;
    assert_eq!((answer.status, answer.header("connection")), (200, "close"));
    assert!(shutdown.await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_takes_too_long_says_so() {
    let (entered, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let short = |config: &mut nearfield_gateway::config::Config| {
        config.server.drain_timeout = Duration::from_millis(50);
    };
    let edge = Edge::start(short, gated(entered.clone(), gate)).await;
    let mut client = edge.connect(Transport::Http2).await;
    let request = tokio::spawn(async move { client.try_send(http::Request::get(READ), "").await });
    let _inside = entered.acquire().await.unwrap();
    assert!(!edge.gateway.shutdown().await);
    assert!(request.await.unwrap().is_err());
}
