//! The gateway's own cache of answers: searches and points by id, as they were before compression.
//!
//! A hit costs a hash of the request as it came and a look into memory. A miss is asked for once, however many wait,
//! and by a task of its own. What a write through this gateway changed is not given from here again. `Cache-Status`
//! (RFC 9211) tells what happened; what a browser or a CDN may do is told by `Cache-Control` (RFC 9111) and
//! `CDN-Cache-Control` (RFC 9213).

mod answer;
mod asked;
mod fill;
mod metrics;
mod question;
pub(crate) mod status;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use nearfield_cache::freshness::Policy;
use nearfield_cache::redis::{self, Redis};
use nearfield_cache::{Age, Clock, Coalescer, Content, Found, Invalidation, Key, Memory, Metrics, Store, Tier, Tiered};
use prometheus_client::registry::Registry;
use serde::Deserialize;
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

use self::asked::Asked;
use self::fill::{Exchange, Outcome};
use self::question::{Known, Question};
use super::{Answering, classify};
use crate::body::{self, Request, Response};
use crate::dispatch;
use crate::error::Error;
use crate::forward::codec::DecodedSearch;
use crate::request::Deadline;
use crate::route::Route;

/// `[cache]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub enabled: bool,
    /// Bytes of memory for answers.
    pub memory_bytes: u64,
    /// `redis://[user:password@]host[:port][/database]`: the tier that a region's gateways share.
    pub redis_url: Option<String>,
    pub redis: redis::Config,
    /// How long a search's answer is fresh, unless its origin says otherwise.
    #[serde(with = "humantime_serde")]
    pub search_ttl: Duration,
    /// The same for a point by its id.
    #[serde(with = "humantime_serde")]
    pub embed_ttl: Duration,
    /// How long past that an answer stands in for a failing origin.
    #[serde(with = "humantime_serde")]
    pub stale_if_error: Duration,
    /// How long a CDN in front may keep answers. Only for one that has the caller's credentials in its cache key:
    /// all answers are some caller's.
    #[serde(with = "humantime_serde")]
    pub cdn_max_age: Option<Duration>,
}

impl Default for Config {
    fn default() -> Self {
        let Policy { embed, search, stale_if_error, .. } = Policy::default();
        Self {
            enabled: true,
            memory_bytes: 512 << 20,
            redis_url: None,
            redis: redis::Config::default(),
            search_ttl: search,
            embed_ttl: embed,
            stale_if_error,
            cdn_max_age: None,
        }
    }
}

/// Requests whose meaning is remembered by their bytes, some 250 bytes each.
const MAX_REMEMBERED: u64 = 50_000;
/// Larger answers are passed on as they come, and not kept.
const MAX_ENTRY_BYTES: u64 = 8 << 20;
/// How often a request asks anew because the one it waited for had less time.
const MAX_JOINS: usize = 3;

/// The cache itself. Cheap to clone; clones are the same cache.
#[derive(Clone)]
pub(crate) struct Cache(Arc<Shared>);

struct Shared {
    tiers: Tiered,
    flights: Coalescer<(Key, u64), Arc<Outcome>>,
    remembered: moka::sync::Cache<Key, Arc<Known>>,
    policy: Policy,
    cdn_max_age: Option<Duration>,
    enabled: bool,
}

impl Cache {
    /// Needs a runtime when there is a Redis: its tasks run on the current one.
    ///
    /// # Errors
    /// A `redis_url` that is none. A Redis that does not answer is no error.
    pub(crate) fn start(config: &Config, registry: &mut Registry) -> Result<Self, redis::BadUrl> {
        let clock = Clock::start();
        let (invalidation, counts) = (Invalidation::new(clock), Arc::new(Metrics::default()));
        let behind = match &config.redis_url {
            Some(url) if config.enabled => {
                let redis = Redis::start(url, &config.redis, &invalidation, Arc::clone(&counts))?;
                Some(Arc::new(redis) as Arc<dyn Store>)
            }
            _ => None,
        };
        let tiers = Tiered::new(clock, invalidation, counts, Memory::new(config.memory_bytes), behind);
        metrics::register(registry, tiers.clone());
        let policy = Policy {
            embed: config.embed_ttl,
            search: config.search_ttl,
            stale_if_error: config.stale_if_error,
            ..Policy::default()
        };
        Ok(Self(Arc::new(Shared {
            tiers,
            flights: Coalescer::default(),
            remembered: moka::sync::Cache::new(MAX_REMEMBERED),
            policy,
            cdn_max_age: config.cdn_max_age,
            enabled: config.enabled,
        })))
    }
}

#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) cache: Cache,
}

impl<S> tower::Layer<S> for Layer {
    type Service = Service<S>;

    fn layer(&self, inner: S) -> Service<S> {
        Service { inner, cache: self.cache.clone() }
    }
}

#[derive(Clone)]
pub(crate) struct Service<S> {
    inner: S,
    cache: Cache,
}

