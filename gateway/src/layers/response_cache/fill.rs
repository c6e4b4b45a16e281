//! Asking for an answer that is not in memory: Redis first, then the origin; and keeping what may be kept.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use nearfield_cache::{Age, Entry, Metrics, Stamp};
use parking_lot::Mutex;
use tower::ServiceExt;

use super::answer::{self, SERVER_TIMING};
use super::question::Known;
use super::{Cache, MAX_ENTRY_BYTES};
use crate::body::{self, Request, Response};
use crate::error::Error;

/// A request that can be sent again.
#[derive(Clone)]
pub(super) struct Exchange {
    pub(super) parts: http::request::Parts,
    pub(super) body: Bytes,
}

impl Exchange {
    pub(super) fn into_request(self) -> Request {
        Request::from_parts(self.parts, body::full(self.body))
    }
}

/// What came of asking, for all that waited.
pub(super) enum Outcome {
    Kept(Kept),
    /// Too large, or of a kind that is not kept: for one of them.
    Passed(Mutex<Option<Response>>),
    /// `stale` is what was found on the way and too old.
    Failed {
        error: Arc<Error>,
        stale: Option<Arc<Entry>>,
    },
}

pub(super) struct Kept {
    pub(super) entry: Arc<Entry>,
    pub(super) from: From,
    pub(super) stored: bool,
    /// The origin's `Server-Timing`: all that waited have waited for that.
    pub(super) timing: Option<HeaderValue>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    Behind,
    Origin,
}

pub(super) async fn fill<S>(
    cache: Cache,
    inner: S,
    question: Arc<Known>,
    exchange: Exchange,
    skip_behind: bool,
) -> Arc<Outcome>
where
    S: tower::Service<Request, Response = Response, Error = Error> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    let tiers = &cache.0.tiers;
    // Before anything is asked: a purge from now on ends this answer.
    let stamp = tiers.invalidation.begin();
    let behind = if skip_behind { None } else { tiers.fetch(&question.key).await };
    let stale = match behind {
        Some(found) if matches!(found.age, Age::Fresh { .. }) => {
            let kept = Kept { entry: found.entry, from: From::Behind, stored: false, timing: None };
            return Arc::new(Outcome::Kept(kept));
        }
        found => found.map(|found| found.entry),
    };
    let outcome = match inner.oneshot(exchange.into_request()).await {
        Ok(response) => cache.keep(&question, stamp, response).await,
        Err(error) if answer::status_of(&error) == StatusCode::NOT_FOUND => {
            Ok(cache.keep_absence(&question, stamp, &error).await)
        }
        Err(error) => Err(error),
    };
    Arc::new(outcome.unwrap_or_else(|error| {
        if matches!(error, Error::Internal(_)) {
            tracing::error!(error = &error as &dyn std::error::Error, "a request failed inside the gateway");
        }
        Outcome::Failed { error: Arc::new(error), stale }
    }))
}

impl Cache {
    async fn keep(&self, question: &Known, stamp: Stamp, response: Response) -> Result<Outcome, Error> {
        let tiers = &self.0.tiers;
        let lifetime = self.0.policy.lifetime(question.content, response.status(), response.headers());
        let Some(lifetime) = lifetime else { return Ok(passed(response)) };
        // All our answers know their length; one that does not is a stream.
        if http_body::Body::size_hint(response.body()).exact().is_none_or(|length| length > MAX_ENTRY_BYTES) {
            Metrics::count(&tiers.metrics.too_large);
            return Ok(passed(response));
        }
        let (mut parts, body) = response.into_parts();
        let bytes = body.collect().await.map_err(Error::of_body)?.to_bytes();
        let lifetime = lifetime.settling(tiers.invalidation.since_change(&question.tags));
        let timing = parts.headers.remove(SERVER_TIMING);
        let mut entry = Entry::new(parts.status, &parts.headers, bytes, stamp, lifetime, question.tags);
        answer::dress(&mut entry, question, self.0.cdn_max_age);
        let entry = Arc::new(entry);
        let stored = tiers.store(question.key, Arc::clone(&entry)).await;
        Ok(Outcome::Kept(Kept { entry, from: From::Origin, stored, timing }))
    }

    /// That there is nothing is worth remembering too; the words are, as the body.
    async fn keep_absence(&self, question: &Known, stamp: Stamp, error: &Error) -> Outcome {
        let tiers = &self.0.tiers;
        let lifetime = self.0.policy.lifetime(question.content, StatusCode::NOT_FOUND, &HeaderMap::new());
        let lifetime = lifetime.unwrap_or(nearfield_cache::Lifetime {
            fresh: std::time::Duration::ZERO,
            stale: std::time::Duration::ZERO,
        });
        let lifetime = lifetime.settling(tiers.invalidation.since_change(&question.tags));
        let words = Bytes::from(crate::rescue::problem(error, None).detail);
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"))]);
        let entry = Arc::new(Entry::new(StatusCode::NOT_FOUND, &headers, words, stamp, lifetime, question.tags));
        let stored = tiers.store(question.key, Arc::clone(&entry)).await;
        Outcome::Kept(Kept { entry, from: From::Origin, stored, timing: None })
    }
}

fn passed(response: Response) -> Outcome {
    Outcome::Passed(Mutex::new(Some(response)))
}
