//! `POST /cache/warm`: asks ahead of time what will be asked, by the way that clients' requests take, and tells of its
//! progress as server-sent events.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http::{HeaderValue, Method, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::service::Service as _;
use nearfield_proto::v1::SearchRequest;
use serde::Serialize;

use super::{Dispatch, Inner, body};
use crate::body::{self as bodies, BodyError, Request, Response};
use crate::error::Error;
use crate::forward::codec::json::{Pointer, Report};
use crate::forward::codec::{self, DecodedSearch, answer, operating};
use crate::layers::Stack;
use crate::layers::response_cache::{Cache, Trend};
use crate::request::Caller;
use crate::route::Route;

/// By the cache, on requests to warm it.
#[derive(Clone)]
pub(crate) struct Cached {
    /// Answers from it and fills it.
    pub(crate) service: Stack<Error>,
    pub(crate) cache: Cache,
}

/// Requests that run at once.
const CONCURRENCY: usize = 8;
/// Requests behind which a progress event is sent.
const STEP: usize = 100;

#[derive(Serialize)]
#[serde(tag = "event")]
enum Event {
    #[serde(rename = "warm_start")]
    Start { total: usize, regions: Vec<String>, dry_run: bool },
    #[serde(rename = "warm_progress")]
    Progress { done: usize, failed: usize, total: usize },
    #[serde(rename = "warm_complete")]
    Complete { warmed: usize, failed: usize, hit_rate: Option<f64> },
}

