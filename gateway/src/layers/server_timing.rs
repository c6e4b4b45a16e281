//! Says on every answer how long the gateway took (`Server-Timing: total`), behind what the layers inside said of
//! themselves.

use std::time::Instant;

use http::HeaderName;

use super::Answering;
use crate::body::{Request, Response};
use crate::field::Text;

pub(crate) const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

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

impl<S> hyper::service::Service<Request> for Service<S>
where
    S: hyper::service::Service<Request, Response = Response>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Answering<S::Error>;

    fn call(&self, request: Request) -> Self::Future {
        let started = Instant::now();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let mut response = answer.await?;
            let total = Text::new().text("total;dur=").millis(started.elapsed()).value();
            response.headers_mut().append(SERVER_TIMING, total);
            Ok(response)
        })
    }
}
