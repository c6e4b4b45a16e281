//! Sessions are resumed: without the dear part of a handshake, over a swap of certificates, at another gateway.

use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine;
use nearfield_gateway::body::{self, Request, Response};
use nearfield_gateway::error::Error;
use nearfield_testkit::tls::TrustAnyone;
use rustls::ClientConfig;

use crate::authority::Authority;
use crate::support::{Certificate, Client, Connection, Edge, READ, TRANSPORTS, Transport};

async fn hello(_request: Request) -> Result<Response, Error> {
    Ok(Response::new(body::full("hello")))
}

/// A client that remembers sessions.
struct Returning {
    config: ClientConfig,
    seen: Arc<TrustAnyone>,
    transport: Transport,
}

impl Returning {
    fn new(transport: Transport, versions: &[&'static rustls::SupportedProtocolVersion]) -> Self {
        let seen = Arc::new(TrustAnyone::default());
        let builder = ClientConfig::builder_with_protocol_versions(versions).dangerous();
        let config = builder.with_custom_certificate_verifier(seen.clone()).with_no_client_auth();
        Self { config, seen, transport }
    }

    /// Connects and asks once; whether the session was resumed.
    async fn comes_back(&self, edge: &Edge) -> bool {
        let before = self.seen.shown();
        let connection = Connection::with(edge.gateway.https_addr(), self.config.clone(), self.transport).await;
        let mut client = Client { connection: connection.unwrap(), authorization: Some(edge.authorization.clone()) };
        assert_eq!(client.get(READ).await.body, "hello");
        self.seen.shown() == before
    }
}

/// Every transport with every version that it has.
fn clients() -> Vec<Returning> {
    let mut all: Vec<_> =
        TRANSPORTS.into_iter().map(|transport| Returning::new(transport, &[&rustls::version::TLS13])).collect();
    all.push(Returning::new(Transport::Http2, &[&rustls::version::TLS12]));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_resumed_even_over_a_swap_of_certificates() {
    let edge = Edge::start(|_| {}, hyper::service::service_fn(hello)).await;
    let clients = clients();
    for client in &clients {
        assert!(!client.comes_back(&edge).await);
        assert!(client.comes_back(&edge).await, "{:?}", client.transport);
    }
    Certificate::write(edge.certificate.dir.path());
    edge.gateway.reload_certificate().unwrap();
    for client in &clients {
        assert!(client.comes_back(&edge).await, "{:?}", client.transport);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_who_is_admitted_ends_all_sessions() {
    let authority = Authority::new();
    let set = |config: &mut nearfield_gateway::config::Config| {
        let dir: PathBuf = config.tls.certificate.parent().unwrap().to_owned();
        config.tls.client.ca = Some(authority.write(&dir));
    };
    let edge = Edge::start(set, hyper::service::service_fn(hello)).await;
    let clients = clients();
    for client in &clients {
        client.comes_back(&edge).await;
        assert!(client.comes_back(&edge).await, "{:?}", client.transport);
    }
    Authority::new().write(edge.certificate.dir.path());
    edge.gateway.reload_certificate().unwrap();
    for client in &clients {
        assert!(!client.comes_back(&edge).await, "{:?}", client.transport);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_that_share_secrets_resume_each_others_sessions_and_others_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tickets");
    let secret = base64::engine::general_purpose::STANDARD.encode([7; 48]);
    fs_err::write(&file, format!("# shared\n{secret}\n")).unwrap();
    let sharing = |config: &mut nearfield_gateway::config::Config| config.tls.ticket_keys = Some(file.clone());
    let one = Edge::start(sharing, hyper::service::service_fn(hello)).await;
    let other = Edge::start(sharing, hyper::service::service_fn(hello)).await;
    let stranger = Edge::start(|_| {}, hyper::service::service_fn(hello)).await;
    for client in clients() {
        client.comes_back(&one).await;
        assert!(client.comes_back(&other).await, "{:?}", client.transport);
        assert!(!client.comes_back(&stranger).await, "{:?}", client.transport);
    }
}
