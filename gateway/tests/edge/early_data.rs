//! Early data over QUIC: what is safe is answered before the handshake is done, all else behind it, and a copy never.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nearfield_gateway::body::{self, Request, Response};
use nearfield_gateway::config::Config;
use nearfield_gateway::error::Error;
use nearfield_gateway::request::Early;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::authority::Authority;
use crate::datagrams::Way;
use crate::support::{Certificate, Client, Connection, Edge, READ, TRANSPORTS, WRITE, tls_config};

const PATIENCE: Duration = Duration::from_secs(30);
/// How often a copy is sent.
const AGAIN: Duration = Duration::from_millis(100);
/// Connections after which a client has a ticket, if it ever gets one.
const VISITS: usize = 3;

/// What reached the innermost service.
#[derive(Clone, Default)]
struct Reached {
    reads: Arc<AtomicUsize>,
    writes: Arc<AtomicUsize>,
}

impl Reached {
    /// Waits for a read beyond so many.
    async fn reads_past(&self, reads: usize) {
        let reading = async {
            while self.reads.load(Ordering::SeqCst) == reads {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, reading).await.expect("it is answered before the handshake is done");
    }

    /// The edge around it.
    async fn edge(&self, set: impl FnOnce(&mut Config)) -> Edge {
        let reached = self.clone();
        let inner = hyper::service::service_fn(move |request: Request| {
            let reached = reached.clone();
            async move {
                let count = if request.uri().path() == WRITE { &reached.writes } else { &reached.reads };
                count.fetch_add(1, Ordering::SeqCst);
                let early = request.extensions().get::<Early>().is_some();
                Ok::<_, Error>(Response::new(body::full(if early { "early" } else { "late" })))
            }
        });
        Edge::start(set, inner).await
    }
}

fn on(config: &mut Config) {
    config.tls.early_data = true;
}

/// A client that remembers sessions.
struct Visitor {
    endpoint: quinn::Endpoint,
    authorization: http::HeaderValue,
}

impl Visitor {
    fn new(edge: &Edge) -> Self {
        let mut tls = tls_config(&edge.certificate.der, &[b"h3"]);
        tls.enable_early_data = true;
        let mut endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
        let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
        endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
        Self { endpoint, authorization: edge.authorization.clone() }
    }

    async fn over(&self, quic: quinn::Connection) -> Client {
        let (mut driver, sender) = h3::client::new(h3_quinn::Connection::new(quic)).await.unwrap();
        tokio::spawn(async move { std::future::poll_fn(|cx| driver.poll_close(cx)).await });
        let connection = Connection::Http3(sender, self.endpoint.clone());
        Client { connection, authorization: Some(self.authorization.clone()) }
    }

    /// A connection that sends before its handshake is done, when the client knows how.
    fn early(&self, to: SocketAddr) -> Option<(quinn::Connection, quinn::ZeroRttAccepted)> {
        self.endpoint.connect(to, "localhost").unwrap().into_0rtt().ok()
    }

