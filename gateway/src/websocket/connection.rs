//! One WebSocket's life: read, answer, keep time, close with a reason.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use nearfield_auth::{Authenticator, Principal, Rejection};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::Utf8Bytes;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message as Frame};

use super::{Config, Shared, message, request};
use crate::current::Current;
use crate::forward::CallContext;
use crate::layers::lasting;

/// Why a connection ends.
enum End {
    /// This side closes it.
    Close(CloseCode, &'static str),
    /// The peer closes it, and waits for the confirmation.
    Closed,
    /// The peer is gone.
    Gone,
}

/// Serves a connection until it ends.
pub(crate) async fn serve<S>(socket: WebSocketStream<S>, shared: Arc<Shared>, config: Arc<Config>, context: CallContext)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let registered = shared.connections.add();
    let (answers, queue) = mpsc::channel(QUEUED_ANSWERS);
    let mut connection = Connection { socket, shared, config, context, answers, queue, requests: JoinSet::new() };
    let end = connection.run(&registered).await;
    connection.end(end).await;
}

struct Connection<S> {
    socket: WebSocketStream<S>,
    shared: Arc<Shared>,
    config: Arc<Config>,
    context: CallContext,
    answers: request::Answers,
    queue: mpsc::Receiver<Bytes>,
    requests: JoinSet<()>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    async fn run(&mut self, registered: &crate::streams::Registered) -> End {
        let shared = self.shared.clone();
        let config = self.config.clone();
        let (mut heard, mut pinged) = (Instant::now(), false);
        let alarm = tokio::time::sleep_until(heard + config.ping_interval);
        tokio::pin!(alarm);
        let ended = ended(&shared.authenticator, self.context.principal.clone());
        tokio::pin!(ended);
        loop {
            tokio::select! {
                frame = self.socket.next(), if self.requests.len() < config.requests_max => {
                    (heard, pinged) = (Instant::now(), false);
                    if let Err(end) = self.take(frame, registered) {
                        return end;
                    }
                }
                Some(answer) = self.queue.recv() => {
                    if let Err(end) = self.send(answer).await {
                        return end;
                    }
                }
                Some(_) = self.requests.join_next() => {}
                () = &mut alarm => {
                    let silent = heard.elapsed();
                    if silent >= config.idle_timeout && self.requests.is_empty() {
                        return End::Close(CloseCode::Away, "idle");
                    }
                    if silent >= config.ping_interval && !pinged {
                        pinged = true;
                        if let Err(end) = self.ping().await {
                            return end;
                        }
                    }
                    alarm.as_mut().reset(next_alarm(heard, pinged, config.ping_interval, config.idle_timeout));
                }
                reason = registered.entry.closing() => return End::Close(CloseCode::Again, reason),
                reason = &mut ended => return End::Close(CloseCode::Policy, reason),
                () = shared.drain.started() => return End::Close(CloseCode::Away, "the server is shutting down"),
            }
        }
    }

    /// Takes in one frame; a message starts a request.
    fn take(
        &mut self,
        frame: Option<Result<Frame, SocketError>>,
        registered: &crate::streams::Registered,
    ) -> Result<(), End> {
        let text = match frame {
            Some(Ok(Frame::Text(text))) => Bytes::from(text),
            Some(Ok(Frame::Binary(bytes))) => bytes,
            // Pings are answered by the socket itself as it is read on.
            Some(Ok(Frame::Ping(_) | Frame::Pong(_) | Frame::Frame(_))) => return Ok(()),
            // Nothing may be sent from now on but the confirmation, not even an answer that waits.
            Some(Ok(Frame::Close(_))) => return Err(End::Closed),
            Some(Err(error)) => return Err(end_of(&error)),
            None => return Err(End::Gone),
        };
        registered.entry.touch();
        let message = message::read(&text);
        let (shared, context, answers) = (self.shared.clone(), self.context.clone(), self.answers.clone());
        let patience = self.config.request_timeout;
        self.requests.spawn(request::run(shared, context, message, answers, patience));
        Ok(())
    }

    /// Sends an answer, and those that wait behind it, in one flush.
    async fn send(&mut self, first: Bytes) -> Result<(), End> {
        let patience = self.config.send_timeout;
        let sending = async {
            self.socket.feed(text(first)).await?;
            while let Ok(answer) = self.queue.try_recv() {
                self.socket.feed(text(answer)).await?;
            }
            self.socket.flush().await
        };
        match timeout(patience, sending).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(end_of(&error)),
            Err(_) => Err(End::Gone),
        }
    }

    async fn ping(&mut self) -> Result<(), End> {
        match timeout(self.config.send_timeout, self.socket.send(Frame::Ping(Bytes::new()))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(end_of(&error)),
            Err(_) => Err(End::Gone),
        }
    }

    /// Finishes what was admitted when this side closes, says why, and waits a moment for the peer's confirmation. Confirms
    /// when the peer does.
    async fn end(mut self, end: End) {
        let (code, reason) = match end {
            End::Close(code, reason) => (code, reason),
            End::Closed => {
                // The socket has the confirmation, and sends it as it is read on until its end.
                let confirming = async { while let Some(Ok(_)) = self.socket.next().await {} };
                let _ = timeout(CLOSE_PATIENCE, confirming).await;
                return;
            }
            End::Gone => return,
        };
        let _ = timeout(self.config.request_timeout, self.finish()).await;
        let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
        let goodbye = async {
            self.socket.close(Some(frame)).await?;
            while let Some(frame) = self.socket.next().await {
                frame?;
            }
            Ok::<_, SocketError>(())
        };
        let _ = timeout(CLOSE_PATIENCE, goodbye).await;
    }

    async fn finish(&mut self) {
        while !self.requests.is_empty() {
            tokio::select! {
                Some(answer) = self.queue.recv() => if self.send(answer).await.is_err() { return },
                _ = self.requests.join_next() => {}
            }
        }
        while let Ok(answer) = self.queue.try_recv() {
            if self.send(answer).await.is_err() {
                return;
            }
        }
    }
}

/// Resolves when the credentials that opened the connection count no more, with what to tell the peer.
async fn ended(authenticator: &Current<Authenticator>, principal: Option<Arc<Principal>>) -> &'static str {
    match lasting::ended(authenticator, principal.as_deref()).await {
        Rejection::Expired => "the token has expired",
        _ => "the API key has been revoked or has expired",
    }
}

fn text(json: Bytes) -> Frame {
    // What is written as JSON is UTF-8; anything else would be an error in the writer, told to the peer as such.
    Utf8Bytes::try_from(json).map_or_else(|_| Frame::Close(None), Frame::Text)
}

/// When to look again: for the ping that is due, or for the end of patience behind it.
fn next_alarm(heard: Instant, pinged: bool, ping_interval: Duration, idle_timeout: Duration) -> Instant {
    let due = if pinged { heard + idle_timeout } else { heard + ping_interval };
    due.max(Instant::now() + ALARM_MIN)
}

fn end_of(error: &SocketError) -> End {
    match error {
        SocketError::Capacity(_) => End::Close(CloseCode::Size, "the message is too large"),
        SocketError::Protocol(_) => End::Close(CloseCode::Protocol, "not the WebSocket protocol"),
        SocketError::Utf8(_) => End::Close(CloseCode::Invalid, "not UTF-8"),
        _ => End::Gone,
    }
}

/// Answers that wait for a slow peer; requests wait behind them.
const QUEUED_ANSWERS: usize = 32;
/// How long a peer may take to confirm a close.
const CLOSE_PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks at the clock, however the settings read.
const ALARM_MIN: Duration = Duration::from_millis(100);