pub(super) async fn warm(inner: &Arc<Inner>, request: Request) -> Result<Response, Error> {
    let (mut parts, incoming) = request.into_parts();
    codec::expect_json(&parts.headers)?;
    let asked = operating::warm(&body::read(incoming).await?)?;
    let regions = inner.regions.get();
    let here = regions.here();
    check_regions(&asked.regions, here)?;
    let cached = parts.extensions.remove::<Cached>();
    let measures = cached.is_some();
    let (mut trends, mut service) = (Vec::new(), Arc::new(Dispatch(inner.clone())) as Stack<Error>);
    if let Some(Cached { service: filling, cache }) = cached {
        let tenant = parts.extensions.get().and_then(|Caller(caller)| caller.tenant.as_deref());
        trends = cache.trends(tenant, &asked.collection, asked.trends).await;
        service = filling;
    }
    let total = asked.ids.len() + asked.queries.len() + trends.len();
    let start = Event::Start { total, regions: vec![here.to_owned()], dry_run: asked.dry_run };
    let rest: BoxStream<'static, Event> = if asked.dry_run {
        let complete = Event::Complete { warmed: 0, failed: 0, hit_rate: None };
        futures::stream::once(std::future::ready(complete)).boxed()
    } else {
        events(Warming { service, parts, asked: Arc::new(asked), trends, total, measures })
    };
    let events = futures::stream::once(std::future::ready(start)).chain(rest);
    let frames = events.map(|event| Ok::<_, BodyError>(Frame::data(told(&event))));
    let mut response = Response::new(bodies::boxed(StreamBody::new(frames)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

fn told(event: &Event) -> Bytes {
    let mut out = answer::Writer::default();
    out.raw("data: ").value(event).raw("\n\n");
    out.finish()
}

/// A gateway warms its own region; others have gateways of their own.
fn check_regions(regions: &[String], here: &str) -> Result<(), Error> {
    let report = Report::default();
    for (i, region) in regions.iter().enumerate().filter(|(_, region)| *region != here) {
        let at = Pointer::Root;
        report.add(&at.key("regions").index(i), format!("{region} is not this gateway's region, {here}"));
    }
    report.finish(())
}

/// What is warmed, for whom and through what.
struct Warming {
    service: Stack<Error>,
    /// The warming request's head: its caller's rights and traces go with each request.
    parts: http::request::Parts,
    asked: Arc<operating::Warm>,
    /// What is asked for the most, the hottest first.
    trends: Vec<Arc<Trend>>,
    total: usize,
    /// Whether there is a cache whose hits can be counted.
    measures: bool,
}

impl Warming {
    fn request(&self, index: usize) -> Request {
        let operating::Warm { collection, ids, queries, .. } = &*self.asked;
        if index < ids.len() {
            return self.get(Route::Embed, &codec::point::path(collection, &ids[index]));
        }
        let index = index - ids.len();
        if index < queries.len() {
            return self.search(&queries[index]);
        }
        self.again(&self.trends[index - queries.len()])
    }

    /// A question as somebody else put it; the answer is the one that this caller gets.
    fn again(&self, trend: &Trend) -> Request {
        let mut request = Request::new(bodies::full(trend.body.clone()));
        *request.method_mut() = trend.method.clone();
        *request.uri_mut() = trend.uri.clone();
        if let Some(media) = &trend.media {
            request.headers_mut().insert(header::CONTENT_TYPE, media.clone());
        }
        self.dress(&mut request, trend.route);
        request.extensions_mut().remove::<DecodedSearch>();
        request
    }

    fn get(&self, route: Route, path: &str) -> Request {
        let mut request = Request::new(bodies::empty());
        *request.uri_mut() = path.parse().unwrap_or_default();
        self.dress(&mut request, route);
        request
    }

    fn search(&self, search: &SearchRequest) -> Request {
        let mut request = Request::new(bodies::full(answer::search_body(search)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = http::Uri::from_static("/api/v1/search");
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.dress(&mut request, Route::Search);
        request.extensions_mut().remove::<DecodedSearch>();
        request
    }

    fn dress(&self, request: &mut Request, route: Route) {
        *request.extensions_mut() = self.parts.extensions.clone();
        request.extensions_mut().insert(route);
        for name in [header::HOST, header::HeaderName::from_static("traceparent")] {
            if let Some(value) = self.parts.headers.get(&name) {
                request.headers_mut().insert(name, value.clone());
            }
        }
    }

    /// Makes one request; whether it was answered well, and whether from a cache.
    async fn ask(&self, index: usize) -> Asked {
        let Ok(response) = self.service.call(self.request(index)).await else { return Asked::default() };
        let well = response.status().is_success();
        let status = response.headers().get("cache-status").and_then(|value| value.to_str().ok());
        let hit = status.is_some_and(|status| status.split(';').any(|part| part.trim() == "hit"));
        let whole = response.into_body().collect().await.is_ok();
        Asked { well: well && whole, hit }
    }
}

#[derive(Clone, Copy, Default)]
struct Asked {
    well: bool,
    hit: bool,
}

/// Runs the requests as the events are read: a reader that leaves ends them.
fn events(warming: Warming) -> BoxStream<'static, Event> {
    let (total, measures) = (warming.total, warming.measures);
    let warming = Arc::new(warming);
    let run = || {
        let warming = warming.clone();
        let ask = move |index| {
            let warming = warming.clone();
            async move { warming.ask(index).await }
        };
        futures::stream::iter(0..total).map(ask).buffer_unordered(CONCURRENCY).boxed()
    };
    let again = measures.then(run);
    let progress = Progress { first: run(), again, done: 0, failed: 0, total, complete: false };
    futures::stream::unfold(progress, |mut progress| async move { Some((progress.next().await?, progress)) }).boxed()
}

struct Progress {
    first: BoxStream<'static, Asked>,
    /// The same requests once more, to see what is answered from the cache.
    again: Option<BoxStream<'static, Asked>>,
    done: usize,
    failed: usize,
    total: usize,
    complete: bool,
}

impl Progress {
    async fn next(&mut self) -> Option<Event> {
        if self.complete {
            return None;
        }
        while let Some(asked) = self.first.next().await {
            self.done += 1;
            self.failed += usize::from(!asked.well);
            if self.done.is_multiple_of(STEP) {
                return Some(Event::Progress { done: self.done, failed: self.failed, total: self.total });
            }
        }
        self.complete = true;
        let mut hit_rate = None;
        if let Some(again) = self.again.take().filter(|_| self.total > 0) {
            let hits = again.filter(|asked| std::future::ready(asked.hit)).count().await;
            hit_rate = Some(hits as f64 / self.total as f64);
        }
        Some(Event::Complete { warmed: self.done - self.failed, failed: self.failed, hit_rate })
    }
}
