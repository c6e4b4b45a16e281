//! What is agreed in a handshake: versions, suites, key exchange, protocols.

use std::net::SocketAddr;
use std::sync::Arc;

use nearfield_gateway::body::{self, Request, Response};
use nearfield_gateway::error::Error;
use nearfield_gateway::listener::tls::MinVersion;
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::{ClientConfig, NamedGroup, ProtocolVersion};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Edge, tls_config};

async fn hello(_request: Request) -> Result<Response, Error> {
    Ok(Response::new(body::full("hello")))
}

async fn edge(min_version: MinVersion) -> Edge {
    Edge::start(|config| config.tls.min_version = min_version, hyper::service::service_fn(hello)).await
}

fn only(root: &CertificateDer<'static>, group: &'static dyn SupportedKxGroup, alpn: &[u8]) -> ClientConfig {
    let provider = CryptoProvider { kx_groups: vec![group], ..aws_lc_rs::default_provider() };
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions();
    let mut config = builder.unwrap().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    config
}

async fn over_tcp(
    addr: SocketAddr,
    config: ClientConfig,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let name = ServerName::try_from("localhost").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(addr).await?).await
}

async fn over_quic(addr: SocketAddr, config: ClientConfig) -> Result<quinn::Connection, quinn::ConnectionError> {
    let mut endpoint = quinn::Endpoint::client("0.0.0.0:0".parse().unwrap()).unwrap();
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(config).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    endpoint.connect(addr, "localhost").unwrap().await
}

#[tokio::test(flavor = "multi_thread")]
async fn key_exchange_is_post_quantum_where_the_client_can_and_works_where_it_cannot() {
    let edge = edge(MinVersion::Tls12).await;
    let (addr, root) = (edge.gateway.https_addr(), &edge.certificate.der);
    let groups = [aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1];
    for group in groups {
        let stream = over_tcp(addr, only(root, group, b"h2")).await.unwrap();
        let agreed = stream.get_ref().1.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(agreed, group.name());
        over_quic(addr, only(root, group, b"h3")).await.unwrap();
    }
    let stream = over_tcp(addr, tls_config(root, &[b"h2"])).await.unwrap();
    let agreed = stream.get_ref().1.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(agreed, NamedGroup::X25519MLKEM768, "of all that a client offers");
}

fn tls12(root: &CertificateDer<'static>) -> ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let builder = ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS12]);
    builder.with_root_certificates(roots).with_no_client_auth()
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_1_2_is_spoken_unless_the_settings_say_1_3() {
    let edge = edge(MinVersion::Tls12).await;
    let stream = over_tcp(edge.gateway.https_addr(), tls12(&edge.certificate.der)).await.unwrap();
    assert_eq!(stream.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_2));
    let strict = self::edge(MinVersion::Tls13).await;
    over_tcp(strict.gateway.https_addr(), tls12(&strict.certificate.der)).await.unwrap_err();
    over_tcp(strict.gateway.https_addr(), tls_config(&strict.certificate.der, &[b"h2"])).await.unwrap();
}

/// A ClientHello of `version` with these suites, P-256, and ECDSA and RSA with SHA-256.
fn client_hello(version: [u8; 2], suites: &[u16]) -> Vec<u8> {
    let suites: Vec<u8> = suites.iter().flat_map(|suite| suite.to_be_bytes()).collect();
    let groups = [0, 10, 0, 4, 0, 2, 0, 23];
    let signatures = [0, 13, 0, 6, 0, 4, 4, 3, 4, 1];
    let mut body = version.to_vec();
    body.extend([7; 32]);
    body.push(0);
    body.extend((suites.len() as u16).to_be_bytes());
    body.extend(suites);
    body.extend([1, 0]);
    body.extend(((groups.len() + signatures.len()) as u16).to_be_bytes());
    body.extend(groups);
    body.extend(signatures);
    let mut record = vec![22, 3, 1];
    record.extend((body.len() as u16 + 4).to_be_bytes());
    record.extend([1, 0]);
    record.extend((body.len() as u16).to_be_bytes());
    record.extend(body);
    record
}

async fn answer(addr: SocketAddr, hello: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(hello).await.unwrap();
    let mut first = vec![0; 7];
    stream.read_exact(&mut first).await.unwrap();
    first
}

#[tokio::test(flavor = "multi_thread")]
async fn old_versions_and_old_suites_are_refused_by_an_alert() {
    let edge = edge(MinVersion::Tls12).await;
    let addr = edge.gateway.https_addr();
    const ECDHE_ECDSA_AES128_GCM: u16 = 0xc02b;
    const PROTOCOL_VERSION: u8 = 70;
    const HANDSHAKE_FAILURE: u8 = 40;
    let alert = |description| vec![21, 3, 3, 0, 2, 2, description];
    for version in [[3, 0], [3, 1], [3, 2]] {
        let refused = answer(addr, &client_hello(version, &[ECDHE_ECDSA_AES128_GCM])).await;
        assert_eq!(refused, alert(PROTOCOL_VERSION), "{version:?}");
    }
    // ECDHE-ECDSA and ECDHE-RSA with AES-CBC, RSA key exchange, 3DES, RC4, NULL.
    for suite in [0xc009, 0xc023, 0xc013, 0x009c, 0x002f, 0xc008, 0xc007, 0xc006] {
        let refused = answer(addr, &client_hello([3, 3], &[suite])).await;
        assert_eq!(refused, alert(HANDSHAKE_FAILURE), "{suite:#x}");
    }
    let taken = answer(addr, &client_hello([3, 3], &[ECDHE_ECDSA_AES128_GCM])).await;
    assert_eq!(taken[0], 22, "the same hello with a modern suite: {taken:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_offers_only_other_protocols_is_refused() {
    let edge = edge(MinVersion::Tls12).await;
    let (addr, root) = (edge.gateway.https_addr(), &edge.certificate.der);
    for other in [&b"spdy/3"[..], b"h3", b"http/1.0"] {
        let error = over_tcp(addr, tls_config(root, &[other])).await.unwrap_err();
        assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    }
    for alpn in [&[][..], &[&b"h2"[..]], &[b"hq-interop"]] {
        over_quic(addr, tls_config(root, alpn)).await.unwrap_err();
    }
    let silent = over_tcp(addr, tls_config(root, &[])).await.unwrap();
    assert_eq!(silent.get_ref().1.alpn_protocol(), None, "who offers nothing gets HTTP/1.1");
}
