//! Turns every [`Error`] and every panic from inside into an answer; outside of it nothing fails.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use http::{HeaderMap, header};

use super::{Answering, classify};
use crate::body::{Request, Response};
use crate::error::Error;
use crate::request::RequestId;
use crate::rescue;

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

/// A panic's message, as an error that the log can hold.
#[derive(Debug, thiserror::Error)]
#[error("panicked: {0}")]
struct Panicked(String);

impl<S> hyper::service::Service<Request> for Service<S>
where
    S: hyper::service::Service<Request, Response = Response, Error = Error>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Answering<Infallible>;

    fn call(&self, request: Request) -> Self::Future {
        let grpc = is_grpc(&request);
        let id = request.extensions().get::<RequestId>().cloned();
        let called = std::panic::catch_unwind(AssertUnwindSafe(|| self.inner.call(request)));
        Box::pin(async move {
            let answered = match called {
                Ok(answer) => AssertUnwindSafe(answer).catch_unwind().await,
                Err(panic) => Err(panic),
            };
            let error = match answered {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) => error,
                Err(panic) => Error::Internal(Arc::new(Panicked(message(&*panic)))),
            };
            if matches!(error, Error::Internal(_)) {
                tracing::error!(error = &error as &dyn std::error::Error, "a request failed inside the gateway");
            }
            if grpc {
                return Ok(rescue::grpc_response(&error));
            }
            Ok(rescue::response(&error, id.as_ref().map(RequestId::as_str)))
        })
    }
}

/// Whether refusals are told in gRPC's way.
fn is_grpc(request: &Request) -> bool {
    classify::route(request).is_grpc() || has_grpc_content(request.headers())
}

pub(crate) fn has_grpc_content(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use http_body_util::BodyExt;
    use hyper::service::Service as _;
    use tower::Layer as _;

    use super::*;
    use crate::body;

    async fn answer(path: &str, inner: fn() -> Result<Response, Error>) -> Response {
        let inner = hyper::service::service_fn(move |_request: Request| async move { inner() });
        let service = classify::Layer.layer(Layer.layer(inner));
        service.call(http::Request::builder().uri(path).body(body::empty()).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn a_panic_is_an_answer_that_tells_nothing_of_its_cause() {
        let response = answer("/api/v1/search", || panic!("secret")).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        assert!(!String::from_utf8_lossy(&bytes).contains("secret"));
    }

    #[tokio::test]
    async fn grpc_callers_get_a_grpc_status() {
        let response = answer("/nearfield.v1.VectorSearch/Search", || Err(Error::NoRegion)).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["grpc-status"], "14");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/grpc");
    }
}
