//! The heads of answers: types, cache directives and tags, sessions.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::body::{self, Response};
use crate::forward::codec::SESSION_HEADER;

/// Seconds for which a search's answer may be kept.
pub(crate) const SEARCH_MAX_AGE: u32 = 30;
/// Seconds for which a point by id may be kept.
pub(crate) const EMBED_MAX_AGE: u32 = 300;

/// A JSON answer that no cache keeps.
pub(crate) fn json(bytes: Bytes) -> Response {
    let mut response = Response::new(body::full(bytes));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A write's answer: its session stands in the head too.
pub(crate) fn written(bytes: Bytes, session: &str) -> Response {
    with_session(json(bytes), session)
}

pub(crate) fn with_session(mut response: Response, session: &str) -> Response {
    if let Ok(session) = HeaderValue::from_str(session)
        && !session.is_empty()
    {
        response.headers_mut().insert(SESSION_HEADER, session);
    }
    response
}

pub(crate) fn with_status(mut response: Response, status: StatusCode) -> Response {
    *response.status_mut() = status;
    response
}

/// An answer that may be kept for a while. Whether by all or by its caller alone, the cache layer says, which knows
/// who asked. The tags name no tenant: a tag is looked up among its tenant's entries.
pub(crate) fn cacheable(mut response: Response, max_age: u32, collection: &str, point: Option<&str>) -> Response {
    let headers = response.headers_mut();
    let control = HeaderValue::try_from(format!("max-age={max_age}")).expect("digits and a word");
    headers.insert(header::CACHE_CONTROL, control);
    let mut tags = format!("collection:{collection}");
    if let Some(id) = point.filter(|id| !id.is_empty()) {
        tags.push_str(",point:");
        tags.push_str(collection);
        tags.push('/');
        tags.extend(utf8_percent_encode(id, TAG_ESCAPES));
    }
    if let Ok(tags) = HeaderValue::try_from(tags) {
        headers.insert(CACHE_TAG, tags);
    }
    response
}

/// An answer passes through this region and may not stay in it.
pub(crate) fn keep_nowhere(headers: &mut HeaderMap) {
    if headers.remove(CACHE_TAG).is_some() {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}

/// The tags by which an answer is purged, here and in a CDN.
pub(crate) const CACHE_TAG: HeaderName = HeaderName::from_static("cache-tag");

/// A tag is a word: what is not plain in an id is escaped.
const TAG_ESCAPES: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b':');
