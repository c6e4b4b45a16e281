//! From an entry to an answer: whole, as a 304, or its head alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{HeaderName, HeaderValue, StatusCode, header};
use nearfield_cache::{Age, Entry};

use super::asked::Asked;
use super::question::Known;
use super::status;
use crate::body::{self, Response};
use crate::error::Error;
use crate::request::RequestId;
use crate::rescue;

pub(super) const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
pub(super) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const CACHE_TAG: HeaderName = HeaderName::from_static("cache-tag");
const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");
/// A browser's cache serves all who use it, and a read that has to see a write is another read.
const VARY: HeaderValue = HeaderValue::from_static("authorization, x-api-key, nearfield-session");

/// Adds the fields that go out with every copy: validator, lifetimes for other caches, tags.
pub(super) fn dress(entry: &mut Entry, question: &Known, cdn_max_age: Option<Duration>) {
    let fresh = entry.lifetime.fresh.as_secs();
    // Private: an answer to a request with credentials is no other caller's (RFC 9111 section 3.5), and a cache that
    // does not see X-API-Key would not know that there were any.
    let control = format!("private, max-age={fresh}");
    let cdn = cdn_max_age.map(|most| format!("public, max-age={}", most.as_secs().min(fresh)));
    let hash = blake3::hash(&entry.body).to_hex();
    for (name, value) in [
        (header::ETAG, format!("\"{}\"", &hash[..32])),
        (header::CACHE_CONTROL, control),
        (CDN_CACHE_CONTROL, cdn.unwrap_or_else(|| "no-store".to_owned())),
    ] {
        entry.headers.push((name, HeaderValue::try_from(value).expect("words and digits")));
    }
    entry.headers.push((header::VARY, VARY));
    entry.headers.push((CACHE_TAG, question.cache_tag.clone()));
}

/// An answer from the cache.
pub(super) fn of(entry: &Arc<Entry>, age: Age, asked: &Asked, parts: &Parts) -> Response {
    let mut response = first_hand(entry, asked, parts);
    if let Age::Fresh { age, .. } | Age::Stale { age, .. } = age {
        response.headers_mut().insert(header::AGE, HeaderValue::from(age.as_secs()));
    }
    response
}

/// The answer for which the origin was asked: it has no `Age`.
pub(super) fn first_hand(entry: &Arc<Entry>, asked: &Asked, parts: &Parts) -> Response {
    if entry.status == StatusCode::NOT_FOUND {
        let words = String::from_utf8_lossy(&entry.body).into_owned();
        return problem(&Error::NotFound(words), parts);
    }
    let etag = entry.headers.iter().find(|(name, _)| *name == header::ETAG).map(|(_, value)| value);
    let known = etag.is_some_and(|etag| asked.has(etag));
    let mut response = Response::new(if known || asked.head { body::empty() } else { body::full(entry.body.clone()) });
    *response.status_mut() = if known { StatusCode::NOT_MODIFIED } else { entry.status };
    let headers = response.headers_mut();
    headers.reserve(entry.headers.len() + 6);
    for (name, value) in &entry.headers {
        if !(known && *name == header::CONTENT_TYPE) {
            headers.insert(name.clone(), value.clone());
        }
    }
    if asked.head && !known {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(entry.body.len()));
    }
    response
}

/// Fields of an answer that is passed on and not kept.
pub(super) fn unkept(response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, NO_STORE);
    headers.remove(CACHE_TAG);
}

/// Of an answer to a GET that was asked for by a HEAD.
pub(super) fn drop_body(response: &mut Response) {
    let body = std::mem::replace(response.body_mut(), body::empty());
    if let Some(length) = http_body::Body::size_hint(&body).exact() {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
}

pub(super) fn failed(error: &Error, parts: &Parts, status: HeaderValue) -> Response {
    let mut response = problem(error, parts);
    status::tell(&mut response, status);
    response
}

fn problem(error: &Error, parts: &Parts) -> Response {
    let id = parts.extensions.get().map(|RequestId(id)| &**id);
    rescue::response(error, id)
}

pub(super) fn status_of(error: &Error) -> StatusCode {
    let code = rescue::problem(error, None).status;
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// How long the cache took over a hit.
pub(super) fn timed(response: &mut Response, started: Instant) {
    let text = format!("cache;desc=hit;dur={:.3}", started.elapsed().as_secs_f64() * 1_000.0);
    if let Ok(value) = HeaderValue::try_from(text) {
        response.headers_mut().append(SERVER_TIMING, value);
    }
}