impl<S> tower::Service<Request> for Service<S>
where
    S: tower::Service<Request, Response = Response, Error = Error> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Error;
    type Future = Answering;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let cache = self.cache.clone();
        // Whoever writes, inside, says what has changed.
        request.extensions_mut().insert(cache.0.tiers.invalidation.clone());
        match kept(classify::route(&request), request.method()) {
            Some(content) if cache.0.enabled => Box::pin(cache.answer(inner, content, request)),
            _ => {
                if classify::route(&request) == Route::CacheWarm {
                    // What is asked ahead of time goes through here, as clients' requests do.
                    let cached = Self { inner: inner.clone(), cache };
                    request.extensions_mut().insert(dispatch::Cached(BoxCloneSyncService::new(cached)));
                }
                let status = status::passed(&request);
                let answer = inner.call(request);
                Box::pin(async move {
                    let mut response = answer.await?;
                    status::tell(&mut response, status);
                    Ok(response)
                })
            }
        }
    }
}

/// What is looked up and kept.
fn kept(route: Route, method: &Method) -> Option<Content> {
    match (route, method) {
        (Route::Embed, &Method::GET | &Method::HEAD) => Some(Content::Embed),
        (Route::Search, &Method::GET | &Method::HEAD | &Method::POST) => Some(Content::Search),
        _ => None,
    }
}

