//! The one body type of the pipeline: a stream of bytes with trailers, whatever protocol it came by.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt;

/// A failure while a body is read: the peer went away, or sent what its protocol forbids, or a limit was passed.
///
/// A type of its own rather than `Box<dyn Error>`: inside generic futures the compiler forgets that the latter's `dyn`
/// is `'static`, and then calls `Send` "not general enough".
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct BodyError(Cause);

type Cause = Box<dyn std::error::Error + Send + Sync>;

impl BodyError {
    pub fn new(cause: impl Into<Cause>) -> Self {
        let cause = cause.into();
        // Layers wrap bodies in bodies; the cause is wanted once.
        cause.downcast::<Self>().map_or_else(Self, |inner| *inner)
    }

    /// The cause as an `E`, or the whole again when it is none.
    pub fn downcast<E: std::error::Error + 'static>(self) -> Result<Box<E>, Self> {
        self.0.downcast().map_err(Self)
    }
}

macro_rules! from_causes {
    ($($cause:ty),+) => {
        $(impl From<$cause> for BodyError {
            fn from(cause: $cause) -> Self {
                Self::new(cause)
            }
        })+
    };
}
from_causes!(
    Cause,
    crate::error::Error,
    hyper::Error,
    std::io::Error,
    tonic::Status,
    Box<tonic::Status>,
    String,
    &'static str
);

/// A body. One that is here already is just its bytes.
#[derive(Default)]
pub struct Body(Kind);

enum Kind {
    Whole(Bytes),
    Streamed(Pin<Box<dyn http_body::Body<Data = Bytes, Error = BodyError> + Send>>),
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Body")
    }
}

impl Default for Kind {
    fn default() -> Self {
        Self::Whole(Bytes::new())
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Kind::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Kind::Whole(bytes) => Poll::Ready(Some(Ok(http_body::Frame::data(std::mem::take(bytes))))),
            Kind::Streamed(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Whole(bytes) => bytes.is_empty(),
            Kind::Streamed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match &self.0 {
            Kind::Whole(bytes) => http_body::SizeHint::with_exact(bytes.len() as u64),
            Kind::Streamed(body) => body.size_hint(),
        }
    }
}

pub type Request = http::Request<Body>;
pub type Response = http::Response<Body>;

pub fn empty() -> Body {
    Body::default()
}

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Body(Kind::Whole(bytes.into()))
}

/// Any other body type as ours.
pub fn boxed<B>(body: B) -> Body
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Cause>,
{
    Body(Kind::Streamed(Box::pin(body.map_err(BodyError::new))))
}

/// A body that keeps `T` until it has been sent or given up: a permit, a timer, a count of what is in flight.
pub struct Held<T> {
    body: Body,
    _held: T,
}

impl<T> Held<T> {
    pub fn new(body: Body, held: T) -> Self {
        Self { body, _held: held }
    }
}

impl<T: Unpin> http_body::Body for Held<T> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