    /// Visits until it may send early next time.
    async fn known(edge: &Edge) -> Option<Self> {
        let visitor = Self::new(edge);
        for _ in 0..VISITS {
            let quic = visitor.endpoint.connect(edge.gateway.https_addr(), "localhost").unwrap().into_0rtt();
            let quic = match quic {
                Ok((quic, _)) => {
                    quic.close(0_u32.into(), b"");
                    return Some(visitor);
                }
                Err(connecting) => connecting.await.unwrap(),
            };
            let answer = visitor.over(quic).await.get(READ).await;
            assert_eq!((answer.status, &answer.body[..]), (200, &b"late"[..]));
        }
        None
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_safe_is_answered_before_the_handshake_and_all_else_behind_it() {
    let reached = Reached::default();
    let edge = reached.edge(on).await;
    let visitor = Visitor::known(&edge).await.unwrap();
    for swapped in [false, true] {
        if swapped {
            Certificate::write(edge.certificate.dir.path());
            edge.gateway.reload_certificate().unwrap();
        }
        let way = Way::to(edge.gateway.https_addr()).await;
        let (quic, accepted) = visitor.early(way.addr).unwrap();
        let mut client = visitor.over(quic.clone()).await;
        let Connection::Http3(sender, endpoint) = &client.connection else { unreachable!("it is one of HTTP/3") };
        let shared = Connection::Http3(sender.clone(), endpoint.clone());
        let mut other = Client { connection: shared, authorization: client.authorization.clone() };
        let (reads, before) = (reached.reads.load(Ordering::SeqCst), reached.writes.load(Ordering::SeqCst));
        let write = tokio::spawn(async move { other.send(http::Request::post(WRITE), "{}").await });
        let read = tokio::spawn(async move { (client.get(READ).await, client) });
        // The client has heard nothing of the server yet: all that it sends is early.
        reached.reads_past(reads).await;
        way.answer();
        let (answer, mut client) = timeout(PATIENCE, read).await.unwrap().unwrap();
        assert_eq!((answer.status, &answer.body[..]), (200, &b"early"[..]));
        assert!(accepted.await);
        assert!(!write.is_finished());
        assert_eq!(reached.writes.load(Ordering::SeqCst), before, "the client has not finished its handshake");
        way.finish();
        let written = timeout(PATIENCE, write).await.unwrap().unwrap();
        assert_eq!((written.status, reached.writes.load(Ordering::SeqCst)), (200, before + 1));
        assert_eq!(client.get(READ).await.body, "late");
        quic.close(0_u32.into(), b"");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_early_data_is_answered_by_nothing() {
    let reached = Reached::default();
    let edge = reached.edge(on).await;
    let visitor = Visitor::known(&edge).await.unwrap();
    let way = Way::to(edge.gateway.https_addr()).await;
    let (quic, _accepted) = visitor.early(way.addr).unwrap();
    let mut client = visitor.over(quic.clone()).await;
    let before = reached.reads.load(Ordering::SeqCst);
    let read = tokio::spawn(async move { client.get(READ).await });
    reached.reads_past(before).await;
    way.answer();
    way.finish();
    assert_eq!(timeout(PATIENCE, read).await.unwrap().unwrap().body, "early");
    quic.close(0_u32.into(), b"");

    // While the gateway knows the first connection, its copy is taken for a part of it, and is silently dropped.
    let first = way.first.lock().clone();
    let copier = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    copier.connect(edge.gateway.https_addr()).await.unwrap();
    let mut answer = vec![0; 2048];
    let copied = async {
        loop {
            for datagram in &first {
                copier.send(datagram).await.unwrap();
            }
            if timeout(AGAIN, copier.recv(&mut answer)).await.is_ok_and(|received| received.is_ok()) {
                return;
            }
        }
    };
    timeout(PATIENCE, copied).await.expect("a handshake of its own begins");
    let mut fresh = edge.connect(crate::support::Transport::Http3).await;
    assert_eq!(fresh.get(READ).await.body, "late");
    assert_eq!(reached.reads.load(Ordering::SeqCst), before + 2, "the client's and the fresh one's");
}

#[tokio::test(flavor = "multi_thread")]
async fn none_is_taken_unless_it_is_asked_for_nor_from_clients_with_certificates() {
    let edge = Reached::default().edge(|_| {}).await;
    assert!(Visitor::known(&edge).await.is_none());
    let authority = Authority::new();
    let edge = Reached::default()
        .edge(|config| {
            on(config);
            let dir = config.tls.certificate.parent().unwrap().to_owned();
            config.tls.client.ca = Some(authority.write(&dir));
        })
        .await;
    assert!(Visitor::known(&edge).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_hop_took_early_is_refused_unless_it_is_safe() {
    let edge = Reached::default().edge(|_| {}).await;
    for transport in TRANSPORTS {
        let mut client = edge.connect(transport).await;
        let refused = client.send(http::Request::post(WRITE).header("early-data", "1"), "{}").await;
        assert_eq!((refused.status, refused.json()["title"].as_str()), (425, Some("too-early")), "{transport:?}");
        assert_eq!(refused.header("cache-control"), "no-store", "{transport:?}");
        let answered = client.send(http::Request::get(READ).header("early-data", "1"), "").await;
        assert_eq!(answered.status, 200, "{transport:?}");
    }
}
