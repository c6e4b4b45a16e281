//! The one body type of the pipeline: a stream of bytes with trailers, whatever protocol it came by.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};

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

pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, BodyError>;
pub type Request = http::Request<Body>;
pub type Response = http::Response<Body>;

pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Any other body type as ours.
pub fn boxed<B>(body: B) -> Body
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Cause>,
{
    body.map_err(BodyError::new).boxed_unsync()
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
