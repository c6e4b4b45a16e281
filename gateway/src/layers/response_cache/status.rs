//! `Cache-Status` (RFC 9211): what the gateway's cache did with a request, on every answer of the REST API.

use http::{HeaderName, HeaderValue, Method, StatusCode};
use nearfield_cache::{Age, Entry, Found, Tier};

use crate::body::{Request, Response};
use crate::field::Text;
use crate::layers::{Answering, classify};
use crate::route::Route;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

pub(super) const BYPASS: HeaderValue = HeaderValue::from_static("nearfield; fwd=bypass");
pub(super) const METHOD: HeaderValue = HeaderValue::from_static("nearfield; fwd=method");
/// Answered before the cache was reached: neither a hit nor forwarded.
const UNREACHED: HeaderValue = HeaderValue::from_static("nearfield; detail=refused");
pub(super) const NOT_CACHED: HeaderValue = HeaderValue::from_static("nearfield; detail=only-if-cached");
pub(super) const REQUEST: HeaderValue = HeaderValue::from_static("nearfield; fwd=request");
pub(super) const EXPLAIN: HeaderValue = HeaderValue::from_static("nearfield; fwd=bypass; detail=explain");
pub(super) const SESSION: HeaderValue = HeaderValue::from_static("nearfield; fwd=bypass; detail=session");

/// Why the origin was asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Why {
    Miss,
    /// Another part than the stored one.
    Partial,
    Request,
    Stale,
    /// Another variant than those stored.
    Vary,
}

impl Why {
    fn as_str(self) -> &'static str {
        match self {
            Self::Miss => "uri-miss",
            Self::Partial => "partial",
            Self::Request => "request",
            Self::Stale => "stale",
            Self::Vary => "vary-miss",
        }
    }
}

/// Behind what caches nearer to the origin said (RFC 9211 section 2).
pub(super) fn tell(response: &mut Response, status: HeaderValue) {
    response.headers_mut().append(CACHE_STATUS, status);
}

/// For what is not looked up.
pub(super) fn passed(request: &Request) -> HeaderValue {
    if matches!(*request.method(), Method::GET | Method::HEAD) { BYPASS } else { METHOD }
}

pub(super) fn hit(found: &Found) -> HeaderValue {
    let detail = match found.tier {
        Tier::Disk => "; detail=disk",
        Tier::Memory => "",
        Tier::Redis => "; detail=redis",
    };
    let hit = Text::new().text("nearfield; hit");
    let told = match found.age {
        Age::Fresh { left, .. } => hit.text("; ttl=").number(left.as_secs()),
        Age::Stale { by, .. } => hit.text("; ttl=-").number(by.as_secs()),
        Age::Dead => hit,
    };
    told.text(detail).value()
}

/// The origin said that an old answer still holds.
pub(super) fn validated(why: Why, stored: bool, joined: bool) -> HeaderValue {
    let stored = if stored { "; stored" } else { "" };
    let collapsed = if joined { "; collapsed" } else { "" };
    value(format!("nearfield; fwd={}; fwd-status=304{stored}{collapsed}", why.as_str()))
}

/// An answer of the origin that is, or could be, kept.
pub(super) fn asked(why: Why, entry: &Entry, stored: bool, joined: bool) -> HeaderValue {
    let stored = if stored { "; stored" } else { "" };
    let collapsed = if joined { "; collapsed" } else { "" };
    value(format!("nearfield; fwd={}; fwd-status={}{stored}{collapsed}", why.as_str(), entry.status.as_u16()))
}

pub(super) fn not_stored(why: Why, status: StatusCode) -> HeaderValue {
    value(format!("nearfield; fwd={}; fwd-status={}", why.as_str(), status.as_u16()))
}

/// An old answer in place of a failure. No `hit`, which is for what did not go forward.
pub(super) fn stale(age: Age, failure: StatusCode) -> HeaderValue {
    let by = match age {
        Age::Stale { by, .. } => by.as_secs(),
        Age::Fresh { .. } | Age::Dead => 0,
    };
    value(format!("nearfield; fwd=stale; fwd-status={}; ttl=-{by}; detail=stale-if-error", failure.as_u16()))
}

fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("words and digits")
}

/// Around everything that refuses: what never reached the cache says so.
#[derive(Clone)]
pub(crate) struct Layer;

impl<S> tower::Layer<S> for Layer {
    type Service = Service<S>;

    fn layer(&self, inner: S) -> Service<S> {
        Service { inner }
    }
}

pub(crate) struct Service<S> {
    inner: S,
}

impl<S> hyper::service::Service<Request> for Service<S>
where
    S: hyper::service::Service<Request, Response = Response>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = S::Error;
    type Future = futures::future::Either<S::Future, Answering<S::Error>>;

    fn call(&self, request: Request) -> Self::Future {
        let route = classify::route(&request);
        // What a path can do is no question to a cache.
        let is_options = request.method() == Method::OPTIONS;
        let answer = self.inner.call(request);
        if is_options || route.is_grpc() || matches!(route, Route::HealthReady | Route::WebSocket) {
            return futures::future::Either::Left(answer);
        }
        futures::future::Either::Right(Box::pin(async move {
            let mut response = answer.await?;
            response.headers_mut().entry(CACHE_STATUS).or_insert(UNREACHED);
            Ok(response)
        }))
    }
}
