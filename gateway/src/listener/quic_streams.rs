//! QUIC for h3, on quinn: what `h3-quinn` does, and two things more.
//!
//! What comes passes through a [`Filter`] before h3 sees it. And a client that gives a request up says so with STOP_SENDING, on
//! a stream that h3 keeps to itself: a pending answer would go on to its end for nobody. Here each accepted stream leaves
//! its [`Stopped`] behind for whoever answers. The same future tells when an answer has been acknowledged, which a
//! draining connection waits for.

use std::future::Future;
use std::marker;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h3::error::Code;
use h3::quic::{self, ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf};
use parking_lot::Mutex;
use quinn::{ConnectionError, VarInt, WriteError};

use super::door::Door;
use super::quic_early::Proven;
use super::quic_frames::{Frames, Told};
use super::quic_framing::Held;
use super::quic_recv::{Closer, Filter, Recv};
use super::quic_uni::{Ended, Uni};

type Accepting<T> = Pin<Box<dyn Future<Output = Result<T, ConnectionError>> + marker::Send + Sync>>;

/// The two ways of a request's stream.
pub(super) type Streams = (quinn::SendStream, quinn::RecvStream);

/// Ends when the client wants no more of an answer, or has all of it, or is gone.
pub(super) type Stopped = Pin<Box<dyn Future<Output = ()> + marker::Send + Sync>>;

/// What h3 does not tell of a request's stream.
pub(super) struct Beside {
    pub(super) stopped: Stopped,
    pub(super) told: Arc<Told>,
    /// It was opened before the handshake was done.
    pub(super) early: bool,
}

/// Of the stream that was accepted last.
#[derive(Clone, Default)]
pub(super) struct Accepted(Arc<Mutex<Option<Beside>>>);

impl Accepted {
    /// That of the stream which h3 has just given out: h3 accepts one at a time, and those that it refuses while it
    /// closes are before it.
    pub(super) fn take(&self) -> Beside {
        let beside = self.0.lock().take();
        let nothing = || Beside { stopped: Box::pin(std::future::pending()), told: Arc::default(), early: false };
        beside.unwrap_or_else(nothing)
    }
}

pub(super) struct Connection {
    opener: Opener,
    accepting_bi: Option<Accepting<Streams>>,
    accepting_uni: Option<Accepting<quinn::RecvStream>>,
    accepted: Accepted,
    max_fields: u64,
    held: Held,
    uni: Uni,
    closer: Arc<Closer>,
}

/// Heads of the largest size that may be incomplete at once, over all streams of a connection.
const HELD_HEADS: u64 = 16;

impl Connection {
    /// `first` is a request's stream that was accepted already; `max_fields` are the bytes of a field section that h3 takes.
    pub(super) fn new(
        quic: quinn::Connection,
        first: Option<Streams>,
        max_fields: u64,
        (door, proven): (Arc<Door>, Proven),
    ) -> (Self, Accepted) {
        let accepted = Accepted::default();
        let opener = Opener { quic: quic.clone(), opening: None };
        let closer = Arc::new(Closer { quic, door, proven });
        let held = Held::new(max_fields.saturating_mul(HELD_HEADS));
        let accepting_bi = first.map(|first| Box::pin(std::future::ready(Ok(first))) as Accepting<Streams>);
        let (accepting_uni, uni, told) = (None, Uni::new(), accepted.clone());
        (Self { opener, accepting_bi, accepting_uni, accepted, max_fields, held, uni, closer }, told)
    }
}

impl quic::Connection<Bytes> for Connection {
    type RecvStream = Recv;
    type OpenStreams = Opener;

    fn poll_accept_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Recv, ConnectionErrorIncoming>> {
        let quic = &self.opener.quic;
        loop {
            let accepting = self.accepting_uni.get_or_insert_with(|| {
                let quic = quic.clone();
                Box::pin(async move { quic.accept_uni().await })
            });
            let Poll::Ready(accepted) = accepting.as_mut().poll(cx) else { break };
            self.accepting_uni = None;
            self.uni.add(Recv::new(accepted.map_err(connection_error)?, self.closer.clone()));
        }
        self.uni.poll_control(cx).map_err(|ended| match ended {
            Ended::Lost(error) => error,
            Ended::Violation(violation) => connection_error(self.closer.close(violation)),
        })
    }

    fn poll_accept_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bidi, ConnectionErrorIncoming>> {
        let quic = &self.opener.quic;
        let accepting = self.accepting_bi.get_or_insert_with(|| {
            let quic = quic.clone();
            Box::pin(async move { quic.accept_bi().await })
        });
        let accepted = ready!(accepting.as_mut().poll(cx));
        self.accepting_bi = None;
        let (send, recv) = accepted.map_err(connection_error)?;
        let stopped = send.stopped();
        let frames = Frames::new(self.max_fields, self.held.clone());
        let told = frames.told();
        let stopped: Stopped = Box::pin(async move {
            // Whatever it is that ends it: there is nobody to answer any more.
            let _how = stopped.await;
        });
        *self.accepted.0.lock() = Some(Beside { stopped, told, early: recv.is_0rtt() });
        let mut recv = Recv::new(recv, self.closer.clone());
        recv.filter(Filter::Request(frames));
        Poll::Ready(Ok(Bidi { send: Send::new(send, true), recv }))
    }

