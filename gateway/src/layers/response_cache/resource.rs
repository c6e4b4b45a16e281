//! The cache in front of any HTTP origin: what is at a path of a host, by GET or QUERY, for as long as the origin says.
//!
//! Requests that may change something pass, and end what is stored of their target and of what their answer names.

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use nearfield_cache::semantics::changes;
use nearfield_cache::semantics::freshness::Timing;
use nearfield_cache::semantics::request::{is_query, is_safe};
use nearfield_cache::semantics::validation;
use nearfield_cache::{Found, Key, Purge, Tag, Tags};

use super::answer::{self, Source};
use super::asked::{Asked, Exchange};
use super::collect::{self, Collected};
use super::fill::{Fill, Outcome};
use super::status::{self, Why};
use super::subject::{Answered, Fate, Known, Subject};
use super::{Cache, Inner};
use crate::body::{Request, Response};
use crate::error::Error;
use crate::layers::Answering;

/// Puts `cache` around a service.
#[derive(Clone)]
pub struct Layer {
    pub cache: Cache,
}

impl<S> tower::Layer<S> for Layer {
    type Service = Service<S>;

    fn layer(&self, inner: S) -> Service<S> {
        Service { inner: Arc::new(inner), cache: self.cache.clone() }
    }
}

pub struct Service<S> {
    inner: Arc<S>,
    cache: Cache,
}

impl<S> hyper::service::Service<Request> for Service<S>
where
    S: hyper::service::Service<Request, Response = Response, Error = Error, Future: Send + 'static>
        + Send
        + Sync
        + 'static,
{
    type Response = Response;
    type Error = Error;
    type Future = Answering;

    fn call(&self, request: Request) -> Self::Future {
        let (inner, cache) = (Arc::clone(&self.inner), self.cache.clone());
        Box::pin(async move {
            let method = request.method();
            let reads = matches!(*method, Method::GET | Method::HEAD) || is_query(method);
            if !cache.0.enabled || request.headers().contains_key(header::UPGRADE) {
                inner.call(request).await
            } else if reads {
                cache.read(inner, request).await
            } else {
                cache.pass(inner, request).await
            }
        })
    }
}

/// Host, and path with query.
struct Target {
    host: String,
    path: String,
}

impl Target {
    fn of(parts: &Parts) -> Self {
        let header = || parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let host = parts.uri.authority().map_or_else(header, |authority| authority.as_str());
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        Self { host: host.to_ascii_lowercase(), path: path.to_owned() }
    }

    fn tag(&self) -> Tag {
        Tag::resource(&self.host, &self.path)
    }

    fn known(&self, query: Option<(&[u8], &[u8])>) -> Arc<Known> {
        let key = Key::resource(&self.host, &self.path, query);
        Arc::new(Known { key, tags: Tags::from(vec![self.tag()]), subject: Subject::Resource })
    }
}

impl Cache {
    async fn read<S: Inner>(&self, inner: Arc<S>, request: Request) -> Result<Response, Error> {
        let (parts, body) = request.into_parts();
        let body = match collect::read(body, true).await? {
            Collected::Whole(body) => body,
            // A question that long is passed on as it comes.
            Collected::TooLarge(body) => return inner.call(Request::from_parts(parts, body)).await,
        };
        let asked = Asked::of(&parts.method, &parts.headers);
        let media = [header::CONTENT_TYPE, header::CONTENT_ENCODING]
            .iter()
            .filter_map(|name| parts.headers.get(name).map(HeaderValue::as_bytes))
            .collect::<Vec<_>>()
            .join(&b'\n');
        let query = is_query(&parts.method).then_some((&media[..], &body[..]));
        let known = Target::of(&parts).known(query);
        let exchange = Exchange::new(parts, body);
        if asked.demand.no_store || validation::is_for_the_origin(&exchange.parts.headers) {
            let mut response = inner.call(exchange.into_request()).await?;
            status::tell(&mut response, status::REQUEST);
            return Ok(response);
        }
        self.answer(inner, known, asked, exchange).await
    }

