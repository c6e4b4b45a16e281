//! WebSocket over an HTTP/1.1 upgrade, or an extended CONNECT of HTTP/2 (RFC 8441) or HTTP/3 (RFC 9220).

use anyhow::{Context, Result, bail};
use futures::{SinkExt, StreamExt};
use http::{HeaderValue, Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};

use crate::client::{Answer, Client, PATIENCE, Protocol, RequestBody};

/// Bytes both ways.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

pub struct WebSocket {
    stream: WebSocketStream<Box<dyn Io>>,
    /// What the server chose; not known over HTTP/3, whose answer is not decoded.
    pub subprotocol: Option<String>,
}

/// Bytes of a socket's buffer, each way: very many are open at once when idle ones are weighed.
const BUFFER: usize = 4 << 10;

fn settings() -> WebSocketConfig {
    WebSocketConfig::default().read_buffer_size(BUFFER).write_buffer_size(BUFFER)
}

impl WebSocket {
    pub const PATH: &str = "/api/v1/ws";

    /// Opens one with the client's headers, or gives the server's refusal.
    pub async fn open(client: &Client, subprotocols: &[&str]) -> Result<std::result::Result<Self, Answer>> {
        tokio::time::timeout(PATIENCE, Self::handshake(client, subprotocols)).await.context("the handshake hangs")?
    }

    /// Opens one that is expected to be accepted.
    pub async fn connect(client: &Client) -> Result<Self> {
        match Self::open(client, &[]).await? {
            Ok(socket) => Ok(socket),
            Err(refusal) => bail!("refused with {}: {}", refusal.status, refusal.text()),
        }
    }

    async fn handshake(client: &Client, subprotocols: &[&str]) -> Result<std::result::Result<Self, Answer>> {
        if client.protocol() == Protocol::Http3 {
            return Self::over_http3(client, subprotocols).await.map(Ok);
        }
        let mut connection = client.connect().await?;
        let mut request: Request<RequestBody> =
            Request::new(Full::default().map_err(|never| match never {}).boxed_unsync());
        *request.headers_mut() = client.headers().clone();
        request.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        if !subprotocols.is_empty() {
            let offered = HeaderValue::from_str(&subprotocols.join(", "))?;
            request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, offered);
        }
        let key = generate_key();
        let uri = client.uri(Self::PATH)?;
        match client.protocol() {
            Protocol::Http1 => {
                let headers = request.headers_mut();
                headers.insert(header::HOST, HeaderValue::from_str(uri.authority().context("an authority")?.as_str())?);
                headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::from_str(&key)?);
                *request.uri_mut() = Self::PATH.parse()?;
            }
            Protocol::Http2 => {
                // The server's SETTINGS must have come before extended CONNECT may be used.
                connection.wait_for_extended_connect().await?;
                *request.method_mut() = Method::CONNECT;
                *request.uri_mut() = uri;
                request.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
            }
            Protocol::Http3 => bail!("HTTP/3 has a way of its own"),
        }
        let mut response = connection.send_upgrade(request).await?;
        let accepted = match client.protocol() {
            Protocol::Http1 => response.status() == 101,
            Protocol::Http2 | Protocol::Http3 => response.status() == 200,
        };
        if !accepted {
            let (parts, body) = response.into_parts();
            let collected = body.collect().await?;
            let trailers = collected.trailers().cloned().unwrap_or_default();
            let body = collected.to_bytes();
            return Ok(Err(Answer { status: parts.status, headers: parts.headers, body, trailers }));
        }
        if client.protocol() == Protocol::Http1 {
            let accept = response.headers().get(header::SEC_WEBSOCKET_ACCEPT).context("Sec-WebSocket-Accept")?;
            anyhow::ensure!(accept.as_bytes() == derive_accept_key(key.as_bytes()).as_bytes(), "a wrong accept key");
        }
        let subprotocol = response.headers().get(header::SEC_WEBSOCKET_PROTOCOL);
        let subprotocol = subprotocol.map(|v| v.to_str().map(str::to_owned)).transpose()?;
        let upgraded = hyper::upgrade::on(&mut response).await?;
        let io: Box<dyn Io> = Box::new(TokioIo::new(upgraded));
        let stream = WebSocketStream::from_raw_socket(io, Role::Client, Some(settings())).await;
        Ok(Ok(Self { stream, subprotocol }))
    }

    /// A refusal is an error here, which names its status.
    async fn over_http3(client: &Client, subprotocols: &[&str]) -> Result<Self> {
        let mut headers = client.headers().clone();
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        if !subprotocols.is_empty() {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(&subprotocols.join(", "))?);
        }
        let io: Box<dyn Io> = Box::new(client.connect_http3(Self::PATH, &headers).await?);
        let stream = WebSocketStream::from_raw_socket(io, Role::Client, Some(settings())).await;
        Ok(Self { stream, subprotocol: None })
    }

    pub async fn send(&mut self, value: &Value) -> Result<()> {
        self.send_message(Message::text(value.to_string())).await
    }

    pub async fn send_message(&mut self, message: Message) -> Result<()> {
        Ok(self.stream.send(message).await?)
    }

    /// The next message, control messages included; none when the stream has ended.
    pub async fn message(&mut self) -> Result<Option<Message>> {
        let next = tokio::time::timeout(PATIENCE, self.stream.next()).await;
        Ok(next.with_context(|| format!("no message after {PATIENCE:?}"))?.transpose()?)
    }

    /// The next text message as JSON, pings passed over.
    pub async fn json(&mut self) -> Result<Value> {
        loop {
            match self.message().await? {
                Some(Message::Text(text)) => {
                    return serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"));
                }
                Some(Message::Ping(_) | Message::Pong(_)) => {}
                Some(other) => bail!("{other:?} where a text message was expected"),
                None => bail!("the stream ended where a text message was expected"),
            }
        }
    }

    /// The messages that answer `id`, to the one of a type in `last`. Others are passed over.
    pub async fn until(&mut self, id: &str, last: &[&str]) -> Result<Vec<Value>> {
        let mut messages = Vec::new();
        loop {
            let message = self.json().await?;
            if message["id"] != id {
                continue;
            }
            let ends = message["type"].as_str().is_some_and(|kind| last.contains(&kind));
            messages.push(message);
            if ends {
                return Ok(messages);
            }
        }
    }

    /// The close frame that ends the stream, messages before it passed over.
    pub async fn closed(&mut self) -> Result<Option<CloseFrame>> {
        loop {
            match self.message().await? {
                Some(Message::Close(frame)) => return Ok(frame),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    pub async fn close(mut self) -> Result<()> {
        Ok(self.stream.close(None).await?)
    }
}
