//! A gateway on free ports with a certificate of its own, and a client for each transport.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nearfield_auth::dev::{self, DevKey, Grant};
use nearfield_auth::{Scope, Scopes};
use nearfield_gateway::body::{Request, Response};
use nearfield_gateway::config::Config;
use nearfield_gateway::error::Error;
use nearfield_gateway::gateway::Gateway;
use nearfield_gateway::listener::tls::install_provider;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) use nearfield_gateway::request::Transport;

pub(crate) const TRANSPORTS: [Transport; 3] = [Transport::Http1, Transport::Http2, Transport::Http3];

/// A self-signed certificate for localhost in files.
pub(crate) struct Certificate {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) der: CertificateDer<'static>,
}

impl Certificate {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let der = Self::write(dir.path());
        Self { dir, der }
    }

    /// A fresh certificate and key into `dir`.
    pub(crate) fn write(dir: &std::path::Path) -> CertificateDer<'static> {
        install_provider();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        fs_err::write(dir.join("leaf.pem"), made.cert.pem()).unwrap();
        fs_err::write(dir.join("leaf-key.pem"), made.signing_key.serialize_pem()).unwrap();
        made.cert.der().clone()
    }
}

pub(crate) struct Edge {
    pub(crate) gateway: Gateway,
    pub(crate) config: Config,
    pub(crate) certificate: Certificate,
    /// Of a caller who may read and write.
    pub(crate) authorization: http::HeaderValue,
}

/// Where tests send what the innermost service is to see: routes that no cache answers for.
pub(crate) const READ: &str = "/api/v1/collections";
pub(crate) const WRITE: &str = "/api/v1/update";

impl Edge {
    /// A gateway around `inner`, its settings changed by `set`.
    pub(crate) async fn start<S>(set: impl FnOnce(&mut Config), inner: S) -> Self
    where
        S: hyper::service::Service<Request, Response = Response, Error = Error> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        let certificate = Certificate::new();
        let mut config = Config::default();
        config.listener.https = vec!["127.0.0.1:0".parse().unwrap()];
        config.listener.admin = "127.0.0.1:0".parse().unwrap();
        config.server.threads = 2;
        // Tests share the machine: what it is short of says nothing of the gateway.
        config.shed.pressure.enabled = false;
        config.tls.certificate = certificate.dir.path().join("leaf.pem");
        config.tls.key = certificate.dir.path().join("leaf-key.pem");
        let key = DevKey::load_or_create(certificate.dir.path()).unwrap();
        config.auth.issuers = vec![dev::issuer(certificate.dir.path())];
        let grant = Grant {
            subject: "tester".to_owned(),
            scopes: Scopes::default().with(Scope::VectorsRead).with(Scope::VectorsWrite),
            tenant: None,
            plan: None,
            ttl: Duration::from_secs(600),
        };
        let authorization = format!("Bearer {}", key.sign(&grant).unwrap()).parse().unwrap();
        set(&mut config);
        let gateway = Gateway::start_around(config.clone(), move |_inside| async move { Ok(inner) }).await.unwrap();
        Self { gateway, config, certificate, authorization }
    }

    pub(crate) async fn connect(&self, transport: Transport) -> Client {
        self.connect_to(self.gateway.https_addr(), transport).await
    }

    pub(crate) async fn connect_to(&self, addr: SocketAddr, transport: Transport) -> Client {
        let connection = Connection::connect(addr, &self.certificate.der, transport).await;
        Client { connection, authorization: Some(self.authorization.clone()) }
    }
}

pub(crate) fn tls_config(root: &CertificateDer<'static>, alpn: &[&[u8]]) -> rustls::ClientConfig {
    install_provider();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    config
}

pub(crate) async fn tls(
    addr: SocketAddr,
    root: &CertificateDer<'static>,
    alpn: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    tls_over(TcpStream::connect(addr).await?, root, alpn).await
}

pub(crate) async fn tls_over(
    tcp: TcpStream,
    root: &CertificateDer<'static>,
    alpn: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(tls_config(root, alpn))).connect(name, tcp).await
}

type H3Sender = h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>;

/// A caller with a connection.
pub(crate) struct Client {
    pub(crate) connection: Connection,
    pub(crate) authorization: Option<http::HeaderValue>,
}