    fn opener(&self) -> Opener {
        Opener { quic: self.opener.quic.clone(), opening: None }
    }
}

impl quic::OpenStreams<Bytes> for Connection {
    type BidiStream = Bidi;
    type SendStream = Send;

    fn poll_open_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bidi, StreamErrorIncoming>> {
        self.opener.poll_open_bidi(cx)
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<Send, StreamErrorIncoming>> {
        self.opener.poll_open_send(cx)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.opener.close(code, reason);
    }
}

/// Opens h3's own unidirectional streams.
pub(super) struct Opener {
    quic: quinn::Connection,
    opening: Option<Accepting<quinn::SendStream>>,
}

/// What only a client would ask for.
#[derive(Debug, thiserror::Error)]
#[error("a server opens no request streams")]
struct ServerOpens;

impl quic::OpenStreams<Bytes> for Opener {
    type BidiStream = Bidi;
    type SendStream = Send;

    fn poll_open_bidi(&mut self, _cx: &mut Context<'_>) -> Poll<Result<Bidi, StreamErrorIncoming>> {
        Poll::Ready(Err(StreamErrorIncoming::Unknown(Box::new(ServerOpens))))
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<Send, StreamErrorIncoming>> {
        let quic = &self.quic;
        let opening = self.opening.get_or_insert_with(|| {
            let quic = quic.clone();
            Box::pin(async move { quic.open_uni().await })
        });
        let opened = ready!(opening.as_mut().poll(cx));
        self.opening = None;
        Poll::Ready(opened.map(|stream| Send::new(stream, false)).map_err(lost))
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.quic.close(varint(code.value()), reason);
    }
}

pub(super) struct Bidi {
    send: Send,
    recv: Recv,
}

impl quic::BidiStream<Bytes> for Bidi {
    type SendStream = Send;
    type RecvStream = Recv;

    fn split(self) -> (Send, Recv) {
        (self.send, self.recv)
    }
}

impl quic::SendStream<Bytes> for Bidi {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_ready(cx)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.send.send_data(data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_finish(cx)
    }

    fn reset(&mut self, code: u64) {
        self.send.reset(code);
    }

    fn send_id(&self) -> StreamId {
        self.send.send_id()
    }
}

impl quic::RecvStream for Bidi {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        self.recv.poll_data(cx)
    }

    fn stop_sending(&mut self, code: u64) {
        self.recv.stop_sending(code);
    }

    fn recv_id(&self) -> StreamId {
        self.recv.recv_id()
    }
}

pub(super) struct Send {
    stream: quinn::SendStream,
    /// The frame that is being written.
    writing: Option<WriteBuf<Bytes>>,
    /// A request's, of which nothing has been answered.
    unanswered: bool,
}

impl Send {
    fn new(stream: quinn::SendStream, unanswered: bool) -> Self {
        Self { stream, writing: None, unanswered }
    }
}

impl Drop for Send {
    /// quinn ends what is dropped, and an answer without anything in it is none. Nothing was done for the request.
    fn drop(&mut self) {
        if self.unanswered {
            // It fails for a stream that is closed already.
            let _closed = self.stream.reset(varint(Code::H3_REQUEST_REJECTED.value()));
        }
    }
}

/// h3 asked for a second write before the first was done.
#[derive(Debug, thiserror::Error)]
#[error("a frame is still being written")]
struct Busy;

impl quic::SendStream<Bytes> for Send {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        if let Some(frame) = &mut self.writing {
            while frame.has_remaining() {
                let written = ready!(Pin::new(&mut self.stream).poll_write(cx, frame.chunk())).map_err(write_error)?;
                frame.advance(written);
            }
        }
        self.writing = None;
        Poll::Ready(Ok(()))
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        if self.writing.is_some() {
            return Err(StreamErrorIncoming::Unknown(Box::new(Busy)));
        }
        self.writing = Some(data.into());
        self.unanswered = false;
        Ok(())
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        Poll::Ready(self.stream.finish().map_err(|closed| StreamErrorIncoming::Unknown(Box::new(closed))))
    }

    fn reset(&mut self, code: u64) {
        self.unanswered = false;
        // It fails for a stream that is closed already.
        let _closed = self.stream.reset(varint(code));
    }

    fn send_id(&self) -> StreamId {
        stream_id(self.stream.id())
    }
}

pub(super) fn varint(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}

pub(super) fn stream_id(id: quinn::StreamId) -> StreamId {
    StreamId::try_from(u64::from(id)).expect("QUIC's stream ids are HTTP/3's")
}

pub(super) fn connection_error(error: ConnectionError) -> ConnectionErrorIncoming {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            ConnectionErrorIncoming::ApplicationClose { error_code: close.error_code.into() }
        }
        ConnectionError::TimedOut => ConnectionErrorIncoming::Timeout,
        other => ConnectionErrorIncoming::Undefined(Arc::new(other)),
    }
}

pub(super) fn lost(error: ConnectionError) -> StreamErrorIncoming {
    StreamErrorIncoming::ConnectionErrorIncoming { connection_error: connection_error(error) }
}

fn write_error(error: WriteError) -> StreamErrorIncoming {
    match error {
        WriteError::Stopped(code) => StreamErrorIncoming::StreamTerminated { error_code: code.into() },
        WriteError::ConnectionLost(error) => lost(error),
        other => StreamErrorIncoming::Unknown(Box::new(other)),
    }
}