    /// A request that is not looked up.
    async fn pass<S: Inner>(&self, inner: Arc<S>, request: Request) -> Result<Response, Error> {
        let (parts, body) = request.into_parts();
        let (target, method, uri) = (Target::of(&parts), parts.method.clone(), parts.uri.clone());
        let head = Exchange::new(parts.clone(), bytes::Bytes::new());
        let invalidation = &self.0.tiers.invalidation;
        let known = target.known(None);
        let before = invalidation.purged(&known.tags);
        let asked = self.now();
        let mut response = inner.call(Request::from_parts(parts, body)).await?;
        let timing = Timing { asked, answered: self.now() };
        if changes::invalidates(&method, response.status()) {
            let undisturbed = invalidation.purged(&known.tags) == before;
            invalidation.purge(Purge::tag(target.tag()));
            for path in changes::named(&uri, &target.host, response.headers()) {
                invalidation.purge(Purge::tag(Target { path, host: target.host.clone() }.tag()));
            }
            let is_get = changes::is_of_its_target(&uri, &target.host, response.headers());
            if method == Method::POST && is_get && undisturbed && is_explicit(response.headers()) {
                return self.keep_posted(known, head, response, timing).await;
            }
        }
        let status = if is_safe(&method) { status::BYPASS } else { status::METHOD };
        status::tell(&mut response, status);
        Ok(response)
    }

    /// The answer to a POST that is what a GET would get (RFC 9110 section 9.3.3).
    async fn keep_posted(
        &self,
        known: Arc<Known>,
        exchange: Exchange,
        response: Response,
        timing: Timing,
    ) -> Result<Response, Error> {
        let stamp = self.0.tiers.invalidation.begin();
        let asked = Asked::default();
        let parts = exchange.parts.clone();
        let fill = Fill {
            cache: self.clone(),
            known: Arc::clone(&known),
            exchange,
            found: None,
            origin_only: true,
            shared: false,
        };
        let mut response = match fill.keep(stamp, response, timing).await? {
            Outcome::Kept(kept) => {
                let source = Source { known: &known, entry: &kept.entry, age: None, first_hand: kept.first_hand };
                answer::of(source, &asked, &parts).ok_or(Error::NotCached)?
            }
            Outcome::Passed(once) => once.into_inner().ok_or(Error::NotCached)?,
            Outcome::Failed { .. } => return Err(Error::NotCached),
        };
        status::tell(&mut response, status::METHOD);
        Ok(response)
    }

    /// HEAD, of which nothing good enough is stored: the answer is not stored, but what it says of what is stored
    /// counts (RFC 9111 section 4.3.5).
    pub(super) async fn head<S: Inner>(
        &self,
        inner: Arc<S>,
        known: Arc<Known>,
        exchange: Exchange,
        found: Option<Found>,
    ) -> Result<Response, Error> {
        let stamp = self.0.tiers.invalidation.begin();
        let asked = self.now();
        let mut response = inner.call(exchange.clone().into_request()).await?;
        let timing = Timing { asked, answered: self.now() };
        let stored = found.as_ref().filter(|found| found.entry.span.is_none() && found.entry.status == StatusCode::OK);
        if let Some(found) = stored.filter(|_| response.status() == StatusCode::OK) {
            let same = speaks_of(found, response.headers());
            let headers = validation::freshened(&found.entry.head, response.headers());
            let answered = Answered { status: StatusCode::OK, headers: &headers, timing };
            let key = self.0.tiers.resolve(known.key, &exchange.parts.headers);
            match known.fate(&self.0.terms.load().policy, &exchange, &answered) {
                Fate::Kept(keeping) if same => {
                    let fill =
                        Fill { cache: self.clone(), known, exchange, found: None, origin_only: true, shared: false };
                    fill.freshen(*keeping, &found.entry, stamp).await;
                }
                _ if !same => self.0.tiers.remove(&key),
                _ => {}
            }
        }
        let why = if found.is_some() { Why::Stale } else { Why::Miss };
        let status = status::not_stored(why, response.status());
        status::tell(&mut response, status);
        Ok(response)
    }
}

/// Is the answer to a HEAD about what is stored?
fn speaks_of(found: &Found, answered: &HeaderMap) -> bool {
    let same = |name| answered.get(&name).is_none_or(|new| found.entry.field(&name) == Some(new));
    let length = answered.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    same(header::ETAG)
        && same(header::LAST_MODIFIED)
        && length.is_none_or(|length: usize| length == found.entry.body.len())
}

/// Does an answer say itself how long it is fresh?
fn is_explicit(headers: &HeaderMap) -> bool {
    let control = super::subject::control(headers);
    control.max_age.or(control.shared_max_age).is_some() || headers.contains_key(header::EXPIRES)
}

#[cfg(test)]
mod tests;
