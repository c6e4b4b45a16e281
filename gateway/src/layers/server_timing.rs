//! Says on every answer how long the gateway took (`Server-Timing: total`), behind what the layers inside said of
//! themselves.

use std::task::{Context, Poll};
use std::time::Instant;

use http::{HeaderName, HeaderValue};

use super::Answering;
use crate::body::{Request, Response};

pub(crate) const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

#[derive(Clone)]
pub(crate) struct Layer;

impl<S> tower::Layer<S> for Layer {
    type Service = Service<S>;

    fn layer(&self, inner: S) -> Service<S> {
        Service { inner }
    }
}

#[derive(Clone)]
pub(crate) struct Service<S> {
    inner: S,
}

impl<S> tower::Service<Request> for Service<S>
where
    S: tower::Service<Request, Response = Response>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Answering<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let started = Instant::now();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let mut response = answer.await?;
            let total = format!("total;dur={:.3}", started.elapsed().as_secs_f64() * 1000.0);
            if let Ok(total) = HeaderValue::from_str(&total) {
                response.headers_mut().append(SERVER_TIMING, total);
            }
            Ok(response)
        })
    }
}
