//! The gateway's own cache of answers, as they were before compression: a shared HTTP cache to RFC 9111.
//!
//! It stands in front of two kinds of things. Of [`Layer`] these are our own questions, searches and points by id: their
//! keys say what is asked, not how, and what a write through this gateway changed is not given from here again. Of
//! [`resource::Layer`] it is whatever an HTTP origin has, by the origin's word alone. Tiers, coalescing and purges are
//! the same.
//!
//! A hit costs a hash of the request as it came and a look into memory. A miss is asked for once, however many wait,
//! and by a task of its own. `Cache-Status` (RFC 9211) tells what happened; what a browser or a CDN may do is told by
//! `Cache-Control` (RFC 9111) and `CDN-Cache-Control` (RFC 9213).

mod answer;
mod asked;
mod collect;
mod fill;
mod flow;
mod hot;
mod metrics;
mod question;
pub mod resource;
pub(crate) mod status;
mod subject;
mod trends;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderName, Method};
use nearfield_cache::disk::{self, Disk};
use nearfield_cache::feed::{self, Link, Name};
use nearfield_cache::redis::{self, Redis};
use nearfield_cache::semantics::request::is_query;
use nearfield_cache::{Clock, Coalescer, Content, Invalidation, Key, Memory, Metrics, Policy, Store, Tier, Tiered};
use prometheus_client::registry::Registry;
use serde::Deserialize;

use self::asked::{Asked, Exchange};
use self::fill::Outcome;
use self::hot::Heat;
use self::question::Question;
use self::subject::Known;
pub(crate) use self::trends::Trend;
use super::{Answering, classify};
use crate::body::{Request, Response};
use crate::dispatch;
use crate::error::Error;
use crate::forward::codec::DecodedSearch;
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
    pub disk: disk::Config,
    pub feed: feed::Config,
    pub hot: hot::Config,
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
            disk: disk::Config::default(),
            feed: feed::Config::default(),
            hot: hot::Config::default(),
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
/// How often a request asks anew because the one that it waited for had less time, or asked for something else.
const MAX_JOINS: usize = 3;
/// What was not to be kept a moment ago is asked for by each for itself: that many, …
const MAX_UNCACHED: u64 = 10_000;
/// … for so long.
const UNCACHED_FOR: Duration = Duration::from_secs(60);
const CACHE_TAG: HeaderName = HeaderName::from_static("cache-tag");
const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// What a cache stands in front of.
trait Inner:
    hyper::service::Service<Request, Response = Response, Error = Error, Future: Send + 'static> + Send + Sync + 'static
{
}

impl<S> Inner for S where
    S: hyper::service::Service<Request, Response = Response, Error = Error, Future: Send + 'static>
        + Send
        + Sync
        + 'static
{
}

/// The cache itself. Cheap to clone; clones are the same cache.
#[derive(Clone)]
pub struct Cache(Arc<Shared>);

struct Shared {
    tiers: Tiered,
    disk: Option<Arc<Disk>>,
    redis: Option<Arc<Redis>>,
    /// By which purges of other gateways come, and ours go.
    _link: Option<Link>,
    flights: Coalescer<(Key, u64), Arc<Outcome>>,
    heat: Heat,
    remembered: moka::sync::Cache<Key, Arc<Known>>,
    uncached: moka::sync::Cache<Key, ()>,
    terms: ArcSwap<Terms>,
    enabled: bool,
}

/// How long answers are kept, which may change.
struct Terms {
    policy: Policy,
    cdn_max_age: Option<Duration>,
}

impl Terms {
    fn of(config: &Config) -> Self {
        let policy = Policy {
            embed: config.embed_ttl,
            search: config.search_ttl,
            stale_if_error: config.stale_if_error,
            ..Policy::default()
        };
        Self { policy, cdn_max_age: config.cdn_max_age }
    }
}

