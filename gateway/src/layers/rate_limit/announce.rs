//! Writes `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10) on every answer: what the limits
//! inside noted, whatever became of the request after them.

use std::fmt::Write;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::Either;
use http::{HeaderName, HeaderValue};
use parking_lot::Mutex;

use super::limiter::{Key, WINDOW_SECONDS};
use crate::body::{Request, Response};
use crate::layers::Answering;

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Where a caller stands with one limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    pub(super) policy: &'static str,
    pub(super) limit: u32,
    pub(super) remaining: u32,
    /// Seconds until there is quota again, or all of it.
    pub(super) reset: u64,
    /// Who shares the quota, told as the draft's partition key; absent where the policy's name says it.
    pub(super) partition: Option<Key>,
}

/// The standings of one request, in its extensions.
#[derive(Clone, Default)]
pub(crate) struct Standings(Arc<Mutex<Vec<Standing>>>);

impl Standings {
    pub(super) fn note(request: &Request, standing: Option<Standing>) {
        if let (Some(standings), Some(standing)) = (request.extensions().get::<Self>(), standing) {
            standings.add(standing);
        }
    }

    /// In place of what was said of the same policy before: a request may pay more than once.
    pub(crate) fn add(&self, standing: Standing) {
        let mut standings = self.0.lock();
        match standings.iter_mut().find(|known| known.policy == standing.policy) {
            Some(known) => *known = standing,
            None => standings.push(standing),
        }
    }
}

#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) enabled: bool,
}

impl<S> tower::Layer<S> for Layer {
    type Service = Service<S>;

    fn layer(&self, inner: S) -> Service<S> {
        Service { inner, enabled: self.enabled }
    }
}

#[derive(Clone)]
pub(crate) struct Service<S> {
    inner: S,
    enabled: bool,
}

impl<S> tower::Service<Request> for Service<S>
where
    S: tower::Service<Request, Response = Response>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Either<S::Future, Answering<S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        if !self.enabled {
            return Either::Left(self.inner.call(request));
        }
        let standings = Standings::default();
        request.extensions_mut().insert(standings.clone());
        let answer = self.inner.call(request);
        Either::Right(Box::pin(async move {
            let mut response = answer.await?;
            let standings = standings.0.lock();
            if !standings.is_empty() {
                let (policies, states) = fields(&standings);
                response.headers_mut().insert(RATELIMIT_POLICY, policies);
                response.headers_mut().insert(RATELIMIT, states);
            }
            Ok(response)
        }))
    }
}

/// Both fields are lists of strings with parameters (RFC 9651): `"ip";q=100;w=1` and `"ip";r=42;t=1`. The unit is the
/// draft's default, requests, of which a dear one counts as several.
fn fields(standings: &[Standing]) -> (HeaderValue, HeaderValue) {
    let (mut policies, mut states) = (String::new(), String::new());
    for Standing { policy, limit, remaining, reset, partition } in standings {
        let comma = if policies.is_empty() { "" } else { ", " };
        // Writing to a string does not fail.
        let _written = write!(policies, "{comma}\"{policy}\";q={limit};w={WINDOW_SECONDS}");
        let _written = write!(states, "{comma}\"{policy}\";r={remaining};t={reset}");
        if let Some(key) = partition {
            let key = key.partition();
            let _written = write!(policies, ";pk=:{key}:");
            let _written = write!(states, ";pk=:{key}:");
        }
    }
    let value = |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
    (value(&policies), value(&states))
}
