//! Asking for an answer that is not in memory: what is behind memory first, then the origin, by condition where an old
//! copy may still hold; and keeping what may be kept.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use nearfield_cache::semantics::date;
use nearfield_cache::semantics::freshness::Timing;
use nearfield_cache::semantics::request::Verdict;
use nearfield_cache::semantics::validation::{self, CONDITIONAL};
use nearfield_cache::{Entry, Key, Lifetime, Metrics, Stamp, Tier};
use parking_lot::Mutex;

use super::answer;
use super::asked::{Asked, Exchange};
use super::collect::{self, Collected};
use super::subject::{Answered, Fate, Keeping, Known};
use super::{Cache, Inner, SERVER_TIMING, Shared};
use crate::body::Response;
use crate::error::Error;

/// What came of asking, for all that waited.
pub(super) enum Outcome {
    Kept(Kept),
    /// Too large, or of a kind that is not kept: for one of them.
    Passed(Mutex<Option<Response>>),
    /// `stale` is what was found on the way and too old.
    Failed {
        failure: Failure,
        stale: Option<Arc<Entry>>,
    },
}

/// Why there is no answer from the origin.
#[derive(Clone)]
pub(super) enum Failure {
    Error(Arc<Error>),
    /// It answered so, which is none that is wanted while there is an old one.
    Status(StatusCode),
}

pub(super) struct Kept {
    pub(super) entry: Arc<Entry>,
    /// Under which it is, or would be: a request that chooses another variant has no use for it.
    pub(super) key: Key,
    pub(super) from: From,
    pub(super) stored: bool,
    /// The head as the origin sent it, for the one that asked: all of it is for that one.
    pub(super) first_hand: Option<HeaderMap>,
    /// The origin's `Server-Timing`: all that waited have waited for that.
    pub(super) timing: Option<HeaderValue>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// Another tier than memory.
    Behind(Tier),
    Origin,
    /// The origin said that what was stored still holds.
    Validated,
}

impl From {
    pub(super) fn is_behind(self) -> bool {
        matches!(self, Self::Behind(_))
    }
}

/// An answer as its origin made it.
struct Made {
    body: Bytes,
    stamp: Stamp,
    status: StatusCode,
    /// How long that took, its body included.
    cost: Duration,
}

/// One asking.
pub(super) struct Fill {
    pub(super) cache: Cache,
    pub(super) known: Arc<Known>,
    pub(super) exchange: Exchange,
    /// Found in memory, and not good enough.
    pub(super) found: Option<Arc<Entry>>,
    /// Ask the origin, whatever is nearer.
    pub(super) origin_only: bool,
    /// Others may wait for it: the whole is asked for, on no caller's conditions.
    pub(super) shared: bool,
}

impl Fill {
    pub(super) async fn run<S: Inner>(self, inner: Arc<S>) -> Arc<Outcome> {
        let tiers = &self.cache.0.tiers;
        // Before anything is asked: a purge from now on ends this answer.
        let stamp = tiers.invalidation.begin();
        let mut stale = self.found.clone();
        if !self.origin_only
            && let Some(found) = tiers.fetch(&self.known.key, &self.exchange.parts.headers).await
        {
            if Asked::default().judge(&found) == Verdict::Give {
                let key = tiers.resolve(self.known.key, &self.exchange.parts.headers);
                let (entry, from) = (found.entry, From::Behind(found.tier));
                return Arc::new(Outcome::Kept(Kept {
                    entry,
                    key,
                    from,
                    stored: false,
                    first_hand: None,
                    timing: None,
                }));
            }
            stale = Some(found.entry);
        }
        let outcome = self.ask(inner, stamp, stale.as_ref()).await;
        Arc::new(outcome.unwrap_or_else(|error| {
            if matches!(error, Error::Internal(_)) {
                tracing::error!(error = &error as &dyn std::error::Error, "a request failed inside the gateway");
            }
            Outcome::Failed { failure: Failure::Error(Arc::new(error)), stale }
        }))
    }

