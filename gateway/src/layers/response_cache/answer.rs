//! From an entry to an answer: whole, as a 304, a part, or its head alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use nearfield_cache::semantics::range::{self, Cut, Span};
use nearfield_cache::semantics::validation;
use nearfield_cache::{Age, Entry};

use super::asked::Asked;
use super::subject::Known;
use super::{CACHE_TAG, SERVER_TIMING, status};
use crate::body::{self, Response};
use crate::error::Error;
use crate::field::Text;
use crate::request::RequestId;
use crate::rescue;

pub(super) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// What an answer is made of.
pub(super) struct Source<'a> {
    pub(super) known: &'a Known,
    pub(super) entry: &'a Arc<Entry>,
    /// None for the answer for which the origin was asked just now: it has no `Age`.
    pub(super) age: Option<Duration>,
    /// The head to send in place of the entry's.
    pub(super) first_hand: Option<HeaderMap>,
}

/// How old an answer is that is not dead.
pub(super) fn age_of(age: Age) -> Option<Duration> {
    match age {
        Age::Fresh { age, .. } | Age::Stale { age, .. } => Some(age),
        Age::Dead => None,
    }
}

/// None where the entry is a part, and not the one that is asked for.
pub(super) fn of(source: Source<'_>, asked: &Asked, parts: &Parts) -> Option<Response> {
    let Source { known, entry, age, first_hand } = source;
    if entry.status == StatusCode::NOT_FOUND && !known.is_resource() {
        let words = String::from_utf8_lossy(&entry.body).into_owned();
        let mut response = problem(&Error::NotFound(words), parts);
        grow_old(&mut response, age);
        return Some(response);
    }
    let shape = match first_hand {
        // As the origin has cut it.
        Some(_) if entry.span.is_some() => Shape::Whole,
        _ => Shape::of(entry, asked, &parts.headers)?,
    };
    let body = match &shape {
        Shape::Whole | Shape::Part(..) if asked.head => body::empty(),
        Shape::Whole => body::full(entry.body.clone()),
        Shape::Part(bytes, _) => body::full(entry.body.slice(bytes.clone())),
        Shape::NotModified | Shape::Unsatisfiable(_) => body::empty(),
    };
    let mut response = Response::new(body);
    *response.status_mut() = match &shape {
        Shape::Whole => entry.status,
        Shape::Part(..) => StatusCode::PARTIAL_CONTENT,
        Shape::NotModified => StatusCode::NOT_MODIFIED,
        Shape::Unsatisfiable(_) => StatusCode::RANGE_NOT_SATISFIABLE,
    };
    let headers = response.headers_mut();
    match first_hand {
        Some(head) => *headers = head,
        None => {
            headers.reserve(entry.head.len() + 6);
            for (name, value) in &entry.head {
                headers.append(name.clone(), value.clone());
            }
        }
    }
    shape.fit(headers, entry, asked.head);
    grow_old(&mut response, age);
    Some(response)
}

/// The form of an answer.
enum Shape {
    NotModified,
    Part(std::ops::Range<usize>, Span),
    Unsatisfiable(u64),
    Whole,
}

impl Shape {
    fn of(entry: &Entry, asked: &Asked, request: &HeaderMap) -> Option<Self> {
        let part = entry.span.is_some();
        if (entry.status.is_success() || part) && asked.conditions.hold(&entry.head) {
            return Some(Self::NotModified);
        }
        let applies = || entry.status == StatusCode::OK && validation::range_applies(request, &entry.head);
        match asked.range.filter(|_| part || applies()) {
            Some(range) => match range.cut(entry.body.len(), entry.span) {
                Cut::Bytes(bytes, span) => Some(Self::Part(bytes, span)),
                Cut::Unsatisfiable { total } => Some(Self::Unsatisfiable(total)),
                Cut::Elsewhere => None,
            },
            None => (!part).then_some(Self::Whole),
        }
    }

    /// Makes a stored head that of this form.
    fn fit(&self, headers: &mut HeaderMap, entry: &Entry, head: bool) {
        match self {
            Self::NotModified => {
                for name in
                    [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::CONTENT_LENGTH, header::CONTENT_RANGE]
                {
                    headers.remove(name);
                }
            }
            Self::Part(_, span) => {
                headers.remove(header::CONTENT_LENGTH);
                headers.insert(header::CONTENT_RANGE, span.field());
            }
            Self::Unsatisfiable(total) => {
                headers.remove(header::CONTENT_LENGTH);
                headers.insert(header::CONTENT_RANGE, range::unsatisfiable(*total));
            }
            Self::Whole if head => {
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(entry.body.len()));
            }
            Self::Whole => {}
        }
    }
}

fn grow_old(response: &mut Response, age: Option<Duration>) {
    if let Some(age) = age {
        response.headers_mut().insert(header::AGE, Text::new().number(age.as_secs()).value());
    }
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
    let id = parts.extensions.get().map(RequestId::as_str);
    rescue::response(error, id)
}

pub(super) fn status_of(error: &Error) -> StatusCode {
    let code = rescue::problem(error, None).status;
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// How long the cache took over a hit.
pub(super) fn timed(response: &mut Response, started: Instant) {
    let value = Text::new().text("cache;desc=hit;dur=").millis(started.elapsed()).value();
    response.headers_mut().append(SERVER_TIMING, value);
}