impl Cache {
    async fn answer<S>(self, inner: S, content: Content, request: Request) -> Result<Response, Error>
    where
        S: tower::Service<Request, Response = Response, Error = Error> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        let started = Instant::now();
        let (mut parts, body) = request.into_parts();
        let body = if parts.method == Method::POST { dispatch::read_body(body).await? } else { Bytes::new() };
        let asked = Asked::of(&parts.method, &parts.headers);
        let question = match self.question(content, &parts, &body)? {
            Question::Answerable { known, search } => {
                parts.extensions.extend(of_one(search.map(DecodedSearch)));
                known
            }
            // It has to see a write: that is for searchd to know.
            Question::Sessioned(search) => {
                parts.extensions.extend(of_one(search.map(DecodedSearch)));
                return self.bypass(inner, parts, body, status::SESSION).await;
            }
            Question::Explained(search) => {
                parts.extensions.insert(DecodedSearch(search));
                return self.bypass(inner, parts, body, status::EXPLAIN).await;
            }
        };
        if asked.no_store {
            return self.bypass(inner, parts, body, status::REQUEST).await;
        }
        let found = if asked.no_cache { None } else { self.0.tiers.peek(&question.key) };
        if let Some(hit) = found.as_ref().filter(|found| asked.admits(found.age)) {
            return Ok(self.hit(hit, &asked, &parts, started));
        }
        if asked.only_if_cached {
            return self.only_if_cached(&question, &asked, &parts, started).await;
        }
        // A HEAD is answered from what a GET finds.
        if parts.method == Method::HEAD {
            parts.method = Method::GET;
        }
        let exchange = Exchange { parts, body };
        self.miss(inner, question, asked, exchange, found).await
    }

    async fn bypass<S>(
        &self,
        inner: S,
        parts: http::request::Parts,
        body: Bytes,
        status: http::HeaderValue,
    ) -> Result<Response, Error>
    where
        S: tower::Service<Request, Response = Response, Error = Error>,
    {
        Metrics::count(&self.0.tiers.metrics.bypassed);
        let mut response = inner.oneshot(Request::from_parts(parts, body::full(body))).await?;
        response.headers_mut().insert(http::header::CACHE_CONTROL, answer::NO_STORE);
        status::tell(&mut response, status);
        Ok(response)
    }

    fn hit(&self, found: &Found, asked: &Asked, parts: &http::request::Parts, started: Instant) -> Response {
        let metrics = &self.0.tiers.metrics;
        Metrics::count(match found.tier {
            Tier::Behind => &metrics.hits_redis,
            Tier::Memory => &metrics.hits_memory,
        });
        let mut response = answer::of(&found.entry, found.age, asked, parts);
        status::tell(&mut response, status::hit(found));
        answer::timed(&mut response, started);
        response
    }

    async fn only_if_cached(
        &self,
        question: &Known,
        asked: &Asked,
        parts: &http::request::Parts,
        started: Instant,
    ) -> Result<Response, Error> {
        let behind = self.0.tiers.fetch(&question.key).await.filter(|found| asked.admits(found.age));
        match behind {
            Some(found) => Ok(self.hit(&found, asked, parts, started)),
            None => Ok(answer::failed(&Error::NotCached, parts, status::NOT_CACHED)),
        }
    }

    async fn miss<S>(
        &self,
        inner: S,
        question: Arc<Known>,
        asked: Asked,
        exchange: Exchange,
        found: Option<Found>,
    ) -> Result<Response, Error>
    where
        S: tower::Service<Request, Response = Response, Error = Error> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        let deadline = exchange.parts.extensions.get().map(|Deadline(at)| *at);
        let stale = found.map(|found| found.entry);
        let why = if asked.no_cache { status::Why::Request } else { status::Why::of(stale.is_some()) };
        for _ in 0..MAX_JOINS {
            let ask = || {
                let (cache, inner, exchange) = (self.clone(), inner.clone(), exchange.clone());
                fill::fill(cache, inner, Arc::clone(&question), exchange, asked.no_cache)
            };
            // Who wants a new answer does not wait for one that was asked for before.
            let (landed, joined) = if asked.no_cache {
                (within(deadline, async { Ok(ask().await) }).await, false)
            } else {
                let epoch = self.0.tiers.invalidation.purged(&question.tags);
                let flight = self.0.flights.fly((question.key, epoch), ask);
                let joined = flight.joined;
                (within(deadline, flight.landed()).await, joined)
            };
            if joined {
                Metrics::count(&self.0.tiers.metrics.coalesced);
            }
            let outcome = match landed {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(lost)) => return Err(Error::Internal(Box::new(lost))),
                Err(_elapsed) => Arc::new(Outcome::Failed { error: Arc::new(Error::DeadlineExceeded), stale: None }),
            };
            match &*outcome {
                Outcome::Kept(kept) => {
                    return Ok(self.landed(kept, why, joined, &asked, &exchange));
                }
                Outcome::Passed(once) => {
                    let passed = once.lock().take();
                    return self.passed(passed, inner, exchange, why, asked.head).await;
                }
                // The one that asked had less time than this one has.
                Outcome::Failed { error, .. }
                    if joined && matches!(**error, Error::DeadlineExceeded) && has_time(deadline) => {}
                Outcome::Failed { error, stale: behind } => {
                    let stale = stale.or_else(|| behind.clone());
                    return Ok(self.failed(error, stale, why, &asked, &exchange));
                }
            }
        }
        Err(Error::DeadlineExceeded)
    }

    fn landed(
        &self,
        kept: &fill::Kept,
        why: status::Why,
        joined: bool,
        asked: &Asked,
        exchange: &Exchange,
    ) -> Response {
        let Shared { tiers, .. } = &*self.0;
        let age = kept.entry.age(tiers.clock.now());
        let mut response = match kept.from {
            fill::From::Origin => {
                if !joined {
                    Metrics::count(&tiers.metrics.misses);
                }
                let mut response = answer::first_hand(&kept.entry, asked, &exchange.parts);
                status::tell(&mut response, status::asked(why, &kept.entry, kept.stored, joined));
                response
            }
            fill::From::Behind => {
                Metrics::count(&tiers.metrics.hits_redis);
                let found = Found { entry: Arc::clone(&kept.entry), age, tier: Tier::Behind };
                let mut response = answer::of(&kept.entry, age, asked, &exchange.parts);
                status::tell(&mut response, status::hit(&found));
                response
            }
        };
        if let Some(timing) = &kept.timing {
            response.headers_mut().append(answer::SERVER_TIMING, timing.clone());
        }
        response
    }

    /// An answer too large to share: the first to come has it, the others ask for themselves.
    async fn passed<S>(
        &self,
        passed: Option<Response>,
        inner: S,
        exchange: Exchange,
        why: status::Why,
        head: bool,
    ) -> Result<Response, Error>
    where
        S: tower::Service<Request, Response = Response, Error = Error>,
    {
        Metrics::count(&self.0.tiers.metrics.misses);
        let mut response = match passed {
            Some(response) => response,
            None => inner.oneshot(exchange.into_request()).await?,
        };
        answer::unkept(&mut response);
        if head {
            answer::drop_body(&mut response);
        }
        let status = status::not_stored(why, response.status());
        status::tell(&mut response, status);
        Ok(response)
    }

    /// The failure, or an old answer in its place.
    fn failed(
        &self,
        error: &Error,
        stale: Option<Arc<nearfield_cache::Entry>>,
        why: status::Why,
        asked: &Asked,
        exchange: &Exchange,
    ) -> Response {
        let Shared { tiers, .. } = &*self.0;
        let code = answer::status_of(error);
        if let Some(entry) =
            stale.filter(|entry| code.is_server_error() && tiers.invalidation.admits(entry.stamp, &entry.tags))
            && let age @ (Age::Fresh { .. } | Age::Stale { .. }) = entry.age(tiers.clock.now())
        {
            Metrics::count(&tiers.metrics.stale);
            let mut response = answer::of(&entry, age, asked, &exchange.parts);
            status::tell(&mut response, status::stale(age, code));
            return response;
        }
        Metrics::count(&tiers.metrics.misses);
        answer::failed(error, &exchange.parts, status::not_stored(why, code))
    }
}

fn of_one<T: Clone + Send + Sync + 'static>(value: Option<T>) -> http::Extensions {
    let mut extensions = http::Extensions::new();
    if let Some(value) = value {
        extensions.insert(value);
    }
    extensions
}

async fn within<T>(
    deadline: Option<Instant>,
    future: impl Future<Output = T>,
) -> Result<T, tokio::time::error::Elapsed> {
    match deadline {
        Some(at) => tokio::time::timeout_at(at.into(), future).await,
        None => Ok(future.await),
    }
}

fn has_time(deadline: Option<Instant>) -> bool {
    deadline.is_none_or(|at| tokio::time::Instant::now() < at.into())
}

#[cfg(test)]
mod tests;
