//! Lets in as many calls as what is behind the gateway answers without making them wait for each other, by class.
//!
//! It stands inside the cache: an answer that is there needs no place, and what a place is held for is the upstream's
//! time alone. Streams have no place here: how long they last says nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::Either;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::class::Class;
use super::criticality::Criticality;
use super::metrics::{Metrics, Reason};
use super::room::{Full, Place, Room};
use super::{Config, jittered};
use crate::body::{self, Held, Request, Response};
use crate::error::Error;
use crate::layers::Answering;
use crate::request::Deadline;

/// Clones are the same rooms.
#[derive(Clone)]
pub(crate) struct Layer(Arc<Rooms>);

struct Rooms {
    reads: Room,
    writes: Room,
    retry_after: Duration,
    metrics: Metrics,
}

impl Layer {
    pub(super) fn new(config: &Config, metrics: Metrics, registry: &mut Registry) -> Self {
        let room = |ceiling| Room::new(&config.adaptive, &config.queue, ceiling);
        let (reads, writes) = (room(config.max_reads), room(config.max_writes));
        registry.register_collector(Box::new(Shown { reads: reads.clone(), writes: writes.clone() }));
        Self(Arc::new(Rooms { reads, writes, retry_after: config.retry_after, metrics }))
    }

    pub(super) fn renewed(&self, config: &Config) -> Self {
        let Rooms { reads, writes, metrics, .. } = &*self.0;
        let (reads, writes, metrics) = (reads.clone(), writes.clone(), metrics.clone());
        Self(Arc::new(Rooms { reads, writes, retry_after: config.retry_after, metrics }))
    }

    /// Of each class, as [`Room::seen`] has it.
    pub(super) fn seen(&self) -> [(Class, [u64; 3]); 2] {
        [(Class::Read, self.0.reads.seen()), (Class::Write, self.0.writes.seen())]
    }

    pub(super) fn resize(&self, config: &Config) {
        for (room, ceiling) in [(&self.0.reads, config.max_reads), (&self.0.writes, config.max_writes)] {
            room.resize(&config.adaptive, &config.queue, ceiling);
        }
    }

    /// A place for a call, at once or after a moment; none for what needs none.
    ///
    /// # Errors
    /// [`Error::Shed`] when there is none in time.
    pub(crate) async fn enter(
        &self,
        class: Class,
        criticality: Criticality,
        deadline: Option<Instant>,
    ) -> Result<Option<Place>, Error> {
        let room = match class {
            Class::Read => &self.0.reads,
            Class::Write => &self.0.writes,
            Class::Stream => return Ok(None),
        };
        let full = match room.enter(criticality, deadline).await {
            Ok(place) => return Ok(Some(place)),
            Err(full) => full,
        };
        let (why, reason) = match full {
            Full::Crowded => (Reason::QueueFull, "too many requests wait already"),
            Full::Waited => (Reason::QueueTime, "no place became free in time"),
        };
        self.0.metrics.shed(class, criticality, why);
        Err(Error::Shed { reason, retry_after: jittered(self.0.retry_after) })
    }
}

impl<S> tower::Layer<S> for Layer {
    type Service = Service<S>;

    fn layer(&self, inner: S) -> Service<S> {
        Service { inner: Arc::new(inner), layer: self.clone() }
    }
}

pub(crate) struct Service<S> {
    inner: Arc<S>,
    layer: Layer,
}

impl<S> hyper::service::Service<Request> for Service<S>
where
    S: hyper::service::Service<Request, Response = Response, Error = Error> + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Error;
    type Future = Either<S::Future, Answering>;

    fn call(&self, request: Request) -> Self::Future {
        let class = Class::of(&request);
        if class == Class::Stream {
            return Either::Left(self.inner.call(request));
        }
        let criticality = request.extensions().get().copied().unwrap_or_default();
        let deadline = request.extensions().get().map(|Deadline(at)| *at);
        let (inner, layer) = (Arc::clone(&self.inner), self.layer.clone());
        Either::Right(Box::pin(async move {
            let mut place = layer.enter(class, criticality, deadline).await?;
            let response = inner.call(request).await?;
            if let Some(place) = &mut place {
                place.answered();
            }
            Ok(response.map(|inner| body::boxed(Held::new(inner, place))))
        }))
    }
}

/// The rooms as a scrape finds them.
#[derive(Clone)]
struct Shown {
    reads: Room,
    writes: Room,
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shown")
    }
}

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder) -> std::fmt::Result {
        let names = [
            ("gateway_admission_limit", "calls that may be in flight, as found by what they take"),
            ("gateway_admission_in_flight", "calls in flight"),
            ("gateway_admission_waiting", "calls that wait for a place"),
        ];
        for (index, (name, help)) in names.into_iter().enumerate() {
            let kind = ConstGauge::new(0_u64).metric_type();
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (class, room) in [(Class::Read, &self.reads), (Class::Write, &self.writes)] {
                let labels = [("class", class.label())];
                ConstGauge::new(room.seen()[index]).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use hyper::service::Service as _;
    use tower::Layer as _;

    use super::*;
    use crate::route::Route;

    fn request(path: &str, criticality: Criticality) -> Request {
        let mut request = http::Request::builder().uri(path).body(body::empty()).unwrap();
        request.extensions_mut().insert(Route::of(path));
        request.extensions_mut().insert(criticality);
        request
    }

    fn layer(set: impl FnOnce(&mut Config)) -> Layer {
        let mut config = Config::default();
        config.adaptive.enabled = false;
        set(&mut config);
        let mut registry = Registry::default();
        Layer::new(&config, Metrics::register(&mut registry), &mut registry)
    }

    #[tokio::test]
    async fn a_place_is_held_until_the_answer_is_out_and_classes_do_not_share() {
        let layer = layer(|config| {
            config.max_reads = 1;
            config.queue.max_waiting = 0;
        });
        let inner = hyper::service::service_fn(|_request: Request| async { Ok(Response::new(body::full("answer"))) });
        let service = layer.layer(inner);
        let first = service.call(request("/api/v1/search", Criticality::Normal)).await.unwrap();
        let refused = service.call(request("/api/v1/search", Criticality::Critical)).await;
        let Err(Error::Shed { retry_after, .. }) = refused else { panic!("{refused:?}") };
        assert!((1..=3).contains(&retry_after.as_secs()), "{retry_after:?}");
        service.call(request("/api/v1/insert", Criticality::Normal)).await.unwrap();
        service.call(request("/api/v1/stream/search", Criticality::Normal)).await.unwrap();
        drop(first);
        service.call(request("/api/v1/search", Criticality::Normal)).await.unwrap();
    }
}
