//! A stream that a client of HTTP/3 sends on, read by quinn and bounded on its way to h3.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h3::error::Code;
use h3::quic::{self, StreamErrorIncoming, StreamId};
use quinn::{ConnectionError, ReadError, VarInt};

use super::door::{Door, Limit};
use super::quic_control::Control;
use super::quic_early::Proven;
use super::quic_frames::{Frames, Refusal};
use super::quic_framing::Violation;
use super::quic_streams::{lost, stream_id, varint};

/// A read under way owns the stream until it is done.
type Reading = Pin<Box<dyn Future<Output = (quinn::RecvStream, Result<Option<Bytes>, ReadError>)> + Send + Sync>>;

pub(super) struct Recv {
    id: quinn::StreamId,
    stream: Option<quinn::RecvStream>,
    reading: Option<Reading>,
    /// What to tell the client as soon as the read under way gives the stream back.
    stop: Option<VarInt>,
    closer: Arc<Closer>,
    /// What it passes through on its way to h3.
    filter: Option<Box<Filter>>,
}

/// What bounds a stream, by what it is.
pub(super) enum Filter {
    Request(Frames),
    /// With the stream's type, which h3 looks for.
    Control {
        kind: Option<Bytes>,
        control: Control,
    },
}

impl Filter {
    fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        match self {
            Self::Request(frames) => frames.next(),
            Self::Control { kind: kind @ Some(_), .. } => Ok(kind.take()),
            Self::Control { control, .. } => Ok(control.next()?),
        }
    }

    fn feed(&mut self, chunk: Bytes) {
        match self {
            Self::Request(frames) => frames.feed(chunk),
            Self::Control { control, .. } => control.feed(chunk),
        }
    }

    fn end(&self) -> Result<(), Violation> {
        match self {
            Self::Request(frames) => frames.end(),
            Self::Control { control, .. } => control.end(),
        }
    }
}

/// Ends a connection whose client does what it must not.
pub(super) struct Closer {
    pub(super) quic: quinn::Connection,
    pub(super) door: Arc<Door>,
    pub(super) proven: Proven,
}

impl Closer {
    /// Gives what the connection's streams fail with from then on.
    pub(super) fn close(&self, violation: Violation) -> ConnectionError {
        if violation.code == Code::H3_EXCESSIVE_LOAD && self.quic.close_reason().is_none() {
            self.door.cut(Limit::Http3Frames, self.proven.get().copied());
        }
        self.quic.close(varint(violation.code.value()), violation.reason.as_bytes());
        ConnectionError::LocallyClosed
    }
}

impl Recv {
    pub(super) fn new(stream: quinn::RecvStream, closer: Arc<Closer>) -> Self {
        Self { id: stream.id(), stream: Some(stream), reading: None, stop: None, closer, filter: None }
    }

    /// From now on.
    pub(super) fn filter(&mut self, filter: Filter) {
        self.filter = Some(Box::new(filter));
    }

    fn refused(&self, refusal: Refusal) -> StreamErrorIncoming {
        match refusal {
            Refusal::Connection(violation) => lost(self.closer.close(violation)),
            Refusal::Trailers => StreamErrorIncoming::Unknown(Box::new(refusal)),
        }
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        if let Some(mut stream) = self.stream.take() {
            self.reading = Some(Box::pin(async move {
                let chunk = stream.read_chunk(usize::MAX, true).await;
                (stream, chunk.map(|chunk| chunk.map(|chunk| chunk.bytes)))
            }));
        }
        let Some(reading) = &mut self.reading else { return Poll::Ready(Ok(None)) };
        let (mut stream, read) = ready!(reading.as_mut().poll(cx));
        self.reading = None;
        if let Some(code) = self.stop.take() {
            // It fails for a stream that has ended.
            let _ended = stream.stop(code);
        }
        self.stream = Some(stream);
        Poll::Ready(read.map_err(read_error))
    }
}

impl quic::RecvStream for Recv {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        loop {
            if let Some(filter) = &mut self.filter {
                match filter.next() {
                    Ok(None) => {}
                    Ok(passed) => return Poll::Ready(Ok(passed)),
                    Err(refusal) => return Poll::Ready(Err(self.refused(refusal))),
                }
            }
            let chunk = ready!(self.poll_chunk(cx))?;
            match (&mut self.filter, chunk) {
                (None, chunk) => return Poll::Ready(Ok(chunk)),
                (Some(filter), Some(chunk)) => filter.feed(chunk),
                (Some(filter), None) => {
                    let ended = filter.end().map_err(|violation| self.refused(violation.into()));
                    return Poll::Ready(ended.map(|()| None));
                }
            }
        }
    }

    fn stop_sending(&mut self, code: u64) {
        match &mut self.stream {
            Some(stream) => {
                let _ended = stream.stop(varint(code));
            }
            None => self.stop = Some(varint(code)),
        }
    }

    fn recv_id(&self) -> StreamId {
        stream_id(self.id)
    }
}

impl Drop for Recv {
    /// A body that nobody reads to its end is refused without fault (RFC 9114 section 4.1); quinn's own code for it, 0, means
    /// nothing in HTTP/3.
    fn drop(&mut self) {
        if let Some(stream) = &mut self.stream {
            // It fails for a stream that has ended, or was refused with another code.
            let _ended = stream.stop(varint(Code::H3_NO_ERROR.value()));
        }
    }
}

fn read_error(error: ReadError) -> StreamErrorIncoming {
    match error {
        ReadError::Reset(code) => StreamErrorIncoming::StreamTerminated { error_code: code.into() },
        ReadError::ConnectionLost(error) => lost(error),
        other => StreamErrorIncoming::Unknown(Box::new(other)),
    }
}
