//! One HTTP client over HTTP/1.1, HTTP/2 or HTTP/3, chosen by the test and never negotiated away.
//!
//! It hides nothing: no redirects, no retries, no decompression, trailers kept. One connection is held and shared by
//! the client's clones; HTTP/1.1 opens one per request in flight.

mod connection;
mod http3;
mod http3_connect;
mod quic;
mod request;
pub mod tls;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use serde_json::Value;

pub use connection::AnswerBody;
pub(crate) use connection::{Connection, RequestBody, Way, tls_stream};
pub use quic::Quic;
pub use request::RequestBuilder;

/// How long a whole exchange may take; a test that waits longer has found a hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    Http1,
    Http2,
    Http3,
}

impl Protocol {
    pub const ALL: [Self; 3] = [Self::Http1, Self::Http2, Self::Http3];
}

/// Cheap to clone; clones share the connection.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
    headers: HeaderMap,
}

struct Inner {
    base: Uri,
    way: Way,
    protocol: Protocol,
    tls: Arc<rustls::ClientConfig>,
    connection: tokio::sync::Mutex<Option<Connection>>,
    /// Connections made so far.
    made: AtomicUsize,
}

impl Client {
    /// For the server at `base` ("https://127.0.0.1:8443"), trusting the CA in `ca`, or anyone when there is none.
    pub fn new(base: &str, ca: Option<&Path>, protocol: Protocol) -> Result<Self> {
        crate::install_crypto_provider();
        let base: Uri = base.parse()?;
        let authority = base.authority().context("an address with a host")?;
        let host = authority.host().trim_matches(['[', ']']);
        let port = authority.port_u16().context("an address with a port")?;
        let ip = if host == "localhost" { "127.0.0.1" } else { host };
        let addr = SocketAddr::new(ip.parse().with_context(|| format!("{host} is no IP address"))?, port);
        let tls = Arc::new(tls::config(ca, protocol)?);
        let connection = tokio::sync::Mutex::new(None);
        let way = Way { to: addr, from: None };
        let inner = Inner { base, way, protocol, tls, connection, made: AtomicUsize::new(0) };
        Ok(Self { inner: Arc::new(inner), headers: HeaderMap::new() })
    }

    /// The same client with another connection of its own.
    #[must_use]
    pub fn separate(&self) -> Self {
        self.by(self.inner.way)
    }

    /// The same client with connections of its own that come from `source`: one address has too few ports for very many.
    #[must_use]
    pub fn from_source(&self, source: IpAddr) -> Self {
        self.by(Way { from: Some(source), ..self.inner.way })
    }

    fn by(&self, way: Way) -> Self {
        let inner = Inner {
            base: self.inner.base.clone(),
            way,
            protocol: self.inner.protocol,
            tls: self.inner.tls.clone(),
            connection: tokio::sync::Mutex::new(None),
            made: AtomicUsize::new(0),
        };
        Self { inner: Arc::new(inner), headers: self.headers.clone() }
    }

    #[must_use]
    pub fn with_bearer(self, token: &str) -> Self {
        self.with_header("authorization", &format!("Bearer {token}"))
    }

