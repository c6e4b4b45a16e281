//! Reads a request's body whole, up to a bound.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

use crate::body::Body;
use crate::error::Error;

/// Bytes of a body that is read whole, whatever the layers outside let through.
pub(crate) const BODY_BYTES_MAX: usize = 64 << 20;

/// The whole body.
///
/// # Errors
/// [`Error::TooLarge`] past the bound, [`Error::Malformed`] when the body breaks off or cannot be decompressed.
pub(crate) async fn read(mut body: Body) -> Result<Bytes, Error> {
    let declared = http_body::Body::size_hint(&body).lower();
    if declared > BODY_BYTES_MAX as u64 {
        return Err(too_large());
    }
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(Error::of_body)?.into_data() else { continue };
        if all.is_empty() && first.is_empty() {
            // One frame is the common case, and needs no copy.
            first = data;
            continue;
        }
        if all.is_empty() {
            all.reserve(usize::try_from(declared).unwrap_or_default().max(first.len() + data.len()));
            all.extend_from_slice(&first);
        }
        all.extend_from_slice(&data);
        if all.len() > BODY_BYTES_MAX {
            return Err(too_large());
        }
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

fn too_large() -> Error {
    Error::TooLarge { what: "the body", limit: BODY_BYTES_MAX as u64 }
}