pub(crate) enum Connection {
    Http1(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    Http2(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
    /// With its endpoint, which has to stay.
    Http3(H3Sender, quinn::Endpoint),
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Connection {
    pub(crate) async fn connect(addr: SocketAddr, root: &CertificateDer<'static>, transport: Transport) -> Self {
        Self::with(addr, tls_config(root, &[]), transport).await.unwrap()
    }

    /// A connection of this transport by `config`, whatever ALPN that has.
    pub(crate) async fn with(
        addr: SocketAddr,
        mut config: rustls::ClientConfig,
        transport: Transport,
    ) -> anyhow::Result<Self> {
        config.alpn_protocols = vec![match transport {
            Transport::Http1 => b"http/1.1".to_vec(),
            Transport::Http2 => b"h2".to_vec(),
            Transport::Http3 => b"h3".to_vec(),
        }];
        if transport == Transport::Http3 {
            let any: SocketAddr = if addr.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse()?;
            let mut endpoint = quinn::Endpoint::client(any)?;
            let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(config)?;
            endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
            let quic = endpoint.connect(addr, "localhost")?.await?;
            let (mut driver, sender) = h3::client::new(h3_quinn::Connection::new(quic)).await?;
            tokio::spawn(async move { std::future::poll_fn(|cx| driver.poll_close(cx)).await });
            return Ok(Self::Http3(sender, endpoint));
        }
        let tls = TlsConnector::from(Arc::new(config));
        let io = TokioIo::new(tls.connect(ServerName::try_from("localhost")?, TcpStream::connect(addr).await?).await?);
        if transport == Transport::Http1 {
            let (sender, connection) = hyper::client::conn::http1::handshake(io).await?;
            tokio::spawn(connection.with_upgrades());
            Ok(Self::Http1(sender))
        } else {
            let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            Ok(Self::Http2(sender))
        }
    }
}

impl Client {
    /// One without credentials.
    pub(crate) async fn anonymous(addr: SocketAddr, root: &CertificateDer<'static>, transport: Transport) -> Self {
        Self { connection: Connection::connect(addr, root, transport).await, authorization: None }
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.send(http::Request::get(path), "").await
    }

    pub(crate) async fn send(&mut self, request: http::request::Builder, body: impl Into<Bytes>) -> Answer {
        self.try_send(request, body).await.unwrap()
    }

    pub(crate) async fn try_send(
        &mut self,
        request: http::request::Builder,
        body: impl Into<Bytes>,
    ) -> anyhow::Result<Answer> {
        let body = body.into();
        let mut request = request.body(body.clone())?;
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(http::header::AUTHORIZATION, authorization.clone());
        }
        match &mut self.connection {
            Connection::Http1(sender) => {
                request.headers_mut().insert("host", "localhost".parse()?);
                sender.ready().await?;
                read(sender.send_request(request.map(Full::new)).await?).await
            }
            Connection::Http2(sender) => {
                absolute(&mut request);
                sender.ready().await?;
                read(sender.send_request(request.map(Full::new)).await?).await
            }
            Connection::Http3(sender, _) => {
                absolute(&mut request);
                let mut stream = sender.send_request(request.map(|_| ())).await?;
                // The server may have answered before it took all of the body. What is left of it stands in the way of an end then,
                // which h3 takes for a fault of the connection.
                if body.is_empty() || stream.send_data(body).await.is_ok() {
                    let _ = stream.finish().await;
                }
                let response = stream.recv_response().await?;
                let mut bytes = Vec::new();
                while let Some(mut data) = stream.recv_data().await? {
                    let left = bytes::Buf::remaining(&data);
                    bytes.extend_from_slice(&bytes::Buf::copy_to_bytes(&mut data, left));
                }
                let trailers = stream.recv_trailers().await?;
                let (parts, ()) = response.into_parts();
                Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body: bytes.into(), trailers })
            }
        }
    }
}

fn absolute<B>(request: &mut http::Request<B>) {
    let path = request.uri().path_and_query().unwrap().clone();
    *request.uri_mut() =
        http::Uri::builder().scheme("https").authority("localhost").path_and_query(path).build().unwrap();
}

async fn read(response: http::Response<hyper::body::Incoming>) -> anyhow::Result<Answer> {
    let (parts, body) = response.into_parts();
    let collected = body.collect().await?;
    let trailers = collected.trailers().cloned();
    Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body: collected.to_bytes(), trailers })
}
