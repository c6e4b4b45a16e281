//! An answer's body as one piece, if it is small enough to be kept.

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, StreamBody};

use super::MAX_ENTRY_BYTES;
use crate::body::{self, Body, BodyError};
use crate::error::Error;

pub(super) enum Collected {
    Whole(Bytes),
    /// What has been read, and behind it what has not.
    TooLarge(Body),
}

/// Reads a body to its end or to [`MAX_ENTRY_BYTES`]. Of unknown length only where `streams` are read too: our own
/// answers know their length, and one that does not is passed on as it comes.
pub(super) async fn read(mut incoming: Body, streams: bool) -> Result<Collected, Error> {
    let length = http_body::Body::size_hint(&incoming).exact();
    if length.map_or(!streams, |length| length > MAX_ENTRY_BYTES) {
        return Ok(Collected::TooLarge(incoming));
    }
    if length.is_some() {
        return Ok(Collected::Whole(incoming.collect().await.map_err(broken)?.to_bytes()));
    }
    let mut read = BytesMut::new();
    while let Some(frame) = incoming.frame().await {
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        read.extend_from_slice(&data);
        if read.len() as u64 > MAX_ENTRY_BYTES {
            let begun = futures::stream::once(std::future::ready(Ok(http_body::Frame::data(read.freeze()))));
            let rest = http_body_util::BodyStream::new(incoming);
            return Ok(Collected::TooLarge(body::boxed(StreamBody::new(futures::StreamExt::chain(begun, rest)))));
        }
    }
    Ok(Collected::Whole(read.freeze()))
}

/// It is the origin's body that did not come.
fn broken(error: BodyError) -> Error {
    let status = |error: BodyError| tonic::Status::unavailable(format!("the answer broke off: {error}"));
    error.downcast::<Error>().map_or_else(|other| status(other).into(), |ours| *ours)
}
