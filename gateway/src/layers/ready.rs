//! Answers `/health/ready` on the public port: for load balancers, so before credentials, limits and caches.

use futures::future::{Either, Ready, ready};
use http::{HeaderValue, StatusCode, header};
use nearfield_telemetry::admin::ready_json;
use nearfield_telemetry::readiness::Readiness;

use super::classify;
use crate::body::{self, Request, Response};
use crate::error::Error;
use crate::route::Route;

#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) readiness: Readiness,
}

impl<S> tower::Layer<S> for Layer {
    type Service = Service<S>;

    fn layer(&self, inner: S) -> Service<S> {
        Service { inner, readiness: self.readiness.clone() }
    }
}

pub(crate) struct Service<S> {
    inner: S,
    readiness: Readiness,
}

impl<S: hyper::service::Service<Request, Response = Response, Error = Error>> hyper::service::Service<Request>
    for Service<S>
{
    type Response = Response;
    type Error = Error;
    type Future = Either<S::Future, Ready<Result<Response, Error>>>;

    fn call(&self, request: Request) -> Self::Future {
        if classify::route(&request) != Route::HealthReady {
            return Either::Left(self.inner.call(request));
        }
        let state = self.readiness.state();
        let mut response = Response::new(body::full(ready_json(&state)));
        if !self.readiness.is_ready() {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Either::Right(ready(Ok(response)))
    }
}
