//! One connection of one protocol, and the body of an answer that came over it.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio_rustls::client::TlsStream;

use super::http3::{Http3, Http3Body};

pub(crate) type RequestBody = UnsyncBoxBody<Bytes, std::io::Error>;

#[derive(Clone)]
pub(crate) struct Http2 {
    sender: http2::SendRequest<RequestBody>,
    /// Whether the server's SETTINGS allow extended CONNECT (RFC 8441).
    extended_connect: watch::Receiver<bool>,
}

pub(crate) enum Connection {
    Http1(http1::SendRequest<RequestBody>),
    Http2(Http2),
    Http3(Http3),
}

impl Connection {
    pub(crate) async fn http1(addr: Way, host: &str, tls: Arc<rustls::ClientConfig>) -> Result<Self> {
        let stream = TokioIo::new(tls_stream(addr, host, tls).await?);
        let (sender, connection) = http1::handshake(stream).await.context("HTTP/1.1 handshake")?;
        tokio::spawn(connection.with_upgrades());
        Ok(Self::Http1(sender))
    }

    pub(crate) async fn http2(addr: Way, host: &str, tls: Arc<rustls::ClientConfig>) -> Result<Self> {
        let stream = tls_stream(addr, host, tls).await?;
        let alpn = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        anyhow::ensure!(alpn.as_deref() == Some(b"h2"), "the server chose {alpn:?} where h2 was offered");
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(1 << 20).initial_connection_window_size(4 << 20);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.context("HTTP/2 handshake")?;
        let (learned, extended_connect) = watch::channel(false);
        tokio::spawn(async move {
            let mut connection = pin!(connection);
            // hyper tells nobody when SETTINGS have come: one looks.
            let mut look = tokio::time::interval(Duration::from_millis(5));
            loop {
                tokio::select! {
                    _ = connection.as_mut() => return,
                    _ = look.tick(), if !*learned.borrow() && !learned.is_closed() => {
                        learned.send_if_modified(|known| {
                            std::mem::replace(known, connection.is_extended_connect_protocol_enabled()) != *known
                        });
                    }
                }
            }
        });
        Ok(Self::Http2(Http2 { sender, extended_connect }))
    }

    pub(crate) async fn http3(addr: Way, host: &str, tls: Arc<rustls::ClientConfig>) -> Result<Self> {
        Http3::connect(addr, host, &tls).await.map(Self::Http3)
    }

    pub(crate) fn is_open(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_ready(),
            Self::Http2(connection) => !connection.sender.is_closed(),
            Self::Http3(connection) => connection.is_open(),
        }
    }

    /// Another handle on a multiplexed connection.
    pub(crate) fn share(&self) -> Self {
        match self {
            Self::Http1(_) => unreachable!("an HTTP/1.1 connection serves one request at a time"),
            Self::Http2(connection) => Self::Http2(connection.clone()),
            Self::Http3(connection) => Self::Http3(connection.clone()),
        }
    }

    pub(crate) async fn send(&mut self, mut request: Request<RequestBody>) -> Result<Response<AnswerBody>> {
        match self {
            Self::Http1(sender) => {
                let authority = request.uri().authority().context("a full URI")?.to_string();
                let path = request.uri().path_and_query().context("a path")?.as_str().parse()?;
                request.headers_mut().entry(http::header::HOST).or_insert(authority.parse()?);
                *request.uri_mut() = path;
                sender.ready().await?;
                Ok(sender.send_request(request).await?.map(|body| AnswerBody::new(Source::Hyper(body))))
            }
            Self::Http2(Http2 { sender, .. }) => {
                sender.ready().await?;
                Ok(sender.send_request(request).await?.map(|body| AnswerBody::new(Source::Hyper(body))))
            }
            Self::Http3(connection) => {
                Ok(connection.send(request).await?.map(|body| AnswerBody::new(Source::Http3(Box::new(body)))))
            }
        }
    }

    /// Waits until the server's SETTINGS have said that extended CONNECT (RFC 8441) may be used.
    pub(crate) async fn wait_for_extended_connect(&self) -> Result<()> {
        let Self::Http2(connection) = self else { bail!("extended CONNECT is of HTTP/2") };
        let mut enabled = connection.extended_connect.clone();
        let wait = tokio::time::timeout(Duration::from_secs(5), enabled.wait_for(|enabled| *enabled));
        wait.await.context("no SETTINGS_ENABLE_CONNECT_PROTOCOL came")??;
        Ok(())
    }

    /// The raw bytes after a successful upgrade or extended CONNECT.
    pub(crate) async fn send_upgrade(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<hyper::body::Incoming>> {
        match self {
            Self::Http1(sender) => Ok(sender.send_request(request).await?),
            Self::Http2(Http2 { sender, .. }) => Ok(sender.send_request(request).await?),
            Self::Http3(_) => bail!("no upgrade over HTTP/3"),
        }
    }
}

/// Where a connection goes, and the address that it comes from when not any.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    pub(crate) to: SocketAddr,
    pub(crate) from: Option<IpAddr>,
}

impl Way {
    async fn tcp(self) -> std::io::Result<TcpStream> {
        let Some(from) = self.from else { return TcpStream::connect(self.to).await };
        let socket = if from.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.bind((from, 0).into())?;
        socket.connect(self.to).await
    }
}

pub(crate) async fn tls_stream(way: Way, host: &str, tls: Arc<rustls::ClientConfig>) -> Result<TlsStream<TcpStream>> {
    let stream = way.tcp().await.with_context(|| format!("connecting to {}", way.to))?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(host.to_owned())?;
    tokio_rustls::TlsConnector::from(tls).connect(name, stream).await.context("TLS handshake")
}

/// A body that is read as it comes.
pub struct AnswerBody {
    source: Source,
    trailers: HeaderMap,
    connection: Option<Connection>,
}

enum Source {
    Hyper(hyper::body::Incoming),
    Http3(Box<Http3Body>),
}

impl AnswerBody {
    fn new(source: Source) -> Self {
        Self { source, trailers: HeaderMap::new(), connection: None }
    }

    pub(super) fn keep(&mut self, connection: Connection) {
        self.connection = Some(connection);
    }

    pub(super) fn release(self) -> Option<Connection> {
        self.connection
    }

    /// The next bytes, none at the end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        match tokio::time::timeout(super::PATIENCE, self.next()).await {
            Ok(chunk) => chunk,
            Err(_) => bail!("no more of the body after {:?}", super::PATIENCE),
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        match &mut self.source {
            Source::Hyper(body) => loop {
                match body.frame().await {
                    None => return Ok(None),
                    Some(frame) => match frame?.into_data() {
                        Ok(data) => return Ok(Some(data)),
                        Err(other) => self.trailers.extend(other.into_trailers().unwrap_or_default()),
                    },
                }
            },
            Source::Http3(body) => body.chunk().await,
        }
    }

    /// The trailers; call it after the last chunk.
    pub async fn trailers(&mut self) -> Result<HeaderMap> {
        match &mut self.source {
            Source::Hyper(_) => Ok(std::mem::take(&mut self.trailers)),
            Source::Http3(body) => body.trailers().await,
        }
    }
}
