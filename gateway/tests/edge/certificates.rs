//! The certificate is replaced while running, for TCP and QUIC, and a bad one is refused.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nearfield_gateway::body::{self, Request, Response};
use nearfield_gateway::error::Error;
use rustls_pki_types::CertificateDer;

use crate::support::{Certificate, Edge, tls, tls_config};

async fn hello(_request: Request) -> Result<Response, Error> {
    Ok(Response::new(body::full("hello")))
}

async fn quic(addr: SocketAddr, root: &CertificateDer<'static>) -> bool {
    let mut endpoint = quinn::Endpoint::client("0.0.0.0:0".parse().unwrap()).unwrap();
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls_config(root, &[b"h3"])).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    endpoint.connect(addr, "localhost").unwrap().await.is_ok()
}

/// Waits until both transports serve `root`.
async fn served(addr: SocketAddr, root: &CertificateDer<'static>) {
    let both = async {
        while tls(addr, root, &[b"h2"]).await.is_err() || !quic(addr, root).await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), both).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_file_is_served_without_a_restart() {
    let often = |config: &mut nearfield_gateway::config::Config| {
        config.tls.reload_interval = Duration::from_millis(10);
    };
    let edge = Edge::start(often, tower::service_fn(hello)).await;
    let addr = edge.gateway.https_addr();
    served(addr, &edge.certificate.der).await;
    let fresh = Certificate::write(edge.certificate.dir.path());
    served(addr, &fresh).await;
    assert!(tls(addr, &edge.certificate.der, &[b"h2"]).await.is_err(), "the old one is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_replacement_is_refused_and_the_old_one_kept() {
    let edge = Edge::start(|_| {}, tower::service_fn(hello)).await;
    let addr = edge.gateway.https_addr();
    let dir = edge.certificate.dir.path();
    let key = fs_err::read(dir.join("leaf-key.pem")).unwrap();
    fs_err::write(dir.join("leaf-key.pem"), "no key").unwrap();
    assert!(edge.gateway.reload_certificate().is_err());
    fs_err::write(dir.join("leaf-key.pem"), key).unwrap();
    let other = Certificate::new();
    fs_err::copy(other.dir.path().join("leaf.pem"), dir.join("leaf.pem")).unwrap();
    assert!(edge.gateway.reload_certificate().is_err(), "another certificate's key");
    served(addr, &edge.certificate.der).await;
    fs_err::copy(other.dir.path().join("leaf-key.pem"), dir.join("leaf-key.pem")).unwrap();
    edge.gateway.reload_certificate().unwrap();
    served(addr, &other.der).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_tls_is_refused_and_post_quantum_key_exchange_chosen() {
    let edge = Edge::start(|_| {}, tower::service_fn(hello)).await;
    let stream = tls(edge.gateway.https_addr(), &edge.certificate.der, &[b"h2"]).await.unwrap();
    let (_, session) = stream.get_ref();
    assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    let group = session.negotiated_key_exchange_group().map(|g| g.name());
    assert_eq!(group, Some(rustls::NamedGroup::X25519MLKEM768));
}
