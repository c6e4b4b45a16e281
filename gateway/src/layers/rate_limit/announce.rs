//! Writes `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10) on every answer: what the limits
//! inside noted, whatever became of the request after them.

use std::sync::Arc;

use futures::future::Either;
use http::{HeaderName, HeaderValue};
use parking_lot::Mutex;

use super::limiter::{Key, PARTITION_CHARS, WINDOW_SECONDS};
use crate::body::{Request, Response};
use crate::field::Text;
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

pub(crate) struct Service<S> {
    inner: S,
    enabled: bool,
}

impl<S> hyper::service::Service<Request> for Service<S>
where
    S: hyper::service::Service<Request, Response = Response>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Either<S::Future, Answering<S::Error>>;

    fn call(&self, mut request: Request) -> Self::Future {
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
    let (mut policies, mut states) = (Text::new(), Text::new());
    for (index, Standing { policy, limit, remaining, reset, partition }) in standings.iter().enumerate() {
        let opening = if index == 0 { "\"" } else { ", \"" };
        policies = policies.text(opening).text(policy).text("\";q=").number(u64::from(*limit));
        policies = policies.text(";w=").number(WINDOW_SECONDS);
        states = states.text(opening).text(policy).text("\";r=").number(u64::from(*remaining));
        states = states.text(";t=").number(*reset);
        if let Some(key) = partition {
            let mut room = [0; PARTITION_CHARS];
            let key = key.partition(&mut room);
            policies = policies.text(";pk=:").text(key).text(":");
            states = states.text(";pk=:").text(key).text(":");
        }
    }
    (policies.value(), states.value())
}
