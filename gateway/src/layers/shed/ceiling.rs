//! The most that may be in flight of each class, authenticated or not: what a flood can take of the process's memory.
//!
//! A request holds its place until the last byte of its answer is out. The refusal costs one atomic and says when to
//! come back; what is admitted is never dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::class::Class;
use super::criticality::Criticality;
use super::metrics::{Metrics, Reason};
use super::sampler::Gauge;
use super::{Config, jittered};
use crate::body::{self, Held, Request, Response};
use crate::error::Error;
use crate::layers::Answering;
use crate::request::Leases;
use futures::future::{Either, Ready, ready};

/// For each place in flight behind the gateway, how many may be under way in it: cached answers need none there, and
/// others wait for one.
const READS_UNDER_WAY: usize = 2;

#[derive(Clone)]
pub(crate) struct Layer {
    rooms: Arc<Rooms>,
}

struct Rooms {
    reads: Arc<Places>,
    writes: Arc<Places>,
    streams: Arc<Places>,
    retry_after: Duration,
    metrics: Metrics,
    gauge: Gauge,
}

impl Layer {
    pub(super) fn new(config: &Config, metrics: Metrics, gauge: Gauge) -> Self {
        let [reads, writes, streams] = sizes(config).map(|size| Arc::new(Places::new(size)));
        let retry_after = config.retry_after;
        Self { rooms: Arc::new(Rooms { reads, writes, streams, retry_after, metrics, gauge }) }
    }

    pub(super) fn renewed(&self, config: &Config) -> Self {
        let Rooms { reads, writes, streams, metrics, gauge, .. } = &*self.rooms;
        let [reads, writes, streams] = [reads, writes, streams].map(Arc::clone);
        let (retry_after, metrics, gauge) = (config.retry_after, metrics.clone(), gauge.clone());
        Self { rooms: Arc::new(Rooms { reads, writes, streams, retry_after, metrics, gauge }) }
    }

    /// Of each class, places taken and all.
    pub(super) fn seen(&self) -> [(Class, [usize; 2]); 3] {
        let Rooms { reads, writes, streams, .. } = &*self.rooms;
        let seen = |places: &Places| [&places.taken, &places.size].map(|value| value.load(Ordering::Relaxed));
        [(Class::Read, seen(reads)), (Class::Write, seen(writes)), (Class::Stream, seen(streams))]
    }

    pub(super) fn resize(&self, config: &Config) {
        let Rooms { reads, writes, streams, .. } = &*self.rooms;
        for (places, size) in [reads, writes, streams].into_iter().zip(sizes(config)) {
            places.size.store(size, Ordering::Relaxed);
        }
    }
}

/// Of reads, writes and streams.
fn sizes(config: &Config) -> [usize; 3] {
    let [reads, writes] = [config.max_reads, config.max_writes].map(|calls| calls.saturating_mul(READS_UNDER_WAY));
    [reads, writes, config.max_streams]
}

/// So many may be in; those who are stay when there are to be fewer.
struct Places {
    size: AtomicUsize,
    taken: AtomicUsize,
}

impl Places {
    fn new(size: usize) -> Self {
        Self { size: AtomicUsize::new(size), taken: AtomicUsize::new(0) }
    }

    fn enter(self: &Arc<Self>) -> Option<Taken> {
        let before = self.taken.fetch_add(1, Ordering::Relaxed);
        let taken = Taken(self.clone());
        (before < self.size.load(Ordering::Relaxed)).then_some(taken)
    }
}

/// A place, free again when dropped.
struct Taken(Arc<Places>);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Rooms {
    fn enter(&self, class: Class) -> Result<Taken, Error> {
        let (room, reason) = match class {
            Class::Read => (&self.reads, "too many reads are in flight"),
            Class::Stream => (&self.streams, "too many streams are open"),
            Class::Write => (&self.writes, "too many writes are in flight"),
        };
        room.enter().ok_or_else(|| {
            // Nobody knows yet who asks.
            self.metrics.shed(class, Criticality::Normal, Reason::Ceiling);
            Error::Shed { reason, retry_after: jittered(self.retry_after) }
        })
    }
}

impl<S> tower::Layer<S> for Layer {
    type Service = Service<S>;

    fn layer(&self, inner: S) -> Service<S> {
        Service { inner, rooms: self.rooms.clone() }
    }
}

pub(crate) struct Service<S> {
    inner: S,
    rooms: Arc<Rooms>,
}

impl<S> hyper::service::Service<Request> for Service<S>
where
    S: hyper::service::Service<Request, Response = Response, Error = Error>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Error;
    type Future = Either<Answering, Either<S::Future, Ready<Result<Response, Error>>>>;

    fn call(&self, request: Request) -> Self::Future {
        let class = Class::of(&request);
        let place = match self.rooms.enter(class) {
            Ok(place) => place,
            Err(error) => return Either::Right(Either::Right(ready(Err(error)))),
        };
        if let Some(leases) = request.extensions().get::<Leases>() {
            leases.keep(place);
            return Either::Right(Either::Left(self.inner.call(request)));
        }
        let rooms = self.rooms.clone();
        let began = Instant::now();
        let answer = self.inner.call(request);
        Either::Left(Box::pin(async move {
            let response = answer.await?;
            if class == Class::Read {
                rooms.gauge.answered(began.elapsed());
            }
            Ok(response.map(|inner| body::boxed(Held::new(inner, place))))
        }))
    }
}

#[cfg(test)]
mod tests {
    use hyper::service::Service as _;
    use prometheus_client::registry::Registry;
    use tower::Layer as _;

    use super::*;
    use crate::route::Route;

    fn request(path: &str) -> Request {
        let mut request = http::Request::builder().uri(path).body(body::empty()).unwrap();
        request.extensions_mut().insert(Route::of(path));
        request
    }

    #[tokio::test]
    async fn a_place_is_held_until_the_answer_is_out_and_classes_do_not_share() {
        let config = Config { max_streams: 1, ..Config::default() };
        let inner = hyper::service::service_fn(|_request: Request| async { Ok(Response::new(body::full("answer"))) });
        let metrics = Metrics::register(&mut Registry::default());
        let service = Layer::new(&config, metrics, Gauge::default()).layer(inner);
        let first = service.call(request("/api/v1/stream/search")).await.unwrap();
        let refused = service.call(request("/api/v1/stream/search")).await;
        assert!(matches!(refused, Err(Error::Shed { .. })));
        service.call(request("/api/v1/insert")).await.unwrap();
        drop(first);
        service.call(request("/api/v1/stream/search")).await.unwrap();
    }

    #[test]
    fn those_who_are_in_stay_when_there_are_to_be_fewer_and_count() {
        let layer = |max_streams| Config { max_streams, ..Config::default() };
        let first = Layer::new(&layer(3), Metrics::register(&mut Registry::default()), Gauge::default());
        let enter = |layer: &Layer| layer.rooms.enter(Class::Stream).ok();
        let mut held: Vec<_> = (0..3).filter_map(|_| enter(&first)).collect();
        let second = first.renewed(&layer(1));
        second.resize(&layer(1));
        for _ in 0..3 {
            assert!(enter(&second).is_none());
            held.pop();
        }
        assert!(enter(&second).is_some());
    }
}