/// A setting that the cache cannot start with.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Disk(#[from] disk::StartError),
    #[error(transparent)]
    Feed(#[from] feed::BadUrl),
    #[error(transparent)]
    Redis(#[from] redis::BadUrl),
}

impl Cache {
    /// Needs a runtime when there is a Redis or a feed: their tasks run on the current one. `name` is this gateway's.
    ///
    /// # Errors
    /// A URL that is none. A server that does not answer is no error.
    pub fn start(config: &Config, name: &Name, registry: &mut Registry) -> Result<Self, StartError> {
        let clock = Clock::start();
        let (invalidation, counts) = (Invalidation::new(clock), Arc::new(Metrics::default()));
        let (mut behind, mut disk, mut redis, mut link) = (Vec::new(), None, None, None);
        if config.enabled {
            let url = config.redis_url.as_deref();
            link = Link::start(&config.feed, url, name, &invalidation, &counts)?;
            disk = Disk::start(&config.disk, clock, &invalidation, Arc::clone(&counts))?.map(Arc::new);
            // What is nearer first.
            behind.extend(disk.clone().map(|disk| (Tier::Disk, disk as Arc<dyn Store>)));
            let start = |url| Redis::start(url, &config.redis, Arc::clone(&counts)).map(Arc::new);
            redis = url.map(start).transpose()?;
            behind.extend(redis.clone().map(|redis| (Tier::Redis, redis as Arc<dyn Store>)));
        }
        let tiers = Tiered::new(clock, invalidation, counts, Memory::new(config.memory_bytes), behind);
        let cache = Self(Arc::new(Shared {
            tiers,
            disk,
            redis,
            _link: link,
            flights: Coalescer::default(),
            heat: Heat::new(&config.hot, clock),
            remembered: moka::sync::Cache::new(MAX_REMEMBERED),
            uncached: moka::sync::Cache::builder().max_capacity(MAX_UNCACHED).time_to_live(UNCACHED_FOR).build(),
            terms: ArcSwap::from_pointee(Terms::of(config)),
            enabled: config.enabled,
        }));
        if cache.0.redis.is_some() {
            tokio::spawn(trends::tell(Arc::downgrade(&cache.0)));
        }
        metrics::register(registry, cache.clone());
        Ok(cache)
    }

    /// For `/debug`.
    pub(crate) fn view(&self) -> serde_json::Value {
        let memory = self.0.tiers.memory();
        let terms = self.0.terms.load();
        serde_json::json!({
            "enabled": self.0.enabled,
            "entries": memory.len(),
            "bytes": memory.bytes(),
            "disk": self.0.disk.as_ref().map(|disk| {
                serde_json::json!({ "up": disk.is_up(), "entries": disk.len(), "bytes": disk.bytes() })
            }),
            "requests_remembered": self.0.remembered.entry_count(),
            "not_to_be_kept": self.0.uncached.entry_count(),
            "search_ttl_s": terms.policy.search.as_secs(),
            "embed_ttl_s": terms.policy.embed.as_secs(),
            "stale_if_error_s": terms.policy.stale_if_error.as_secs(),
            "hottest": self.0.heat.view(),
        })
    }

    /// For what is stored from now on.
    pub(crate) fn set_terms(&self, config: &Config) {
        self.0.terms.store(Arc::new(Terms::of(config)));
    }
}

#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) cache: Cache,
}

impl<S> tower::Layer<S> for Layer {
    type Service = Service<S>;

    fn layer(&self, inner: S) -> Service<S> {
        Service { inner: Arc::new(inner), cache: self.cache.clone() }
    }
}

pub(crate) struct Service<S> {
    inner: Arc<S>,
    cache: Cache,
}

impl<S: Inner> hyper::service::Service<Request> for Service<S> {
    type Response = Response;
    type Error = Error;
    type Future = Answering;

    fn call(&self, mut request: Request) -> Self::Future {
        let (inner, cache) = (Arc::clone(&self.inner), self.cache.clone());
        match kept(classify::route(&request), request.method()) {
            Some(content) if cache.0.enabled => Box::pin(cache.ask(inner, content, request)),
            _ => {
                // Whoever writes, inside, says what has changed.
                request.extensions_mut().insert(cache.0.tiers.invalidation.clone());
                if classify::route(&request) == Route::CacheWarm {
                    // What is asked ahead of time goes through here, as clients' requests do.
                    let known = cache.clone();
                    let cached = Self { inner: Arc::clone(&inner), cache };
                    request.extensions_mut().insert(dispatch::Cached { service: Arc::new(cached), cache: known });
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
        (Route::Search, method) if is_query(method) => Some(Content::Search),
        _ => None,
    }
}

impl Cache {
    /// Answers one of our own questions.
    async fn ask<S: Inner>(self, inner: Arc<S>, content: Content, request: Request) -> Result<Response, Error> {
        let (mut parts, body) = request.into_parts();
        let bodied = parts.method == Method::POST || is_query(&parts.method);
        let body = if bodied { dispatch::read_body(body).await? } else { Bytes::new() };
        let asked = Asked::of(&parts.method, &parts.headers);
        let known = match self.question(content, &parts, &body)? {
            Question::Answerable { known, search } => {
                parts.extensions.extend(of_one(search.map(DecodedSearch)));
                known
            }
            // It has to see a write: that is for searchd to know.
            Question::Sessioned(search) => {
                parts.extensions.extend(of_one(search.map(DecodedSearch)));
                return self.bypass(inner, Exchange::new(parts, body), status::SESSION).await;
            }
            Question::Explained(search) => {
                parts.extensions.insert(DecodedSearch(search));
                return self.bypass(inner, Exchange::new(parts, body), status::EXPLAIN).await;
            }
        };
        if asked.demand.no_store {
            return self.bypass(inner, Exchange::new(parts, body), status::REQUEST).await;
        }
        // Ranges are of resources.
        let asked = Asked { range: None, ..asked };
        self.answer(inner, known, asked, Exchange::new(parts, body)).await
    }
}

fn of_one<T: Clone + Send + Sync + 'static>(value: Option<T>) -> http::Extensions {
    let mut extensions = http::Extensions::new();
    if let Some(value) = value {
        extensions.insert(value);
    }
    extensions
}

#[cfg(test)]
mod tests;