    async fn ask<S: Inner>(&self, inner: Arc<S>, stamp: Stamp, stale: Option<&Arc<Entry>>) -> Result<Outcome, Error> {
        let mut stamp = stamp;
        let conditions = self.conditions(stale);
        let (mut response, mut timing) = self.send(inner.clone(), &conditions).await?;
        if response.status() == StatusCode::NOT_MODIFIED
            && let Some(entry) = stale.filter(|_| !conditions.is_empty())
        {
            if validation::confirms(&entry.head, response.headers()) {
                return Ok(self.validated(entry, stamp, response, timing).await);
            }
            // It spoke of another answer than the stored one: so that is asked for.
            stamp = self.cache.0.tiers.invalidation.begin();
            (response, timing) = self.send(inner, &[]).await?;
        }
        let failed = is_failure(response.status()) && stale.is_some_and(|entry| self.cache.stands_in(entry));
        if failed {
            let failure = Failure::Status(response.status());
            return Ok(Outcome::Failed { failure, stale: stale.cloned() });
        }
        self.keep(stamp, response, timing).await
    }

    /// By which the origin is asked whether `stale` still holds. Our own searchds know no such question.
    fn conditions(&self, stale: Option<&Arc<Entry>>) -> Vec<(HeaderName, HeaderValue)> {
        let whole = stale.filter(|entry| self.known.is_resource() && entry.span.is_none());
        whole.map(|entry| validation::conditions(&entry.head)).unwrap_or_default()
    }

    async fn send<S: Inner>(
        &self,
        inner: Arc<S>,
        conditions: &[(HeaderName, HeaderValue)],
    ) -> Result<(Response, Timing), Error> {
        let mut exchange = self.exchange.clone();
        if !conditions.is_empty() || self.shared && self.known.is_resource() {
            let headers = &mut exchange.head().headers;
            CONDITIONAL.iter().for_each(|name| {
                headers.remove(name);
            });
            headers.extend(conditions.iter().cloned());
        }
        let asked = self.cache.now();
        let asked_for = inner.call(exchange.into_request()).await;
        let timing = Timing { asked, answered: self.cache.now() };
        match asked_for {
            Ok(mut response) => {
                if self.known.is_resource() {
                    date::ensure(response.headers_mut(), timing.answered);
                }
                Ok((response, timing))
            }
            Err(error) if !self.known.is_resource() && answer::status_of(&error) == StatusCode::NOT_FOUND => {
                Ok((absence(&error), timing))
            }
            Err(error) => Err(error),
        }
    }

    async fn validated(&self, entry: &Arc<Entry>, stamp: Stamp, response: Response, timing: Timing) -> Outcome {
        let headers = validation::freshened(&entry.head, response.headers());
        let answered = Answered { status: entry.status, headers: &headers, timing };
        // The conditions were ours, not those of the caller.
        match self.known.fate(&self.cache.0.terms.load().policy, &self.exchange, &answered) {
            Fate::Kept(keeping) => self.freshen(*keeping, entry, stamp).await,
            // It says now that it is not to be kept.
            Fate::Shared(head) | Fate::Once(head) => {
                self.unstored(head, entry.body.clone(), stamp, entry.status, From::Validated)
            }
        }
    }

    pub(super) async fn keep(&self, stamp: Stamp, response: Response, timing: Timing) -> Result<Outcome, Error> {
        let tiers = &self.cache.0.tiers;
        let answered = Answered { status: response.status(), headers: response.headers(), timing };
        let fate = self.known.fate(&self.cache.0.terms.load().policy, &self.exchange, &answered);
        if let Fate::Once(_) = fate {
            return Ok(self.pass(response));
        }
        let (parts, body) = response.into_parts();
        let bytes = match collect::read(body, self.known.is_resource()).await? {
            Collected::Whole(bytes) => bytes,
            Collected::TooLarge(body) => {
                Metrics::count(&tiers.metrics.too_large);
                return Ok(self.pass(Response::from_parts(parts, body)));
            }
        };
        let (status, headers) = (parts.status, parts.headers);
        Ok(match fate {
            Fate::Kept(keeping) => {
                let made = Made { body: bytes, stamp, status, cost: self.cache.now().saturating_sub(timing.asked) };
                self.store(*keeping, made, From::Origin, Some(headers)).await
            }
            Fate::Shared(head) | Fate::Once(head) => self.unstored(head, bytes, stamp, status, From::Origin),
        })
    }

