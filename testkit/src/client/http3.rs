//! HTTP/3 by quinn and h3.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::{Buf, Bytes};
use h3::client::{RequestStream, SendRequest};
use h3_quinn::{OpenStreams, RecvStream};
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use quinn::crypto::rustls::QuicClientConfig;

use super::connection::{RequestBody, Way};

/// Cheap to clone; clones share the connection.
#[derive(Clone)]
pub(crate) struct Http3 {
    sender: SendRequest<OpenStreams, Bytes>,
    connection: quinn::Connection,
    // Kept: the connection ends with its endpoint.
    _endpoint: quinn::Endpoint,
}

impl Http3 {
    pub(crate) async fn connect(addr: Way, host: &str, tls: &Arc<rustls::ClientConfig>) -> Result<Self> {
        let (endpoint, connection) = quic(addr, host, tls).await?;
        let (mut driver, sender) = h3::client::new(h3_quinn::Connection::new(connection.clone())).await?;
        tokio::spawn(async move { std::future::poll_fn(|cx| driver.poll_close(cx)).await });
        Ok(Self { sender, connection, _endpoint: endpoint })
    }

    pub(crate) fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    pub(crate) async fn send(&mut self, request: Request<RequestBody>) -> Result<Response<Http3Body>> {
        let (parts, mut body) = request.into_parts();
        let (mut send, mut receive) = self.sender.send_request(Request::from_parts(parts, ())).await?.split();
        // The server may answer, and refuse the rest, before it has read the whole body.
        let upload = tokio::spawn(async move {
            while let Some(frame) = body.frame().await {
                match frame?.into_data() {
                    Ok(data) => send.send_data(data).await?,
                    Err(other) => send.send_trailers(other.into_trailers().unwrap_or_default()).await?,
                }
            }
            send.finish().await?;
            anyhow::Ok(())
        });
        let response = receive.recv_response().await.context("receiving an HTTP/3 answer")?;
        let (parts, ()) = response.into_parts();
        let body = Http3Body { stream: receive, _upload: AbortOnDrop(upload), _connection: self.clone() };
        Ok(Response::from_parts(parts, body))
    }
}

/// A QUIC connection that speaks HTTP/3, and the endpoint that it ends with.
pub(crate) async fn quic(
    way: Way,
    host: &str,
    tls: &Arc<rustls::ClientConfig>,
) -> Result<(quinn::Endpoint, quinn::Connection)> {
    let any: IpAddr = match way.to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let mut endpoint = quinn::Endpoint::client((way.from.unwrap_or(any), 0).into())?;
    let crypto = QuicClientConfig::try_from(tls.clone())?;
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    let connection = endpoint.connect(way.to, host)?.await.context("QUIC handshake")?;
    Ok((endpoint, connection))
}

pub(crate) struct Http3Body {
    stream: RequestStream<RecvStream, Bytes>,
    _upload: AbortOnDrop,
    _connection: Http3,
}

struct AbortOnDrop(tokio::task::JoinHandle<Result<()>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Http3Body {
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>> {
        let data = self.stream.recv_data().await?;
        Ok(data.map(|mut data| data.copy_to_bytes(data.remaining())))
    }

    pub(crate) async fn trailers(&mut self) -> Result<HeaderMap> {
        Ok(self.stream.recv_trailers().await?.unwrap_or_default())
    }
}
