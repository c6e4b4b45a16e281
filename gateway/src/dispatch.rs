//! From a classified request to what answers it: the innermost service of the pipeline.

mod audit;
mod body;
mod collections;
mod export;
mod grpc;
mod health;
mod keys;
mod lines;
mod points;
mod purge;
mod regions;
mod reply;
mod searches;
mod warm;

pub(crate) use self::warm::Cached;

pub(crate) use body::read as read_body;

use std::sync::Arc;
use std::time::Instant;

use futures::future::BoxFuture;
use http::HeaderValue;
use nearfield_auth::Authenticator;
use nearfield_cache::feed::Name;
use tonic::{Code, Status};

use crate::audit::Audit;
use crate::body::{self as bodies, Request, Response};
use crate::current::Current;
use crate::error::Error;
use crate::forward::{CallContext, Upstream};
use crate::layers::rate_limit::cost;
use crate::layers::rate_limit::toll::Toll;
use crate::region::{Chosen, Regions};
use crate::route::{GrpcMethod, Route};
use crate::{openapi, sse, websocket};

/// Answers every route. Clones share everything.
#[derive(Clone)]
pub struct Dispatch(Arc<Inner>);

/// What the gateway itself keeps, for those who administer it.
#[derive(Clone)]
pub struct Administered {
    pub authenticator: Current<Authenticator>,
    pub audit: Audit,
    /// Which of the gateways this is.
    pub name: Name,
}

struct Inner {
    administered: Administered,
    regions: Current<Regions>,
    stream: Current<sse::Config>,
    websockets: websocket::Server,
}

impl Dispatch {
    /// Answers by the searchds of `regions`.
    pub fn new(
        regions: impl Into<Current<Regions>>,
        websockets: websocket::Server,
        stream: impl Into<Current<sse::Config>>,
        administered: Administered,
    ) -> Self {
        Self(Arc::new(Inner { administered, regions: regions.into(), stream: stream.into(), websockets }))
    }
}

impl hyper::service::Service<Request> for Dispatch {
    type Response = Response;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Response, Error>>;

    fn call(&self, request: Request) -> Self::Future {
        let inner = self.0.clone();
        Box::pin(async move { inner.answer(request).await })
    }
}

/// One request, taken apart once for all that answer it.
struct Job {
    parts: http::request::Parts,
    body: bodies::Body,
    context: CallContext,
    regions: Arc<Regions>,
    /// Who answers, once that is known.
    chosen: Option<Chosen>,
    /// The collection that it was chosen for; empty for none.
    collection: String,
}

impl Job {
    /// Who answers calls about `collection`: the nearest region that can, and may hold it.
    async fn upstream(&mut self, collection: &str) -> Result<Upstream, Error> {
        collection.clone_into(&mut self.collection);
        let chosen = self.regions.route_for(&self.context, collection).await?;
        Ok(self.choose(chosen))
    }

    /// The same for data that is confined to `areas`.
    fn upstream_within(&mut self, areas: &[String]) -> Result<Upstream, Error> {
        let chosen = self.regions.route(&self.context, areas)?;
        Ok(self.choose(chosen))
    }

    fn choose(&mut self, chosen: Chosen) -> Upstream {
        self.chosen.insert(chosen).upstream.clone()
    }

    fn take_body(&mut self) -> bodies::Body {
        std::mem::replace(&mut self.body, bodies::empty())
    }

    fn path(&self) -> &str {
        self.parts.uri.path()
    }

    fn query(&self) -> &str {
        self.parts.uri.query().unwrap_or_default()
    }
}

/// Pays the rest of what a request costs, now that its body is known.
fn pay(parts: &http::request::Parts, units: impl FnOnce(&cost::Config) -> u32) -> Result<(), Error> {
    match parts.extensions.get::<Toll>() {
        Some(toll) => toll.pay(units(toll.prices())),
        None => Ok(()),
    }
}

impl Inner {
    async fn answer(self: &Arc<Self>, request: Request) -> Result<Response, Error> {
        let route = request.extensions().get::<Route>().copied().unwrap_or_else(|| Route::of(request.uri().path()));
        if route == Route::Unknown {
            return Err(Error::NotFound("there is nothing at this path".to_owned()));
        }
        if route == Route::Grpc(GrpcMethod::Unknown) {
            return Err(Status::unimplemented("there is no such method").into());
        }
        if !route.allows(request.method()) {
            return Err(Error::MethodNotAllowed { allow: route.allow() });
        }
        // A HEAD is answered as a GET; a layer outside keeps the body, and dropping it ends the call behind it.
        Ok(match route {
            Route::Grpc(GrpcMethod::Health) => return health::grpc(self.regions.clone(), request).await,
            Route::Audit => audit::list(&self.administered.audit, &request.into_parts().0).await?,
            Route::Key | Route::KeyRotate | Route::Keys => {
                keys::answer(&self.administered.authenticator.get(), request).await?
            }
            Route::CachePurge => purge::purge(&self.administered.name, request).await?,
            Route::CacheWarm => warm::warm(self, request).await?,
            Route::OpenApi => openapi::response(),
            Route::Regions => regions::list(&self.regions.get(), request.extensions()),
            Route::WebSocket => return self.websockets.accept(request),
            _ => self.forward(route, request).await?,
        })
    }

    /// What a region's searchds answer.
    async fn forward(&self, route: Route, request: Request) -> Result<Response, Error> {
        let started = Instant::now();
        let (parts, body) = request.into_parts();
        let context = CallContext::of(&parts)?;
        let mut job =
            Job { parts, body, context, regions: self.regions.get(), chosen: None, collection: String::new() };
        let answered = match route {
            Route::Collection => collections::one(&mut job).await,
            Route::Collections => collections::list(&mut job).await,
            Route::Delete => points::delete(&mut job).await,
            Route::Embed => points::embed(&mut job).await,
            Route::Export => export::export(&mut job).await,
            Route::Grpc(method) => grpc::pass(&mut job, method).await,
            Route::Insert => points::insert(&mut job).await,
            Route::Recall => collections::recall(&mut job).await,
            Route::Search => searches::search(&mut job).await,
            Route::SearchBatch => searches::batch(&mut job).await,
            Route::StreamSearch => searches::stream(&mut job, &self.stream.get()).await,
            Route::Update => points::update(&mut job).await,
            Route::Audit
            | Route::CachePurge
            | Route::CacheWarm
            | Route::HealthReady
            | Route::Key
            | Route::KeyRotate
            | Route::Keys
            | Route::OpenApi
            | Route::Regions
            | Route::Unknown
            | Route::WebSocket => Err(Error::NotFound("there is nothing at this path".to_owned())),
        };
        if let Err(Error::Upstream(status)) = &answered
            && status.code() == Code::PermissionDenied
        {
            // It may be elsewhere than was known. Who asks again is answered by who may.
            job.regions.forget_residency(&job.context, &job.collection).await;
        }
        let mut response = answered?;
        let headers = response.headers_mut();
        let timing = format!("upstream;dur={:.3}", started.elapsed().as_secs_f64() * 1_000.0);
        headers.append("server-timing", HeaderValue::try_from(timing).expect("digits and a word"));
        if let Some(Chosen { name, may_keep, .. }) = job.chosen {
            headers.insert("nearfield-region", name);
            if !may_keep {
                reply::keep_nowhere(headers);
            }
        }
        Ok(response)
    }
}
