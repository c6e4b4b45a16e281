//! The one body type of the pipeline: a stream of bytes with trailers, whatever protocol it came by.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};

/// A failure while a body is read: the peer went away, or sent what its protocol forbids.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;
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
    B::Error: Into<BodyError>,
{
    body.map_err(Into::into).boxed_unsync()
}