    /// Sends this header with every request.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: &str) -> Self {
        let value = HeaderValue::from_str(value).expect("tests use header values that are valid");
        self.headers.insert(name, value);
        self
    }

    #[must_use]
    pub fn without_credentials(mut self) -> Self {
        self.headers.remove(header::AUTHORIZATION);
        self.headers.remove("x-api-key");
        self
    }

    pub fn protocol(&self) -> Protocol {
        self.inner.protocol
    }

    /// How many connections this client, with its clones, has made.
    pub fn connections(&self) -> usize {
        self.inner.made.load(Ordering::Relaxed)
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    pub fn addr(&self) -> SocketAddr {
        self.inner.way.to
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, path)
    }

    pub fn post(&self, path: &str) -> RequestBuilder {
        self.request(Method::POST, path)
    }

    pub fn put(&self, path: &str) -> RequestBuilder {
        self.request(Method::PUT, path)
    }

    pub fn delete(&self, path: &str) -> RequestBuilder {
        self.request(Method::DELETE, path)
    }

    /// `path` begins with a slash; it is sent as it stands.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        RequestBuilder::new(self.clone(), method, path.to_owned(), self.headers.clone())
    }

    /// Opens a connection of its own: for upgrades, and for tests of connections.
    pub(crate) async fn connect(&self) -> Result<Connection> {
        let inner = &self.inner;
        inner.made.fetch_add(1, Ordering::Relaxed);
        let host = inner.base.host().context("an address with a host")?.trim_matches(['[', ']']).to_owned();
        match inner.protocol {
            Protocol::Http1 => Connection::http1(inner.way, &host, inner.tls.clone()).await,
            Protocol::Http2 => Connection::http2(inner.way, &host, inner.tls.clone()).await,
            Protocol::Http3 => Connection::http3(inner.way, &host, inner.tls.clone()).await,
        }
    }

    /// A stream by extended CONNECT over HTTP/3, on a connection of its own.
    pub(crate) async fn connect_http3(&self, path: &str, headers: &HeaderMap) -> Result<tokio::io::DuplexStream> {
        let inner = &self.inner;
        let host = inner.base.host().context("an address with a host")?.trim_matches(['[', ']']);
        http3_connect::open(&self.uri(path)?, headers, (inner.way, host), &inner.tls).await
    }

    pub(crate) fn uri(&self, path: &str) -> Result<Uri> {
        let authority = self.inner.base.authority().context("an address with a host")?;
        Ok(Uri::builder().scheme("https").authority(authority.as_str()).path_and_query(path).build()?)
    }

    async fn exchange(&self, request: http::Request<RequestBody>) -> Result<StreamingAnswer> {
        let exchange = async {
            let mut connection = self.checkout().await?;
            let response = connection.send(request).await?;
            let (parts, mut body) = response.into_parts();
            match self.inner.protocol {
                // The connection is busy until the body is read: it goes along with the body, and is not used again.
                Protocol::Http1 => body.keep(connection),
                Protocol::Http2 | Protocol::Http3 => {}
            }
            Ok(StreamingAnswer { status: parts.status, headers: parts.headers, body })
        };
        match tokio::time::timeout(PATIENCE, exchange).await {
            Ok(answer) => answer,
            Err(_) => bail!("no answer after {PATIENCE:?}"),
        }
    }

    async fn checkout(&self) -> Result<Connection> {
        if self.inner.protocol == Protocol::Http1 {
            let idle = self.inner.connection.lock().await.take();
            return match idle {
                Some(connection) if connection.is_open() => Ok(connection),
                _ => self.connect().await,
            };
        }
        let mut held = self.inner.connection.lock().await;
        if let Some(connection) = held.as_ref()
            && connection.is_open()
        {
            return Ok(connection.share());
        }
        let connection = self.connect().await?;
        let shared = connection.share();
        *held = Some(connection);
        Ok(shared)
    }

    /// Takes an HTTP/1.1 connection back once its answer has been read to the end.
    async fn checkin(&self, connection: Option<Connection>) {
        if let Some(connection) = connection {
            *self.inner.connection.lock().await = Some(connection);
        }
    }
}

/// An answer read to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: HeaderMap,
}

impl Answer {
    /// A header as text, "" when absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("")
    }

    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// This answer's JSON when its status is `status`; anything else is an error that shows it.
    pub fn expect(&self, status: u16) -> Result<Value> {
        if self.status.as_u16() != status {
            bail!("status {} where {status} was expected: {}", self.status, self.text());
        }
        if self.body.is_empty() { Ok(Value::Null) } else { self.json() }
    }

    /// The problem of a refusal with this status, its shape checked (RFC 9457 and API.md).
    pub fn problem(&self, status: u16) -> Result<Value> {
        let problem = self.expect(status)?;
        anyhow::ensure!(
            self.header("content-type").starts_with("application/problem+json"),
            "a refusal of type {:?}: {problem}",
            self.header("content-type")
        );
        for key in ["type", "title", "detail", "request_id"] {
            let text = problem[key].as_str().unwrap_or("");
            anyhow::ensure!(!text.is_empty(), "a problem without {key:?}: {problem}");
        }
        anyhow::ensure!(problem["status"] == status, "the problem's own status: {problem}");
        anyhow::ensure!(
            problem["request_id"] == self.header("x-request-id"),
            "request id {:?} in the header: {problem}",
            self.header("x-request-id")
        );
        Ok(problem)
    }
}

/// An answer whose body is still coming.
pub struct StreamingAnswer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: AnswerBody,
}

impl StreamingAnswer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("")
    }

    /// Reads it to its end.
    pub async fn collect(self) -> Result<Answer> {
        self.collect_with_connection().await.map(|(answer, _)| answer)
    }

    async fn collect_with_connection(mut self) -> Result<(Answer, Option<Connection>)> {
        let mut body = Vec::new();
        while let Some(chunk) = self.body.chunk().await? {
            body.extend_from_slice(&chunk);
        }
        let trailers = self.body.trailers().await?;
        let answer = Answer { status: self.status, headers: self.headers, body: body.into(), trailers };
        Ok((answer, self.body.release()))
    }
}