    /// Keeps the body of `entry` under a head that the origin has told anew.
    pub(super) async fn freshen(&self, keeping: Keeping, entry: &Entry, stamp: Stamp) -> Outcome {
        let made = Made { body: entry.body.clone(), stamp, status: entry.status, cost: entry.cost };
        self.store(keeping, made, From::Validated, None).await
    }

    fn pass(&self, response: Response) -> Outcome {
        let Shared { uncached, tiers, .. } = &*self.cache.0;
        if !is_failure(response.status()) {
            // An older answer has been replaced; there is none where that was found out a moment ago.
            if !uncached.contains_key(&self.known.key) {
                tiers.remove(&self.known.key);
            }
            // Who comes next need not wait to find that out.
            uncached.insert(self.known.key, ());
        }
        Outcome::Passed(Mutex::new(Some(response)))
    }

    async fn store(&self, keeping: Keeping, made: Made, from: From, first_hand: Option<HeaderMap>) -> Outcome {
        let Keeping { lifetime, mut head, tags, span, vary } = keeping;
        let Made { body, stamp, status, cost } = made;
        let tiers = &self.cache.0.tiers;
        let lifetime = match self.known.is_resource() {
            true => lifetime,
            // Another searchd may still answer from before the change.
            false => lifetime.settling(tiers.invalidation.since_change(&tags)),
        };
        if status != StatusCode::NOT_FOUND || self.known.is_resource() {
            self.known.dress(&mut head, &body, lifetime.fresh, self.cache.0.terms.load().cdn_max_age);
        }
        let request = &self.exchange.parts.headers;
        let entry = Arc::new(Entry { span, cost, ..Entry::new(status, head, body, stamp, lifetime, tags) });
        let whole = self.known.key;
        let (key, stored) = if span.is_some() {
            (whole.part(), tiers.store(whole.part(), Arc::clone(&entry)).await)
        } else if vary.is_empty() {
            (whole, tiers.store(whole, Arc::clone(&entry)).await)
        } else {
            let key = whole.variant(&vary, request);
            (key, tiers.store_variant(whole, vary, request, Arc::clone(&entry)).await)
        };
        self.cache.0.uncached.invalidate(&whole);
        let timing = first_hand.as_ref().and_then(|headers| headers.get(SERVER_TIMING).cloned());
        let first_hand = first_hand.filter(|_| self.known.is_resource());
        Outcome::Kept(Kept { entry, key, from, stored, first_hand, timing })
    }

    fn unstored(
        &self,
        head: nearfield_cache::semantics::fields::Head,
        body: Bytes,
        stamp: Stamp,
        status: StatusCode,
        from: From,
    ) -> Outcome {
        let key = self.known.key;
        let entry = Entry::new(status, head, body, stamp, Lifetime::default(), self.known.tags.clone());
        Outcome::Kept(Kept { entry: Arc::new(entry), key, from, stored: false, first_hand: None, timing: None })
    }
}

impl Cache {
    /// Unix time.
    pub(super) fn now(&self) -> Duration {
        Duration::from_micros(self.0.tiers.clock.now())
    }
}

/// Statuses that an old answer is better than (RFC 5861 section 4).
pub(super) fn is_failure(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

/// That there is nothing is worth remembering too; the words are, as the body.
fn absence(error: &Error) -> Response {
    let mut response = Response::new(crate::body::full(crate::rescue::problem(error, None).detail));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}
