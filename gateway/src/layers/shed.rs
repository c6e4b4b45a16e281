//! Protects the process: a limit on requests in flight, with room set apart for each class, so that slow streams or a
//! bulk load never keep searches out.
//!
//! A request holds its place until the last byte of its answer is out. The refusal costs one atomic and says when to
//! come back; what is admitted is never dropped.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{Either, Map, Ready, ready};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::classify;
use crate::body::{self, Held, Request, Response};
use crate::error::Error;
use crate::request::Leases;
use crate::route::{GrpcMethod, Route};

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Searches and look-ups in flight.
    pub max_reads: usize,
    /// Writes in flight.
    pub max_writes: usize,
    /// Streams and WebSockets open.
    pub max_streams: usize,
    /// What a refused client is told to wait (`Retry-After`).
    #[serde(with = "humantime_serde")]
    pub retry_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_reads: 4096, max_writes: 512, max_streams: 50_000, retry_after: Duration::from_secs(1) }
    }
}

/// What shares a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Class {
    Read,
    Stream,
    Write,
}

impl Class {
    fn of(route: Route) -> Self {
        match route {
            Route::CachePurge
            | Route::Delete
            | Route::Insert
            | Route::Update
            | Route::Grpc(GrpcMethod::Write | GrpcMethod::Admin) => Self::Write,
            Route::CacheWarm | Route::Export | Route::StreamSearch | Route::WebSocket => Self::Stream,
            Route::Grpc(GrpcMethod::Reflection) => Self::Stream,
            Route::Audit
            | Route::Collection
            | Route::Collections
            | Route::Embed
            | Route::Grpc(GrpcMethod::Health | GrpcMethod::Read | GrpcMethod::Unknown)
            | Route::HealthReady
            | Route::Key
            | Route::KeyRotate
            | Route::Keys
            | Route::OpenApi
            | Route::Recall
            | Route::Regions
            | Route::Search
            | Route::SearchBatch
            | Route::Unknown => Self::Read,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    class: Class,
}

#[derive(Clone)]
pub(crate) struct Layer {
    rooms: Arc<Rooms>,
}

struct Rooms {
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    retry_after: Duration,
    shed: Family<Labels, Counter>,
}

impl Layer {
    pub(crate) fn new(config: &Config, registry: &mut Registry) -> Self {
        let shed = Family::<Labels, Counter>::default();
        registry.sub_registry_with_prefix("gateway").register(
            "requests_shed",
            "requests refused because their class was full",
            shed.clone(),
        );
        let room = |places| Arc::new(Semaphore::new(places));
        Self {
            rooms: Arc::new(Rooms {
                reads: room(config.max_reads),
                writes: room(config.max_writes),
                streams: room(config.max_streams),
                retry_after: config.retry_after,
                shed,
            }),
        }
    }
}

impl Rooms {
    fn enter(&self, class: Class) -> Result<OwnedSemaphorePermit, Error> {
        let (room, reason) = match class {
            Class::Read => (&self.reads, "too many reads are in flight"),
            Class::Stream => (&self.streams, "too many streams are open"),
            Class::Write => (&self.writes, "too many writes are in flight"),
        };
        room.clone().try_acquire_owned().map_err(|_full| {
            self.shed.get_or_create(&Labels { class }).inc();
            Error::Shed { reason, retry_after: self.retry_after }
        })
    }
}

impl<S> tower::Layer<S> for Layer {
    type Service = Service<S>;

    fn layer(&self, inner: S) -> Service<S> {
        Service { inner, rooms: self.rooms.clone() }
    }
}

#[derive(Clone)]
pub(crate) struct Service<S> {
    inner: S,
    rooms: Arc<Rooms>,
}

type Hold = Box<dyn FnOnce(Result<Response, Error>) -> Result<Response, Error> + Send>;

impl<S: tower::Service<Request, Response = Response, Error = Error>> tower::Service<Request> for Service<S> {
    type Response = Response;
    type Error = Error;
    type Future = Either<Map<S::Future, Hold>, Either<S::Future, Ready<Result<Response, Error>>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match self.rooms.enter(Class::of(classify::route(&request))) {
            Ok(place) => {
                if let Some(leases) = request.extensions().get::<Leases>() {
                    leases.keep(place);
                    return Either::Right(Either::Left(self.inner.call(request)));
                }
                let hold: Hold = Box::new(move |answer| Ok(answer?.map(|inner| body::boxed(Held::new(inner, place)))));
                Either::Left(self.inner.call(request).map(hold))
            }
            Err(error) => Either::Right(Either::Right(ready(Err(error)))),
        }
    }
}

#[cfg(test)]
mod tests {
    use tower::{Layer as _, Service as _};

    use super::*;

    fn request(path: &str) -> Request {
        let mut request = http::Request::builder().uri(path).body(body::empty()).unwrap();
        request.extensions_mut().insert(Route::of(path));
        request
    }

    #[tokio::test]
    async fn a_place_is_held_until_the_answer_is_out_and_classes_do_not_share() {
        let config = Config { max_reads: 1, ..Config::default() };
        let inner = tower::service_fn(|_request: Request| async { Ok(Response::new(body::full("answer"))) });
        let mut service = Layer::new(&config, &mut Registry::default()).layer(inner);
        let first = service.call(request("/api/v1/search")).await.unwrap();
        let refused = service.call(request("/api/v1/search")).await;
        assert!(matches!(refused, Err(Error::Shed { .. })));
        service.call(request("/api/v1/insert")).await.unwrap();
        drop(first);
        service.call(request("/api/v1/search")).await.unwrap();
    }
}
