//! The body of an HTTP/3 request as an `http_body::Body`, trailers included.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};

use h3::server::RequestStream;
use http_body::{Frame, SizeHint};

use super::quic_recv::Recv;
use crate::body::BodyError;

type RecvHalf = RequestStream<Recv, Bytes>;

pub(super) struct QuicBody {
    stream: RecvHalf,
    state: State,
    /// What is left of the declared `content-length`.
    left: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Data,
    Trailers,
    Ended,
}

/// A body that is not as long as it said (RFC 9114 section 4.1.2).
#[derive(Debug, thiserror::Error)]
#[error("the body's length differs from its content-length")]
struct WrongLength;

impl QuicBody {
    pub(super) fn new(stream: RecvHalf, length: Option<u64>) -> Self {
        Self { stream, state: State::Data, left: length }
    }

    fn fail<T>(&mut self, error: impl std::error::Error + Send + Sync + 'static) -> Poll<Option<Result<T, BodyError>>> {
        self.state = State::Ended;
        Poll::Ready(Some(Err(BodyError::new(error))))
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BodyError>> {
        let data = ready!(self.stream.poll_recv_data(cx)).map_err(BodyError::new)?;
        Poll::Ready(Ok(data.map(|mut data| data.copy_to_bytes(data.remaining()))))
    }
}

impl http_body::Body for QuicBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if this.state == State::Data {
            match ready!(this.poll_data(cx)) {
                Ok(Some(data)) => {
                    if let Some(left) = &mut this.left {
                        match left.checked_sub(data.len() as u64) {
                            Some(rest) => *left = rest,
                            None => return this.fail(WrongLength),
                        }
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(None) if this.left.is_some_and(|left| left > 0) => return this.fail(WrongLength),
                Ok(None) => this.state = State::Trailers,
                Err(error) => return this.fail(error),
            }
        }
        if this.state == State::Trailers {
            let trailers = ready!(this.stream.poll_recv_trailers(cx));
            this.state = State::Ended;
            match trailers {
                Ok(Some(trailers)) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Ok(None) => {}
                Err(error) => return this.fail(error),
            }
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.state == State::Ended
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
