//! Puts the [`Route`] into the request, once, so that every layer speaks of the same thing.

use crate::body::{Request, Response};
use crate::route::Route;

#[derive(Clone)]
pub(crate) struct Layer;

impl<S> tower::Layer<S> for Layer {
    type Service = Service<S>;

    fn layer(&self, inner: S) -> Service<S> {
        Service { inner }
    }
}

pub(crate) struct Service<S> {
    inner: S,
}

impl<S: hyper::service::Service<Request, Response = Response>> hyper::service::Service<Request> for Service<S> {
    type Response = Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, mut request: Request) -> S::Future {
        let route = Route::of(request.uri().path());
        request.extensions_mut().insert(route);
        self.inner.call(request)
    }
}

/// The route that [`Service`] put there.
pub(crate) fn route(request: &Request) -> Route {
    request.extensions().get().copied().unwrap_or(Route::Unknown)
}
