//! The certificate is replaced while running, for TCP and QUIC, and a bad one is refused.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nearfield_gateway::body::{self, Request, Response};
use nearfield_gateway::error::Error;
use nearfield_gateway::listener::tls::CertificateConfig;
use rustls_pki_types::{CertificateDer, ServerName};

use crate::authority::Authority;
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
    let edge = Edge::start(often, hyper::service::service_fn(hello)).await;
    let addr = edge.gateway.https_addr();
    served(addr, &edge.certificate.der).await;
    let fresh = Certificate::write(edge.certificate.dir.path());
    served(addr, &fresh).await;
    assert!(tls(addr, &edge.certificate.der, &[b"h2"]).await.is_err(), "the old one is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_replacement_is_refused_and_the_old_one_kept() {
    let edge = Edge::start(|_| {}, hyper::service::service_fn(hello)).await;
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

/// Waits until a client that asks for `name` is shown a certificate by `root`.
async fn served_as(addr: SocketAddr, name: &'static str, root: &CertificateDer<'static>) {
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls_config(root, &[b"h2"])));
    let over_quic = || async {
        let mut endpoint = quinn::Endpoint::client("0.0.0.0:0".parse().unwrap()).unwrap();
        let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls_config(root, &[b"h3"])).unwrap();
        endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
        endpoint.connect(addr, name).unwrap().await.is_ok()
    };
    let both = async {
        loop {
            let tcp = tokio::net::TcpStream::connect(addr).await.unwrap();
            if connector.connect(ServerName::try_from(name).unwrap(), tcp).await.is_ok() && over_quic().await {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), both).await;
    waited.unwrap_or_else(|_| panic!("{name} is not served"));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_name_has_its_certificate_and_each_is_replaced_or_refused_by_itself() {
    let (api, wild, later) = (Authority::new(), Authority::new(), Authority::new());
    let dir = tempfile::tempdir().unwrap();
    let files = |authority: &Authority, names: &[&str], stem: &str| {
        let (certificate, key) = authority.leaf(1, names, &[]).write(dir.path(), stem);
        CertificateConfig { certificate, key, names: Vec::new() }
    };
    let certificates =
        vec![files(&api, &["api.example.com"], "api"), files(&wild, &["*.example.com", "example.com"], "wild")];
    let edge = Edge::start(|config| config.tls.certificates = certificates, hyper::service::service_fn(hello)).await;
    let addr = edge.gateway.https_addr();
    served_as(addr, "api.example.com", &api.der).await;
    served_as(addr, "www.example.com", &wild.der).await;
    served_as(addr, "example.com", &wild.der).await;
    served(addr, &edge.certificate.der).await;

    fs_err::write(dir.path().join("api-key.pem"), "no key").unwrap();
    files(&later, &["*.example.com"], "wild");
    let error = edge.gateway.reload_certificate().unwrap_err();
    assert!(error.to_string().contains("api-key.pem"), "{error}");
    served_as(addr, "www.example.com", &later.der).await;
    served_as(addr, "api.example.com", &api.der).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_has_expired_does_not_replace_one_that_holds() {
    let edge = Edge::start(|_| {}, hyper::service::service_fn(hello)).await;
    let (addr, dir) = (edge.gateway.https_addr(), edge.certificate.dir.path());
    let mut expired = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    expired.not_before = rcgen::date_time_ymd(2020, 1, 1);
    expired.not_after = rcgen::date_time_ymd(2021, 1, 1);
    Authority::new().sign(expired).write(dir, "leaf");
    let error = edge.gateway.reload_certificate().unwrap_err();
    assert!(error.to_string().contains("expired"), "{error}");
    served(addr, &edge.certificate.der).await;
}
