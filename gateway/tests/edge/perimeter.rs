//! Both ways of standing in the world: open to clients, and behind a load balancer; and what liars get from each.

use http::request::Builder;
use nearfield_gateway::body::{self, Request, Response};
use nearfield_gateway::config::Config;
use nearfield_gateway::error::Error;
use nearfield_gateway::layers::client_addr::Mode;
use nearfield_gateway::region::geo::ClientLocation;
use nearfield_gateway::request::ClientAddr;

use crate::authority::Authority;
use crate::support::{Client, Connection, Edge, READ, TRANSPORTS, Transport, tls_config};

const SECRET: &str = "a-secret-of-the-perimeter";
const PARIS: &str = "48.85,2.35";

/// Tells who it takes the client for, where, and whether the secret came this far.
async fn told(request: Request) -> Result<Response, Error> {
    let ClientAddr(client) = request.extensions().get().unwrap();
    let place = request.extensions().get::<ClientLocation>().map(|place| place.0.latitude);
    let leaked = request.headers().contains_key("x-perimeter-secret");
    Ok(Response::new(body::full(format!("{} {place:?} {leaked}", client.ip()))))
}

struct Fixture {
    edge: Edge,
    _dir: tempfile::TempDir,
}

async fn start(mode: Mode) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    fs_err::write(&path, SECRET).unwrap();
    let set = move |config: &mut Config| {
        config.client.mode = mode;
        config.client.trusted = vec!["127.0.0.0/8".parse().unwrap()];
        config.client.entries_after_client = 1;
        config.client.proof.secret_file = Some(path);
    };
    Fixture { edge: Edge::start(set, hyper::service::service_fn(told)).await, _dir: dir }
}

/// As the load balancer sends it on, `secret` apart.
fn forwarded(secret: &str) -> Builder {
    http::Request::get(READ)
        .header("x-forwarded-for", "9.9.9.9, 203.0.113.7, 34.1.1.1")
        .header("x-client-geo-lat-long", PARIS)
        .header("x-perimeter-secret", secret)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hop_with_the_proof_speaks_for_its_client_on_every_transport() {
    for mode in [Mode::Direct, Mode::Fronted] {
        let fixture = start(mode).await;
        for transport in TRANSPORTS {
            let mut client = fixture.edge.connect(transport).await;
            let answer = client.send(forwarded(SECRET), "").await;
            assert_eq!(answer.body, "203.0.113.7 Some(48.85) false", "{mode:?} {transport:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_front_of_clients_a_liar_is_a_client_like_any_other() {
    let fixture = start(Mode::Direct).await;
    let mut client = fixture.edge.connect(Transport::Http2).await;
    for request in [
        forwarded("a-guess-of-sixteen-bytes"),
        forwarded(SECRET).header("x-perimeter-secret", SECRET),
        http::Request::get(READ).header("x-forwarded-for", "203.0.113.7, 34.1.1.1").header("x-client-geo-region", "FR"),
        http::Request::get(READ),
    ] {
        assert_eq!(client.send(request, "").await.body, "127.0.0.1 None false");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_the_load_balancer_a_liar_is_refused_and_health_is_told() {
    let fixture = start(Mode::Fronted).await;
    for transport in TRANSPORTS {
        let mut client = fixture.edge.connect(transport).await;
        for request in [
            forwarded("a-guess-of-sixteen-bytes"),
            forwarded(""),
            forwarded(SECRET).header("x-perimeter-secret", SECRET),
            http::Request::get(READ),
            http::Request::get("/api/v1/openapi.json"),
            http::Request::get("/nowhere"),
        ] {
            let answer = client.send(request, "").await;
            assert_eq!(answer.status, 403, "{answer:?}");
            let problem = answer.json();
            assert_eq!(problem["title"], "outside-perimeter");
            assert!(problem["request_id"].is_string() && problem["detail"].as_str().unwrap().contains("load balancer"));
            assert!(!answer.headers.contains_key("www-authenticate"), "no credentials would help");
        }
        assert_eq!(client.get("/health/ready").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_alone_may_be_the_proof() {
    let from = async |range: &'static str| {
        let set = |config: &mut Config| {
            config.client.mode = Mode::Fronted;
            config.client.trusted = vec![range.parse().unwrap()];
        };
        let edge = Edge::start(set, hyper::service::service_fn(told)).await;
        edge.connect(Transport::Http1).await.get(READ).await.status
    };
    assert_eq!(from("127.0.0.1/32").await, 200);
    assert_eq!(from("127.0.0.2/32").await, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_may_be_the_proof() {
    let authority = Authority::new();
    let set = |config: &mut Config| {
        let dir = config.tls.certificate.parent().unwrap().to_owned();
        config.tls.client.ca = Some(authority.write(&dir));
        config.client.mode = Mode::Fronted;
        config.client.entries_after_client = 1;
        config.client.proof.peers = vec!["spiffe://example.org/balancer".to_owned()];
    };
    let edge = Edge::start(set, hyper::service::service_fn(told)).await;
    let ask = async |transport, uri: Option<&str>| {
        let mut config = tls_config(&edge.certificate.der, &[]);
        if let Some(uri) = uri {
            let leaf = authority.leaf(1, &[], &[uri]);
            let mut roots = rustls::RootCertStore::empty();
            roots.add(edge.certificate.der.clone()).unwrap();
            let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
            config = builder.with_client_auth_cert(vec![leaf.der.clone()], leaf.private_key()).unwrap();
        }
        let connection = Connection::with(edge.gateway.https_addr(), config, transport).await.unwrap();
        let mut client = Client { connection, authorization: Some(edge.authorization.clone()) };
        let answer = client.send(forwarded(SECRET), "").await;
        (answer.status, String::from_utf8(answer.body.to_vec()).unwrap())
    };
    for transport in TRANSPORTS {
        let (status, told) = ask(transport, Some("spiffe://example.org/balancer")).await;
        assert_eq!((status, told.split(' ').next()), (200, Some("203.0.113.7")), "{told}");
        assert_eq!(ask(transport, Some("spiffe://example.org/other")).await.0, 403);
        assert_eq!(ask(transport, None).await.0, 403);
    }
}
