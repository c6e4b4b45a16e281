//! gRPC-Web, for browsers, which see no trailers: translated to gRPC and back by tonic's layer, on every HTTP version.
//! Everything inside sees plain gRPC, and its refusals are translated too.

use std::sync::Arc;

use futures::future::Either;
use http::{HeaderMap, HeaderValue, header};
use tower::{ServiceBuilder, ServiceExt};

use super::{Answering, AsTower};
use crate::body::{self, Request, Response};

#[derive(Clone)]
pub(crate) struct Layer;

impl<S> tower::Layer<S> for Layer {
    type Service = Service<S>;

    fn layer(&self, inner: S) -> Service<S> {
        Service { inner: Arc::new(inner) }
    }
}

pub(crate) struct Service<S> {
    inner: Arc<S>,
}

impl<S> hyper::service::Service<Request> for Service<S>
where
    S: hyper::service::Service<Request, Response = Response> + Send + Sync + 'static,
    S::Error: Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Either<S::Future, Answering<S::Error>>;

    fn call(&self, mut request: Request) -> Self::Future {
        let Some(kind) = kind(request.headers()) else { return Either::Left(self.inner.call(request)) };
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        // A caller that asks for nothing in particular is answered as it wrote.
        if kind_of(headers.get(header::ACCEPT)).is_none() {
            headers.insert(header::ACCEPT, HeaderValue::from_static(kind));
        }
        let translated = ServiceBuilder::new()
            .layer(tonic_web::GrpcWebLayer::new())
            .map_request(|request: http::Request<tonic::body::Body>| request.map(body::boxed))
            .map_response(|response: Response| response.map(tonic::body::Body::new))
            .service(AsTower::new(&self.inner));
        let answer = translated.oneshot(request);
        Either::Right(Box::pin(async move { Ok(answer.await?.map(body::boxed)) }))
    }
}

/// The request's kind of gRPC-Web, without parameters; none for any other request.
fn kind(headers: &HeaderMap) -> Option<&'static str> {
    kind_of(headers.get(header::CONTENT_TYPE))
}

fn kind_of(value: Option<&HeaderValue>) -> Option<&'static str> {
    let media = value?.to_str().ok()?.split(';').next()?.trim();
    KINDS.into_iter().find(|kind| kind.eq_ignore_ascii_case(media))
}

const KINDS: [&str; 4] = [
    "application/grpc-web",
    "application/grpc-web+proto",
    "application/grpc-web-text",
    "application/grpc-web-text+proto",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_from_grpc_and_from_each_other() {
        let check = |media: &'static str, expected: Option<&str>| {
            assert_eq!(kind_of(Some(&HeaderValue::from_static(media))), expected, "{media}");
        };
        check("application/grpc-web", Some("application/grpc-web"));
        check("application/grpc-web-text; charset=utf-8", Some("application/grpc-web-text"));
        check("Application/gRPC-Web+proto", Some("application/grpc-web+proto"));
        check("application/grpc", None);
        check("application/grpc+proto", None);
        check("application/grpc-web+json", None);
        check("application/grpc-websocket", None);
    }
}
