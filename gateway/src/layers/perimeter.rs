//! Keeps out what did not come through the perimeter, where clients are to come through it (`client.mode`).
//!
//! Whoever finds the gateway's own address would pass by the load balancer, and by what it defends against. Health is
//! told to anybody: the balancer's own checks carry no proof.

use futures::future::{Either, Ready, ready};

use super::classify;
use super::client_addr::Mode;
use crate::body::{Request, Response};
use crate::error::Error;
use crate::request::Proven;
use crate::route::{GrpcMethod, Route};

#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) mode: Mode,
}

impl<S> tower::Layer<S> for Layer {
    type Service = Service<S>;

    fn layer(&self, inner: S) -> Service<S> {
        Service { inner, mode: self.mode }
    }
}

pub(crate) struct Service<S> {
    inner: S,
    mode: Mode,
}

impl<S: hyper::service::Service<Request, Response = Response, Error = Error>> hyper::service::Service<Request>
    for Service<S>
{
    type Response = Response;
    type Error = Error;
    type Future = Either<S::Future, Ready<Result<Response, Error>>>;

    fn call(&self, request: Request) -> Self::Future {
        if admits(self.mode, &request) {
            Either::Left(self.inner.call(request))
        } else {
            Either::Right(ready(Err(Error::OutsidePerimeter)))
        }
    }
}

/// Did it come by the way that it has to come by?
pub(super) fn admits(mode: Mode, request: &Request) -> bool {
    let is_health = matches!(classify::route(request), Route::HealthReady | Route::Grpc(GrpcMethod::Health));
    mode == Mode::Direct || is_health || request.extensions().get::<Proven>().is_some()
}

#[cfg(test)]
mod tests {
    use hyper::service::Service as _;
    use tower::Layer as _;

    use super::*;
    use crate::body;

    #[tokio::test]
    async fn what_lacks_the_proof_is_refused_where_it_is_asked_for() {
        let check = async |mode: Mode, path: &str, proven: bool, admitted: bool| {
            let inner = hyper::service::service_fn(|_: Request| async { Ok(Response::new(body::empty())) });
            let mut request = http::Request::builder().uri(path).body(body::empty()).unwrap();
            if proven {
                request.extensions_mut().insert(Proven);
            }
            let answer = classify::Layer.layer(Layer { mode }.layer(inner)).call(request).await;
            assert_eq!(answer.is_ok(), admitted, "{mode:?} {path} {proven}");
        };
        check(Mode::Direct, "/api/v1/search", false, true).await;
        check(Mode::Fronted, "/api/v1/search", true, true).await;
        check(Mode::Fronted, "/api/v1/search", false, false).await;
        check(Mode::Fronted, "/api/v1/openapi.json", false, false).await;
        check(Mode::Fronted, "/nowhere", false, false).await;
        check(Mode::Fronted, "/health/ready", false, true).await;
        check(Mode::Fronted, "/grpc.health.v1.Health/Check", false, true).await;
    }
}
