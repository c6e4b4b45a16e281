//! Compresses answers (br, gzip, zstd) for clients that ask, where it pays: not small ones, never SSE or gRPC, whose
//! messages must leave as they come.

use std::sync::Arc;

use futures::future::Either;
use http::{HeaderMap, HeaderValue, header};
use serde::Deserialize;
use tower_http::compression::predicate::{And, NotForContentType, Predicate, SizeAbove};
use tower_http::compression::{Compression, CompressionLayer, CompressionLevel};

use super::{Answering, AsTower};
use crate::body::{self, Request, Response};
use crate::error::Error;

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub enabled: bool,
    /// Answers of fewer bytes go out as they are.
    pub min_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { enabled: true, min_bytes: 1024 }
    }
}

/// Brotli's and zstd's defaults are for files; these cost about what gzip does and are still smaller.
const LEVEL: CompressionLevel = CompressionLevel::Precise(4);

#[derive(Clone)]
pub(crate) struct Layer {
    config: Config,
}

impl Layer {
    pub(crate) fn new(config: Config) -> Self {
        Self { config }
    }
}

type Worthwhile = And<And<And<SizeAbove, NotForContentType>, NotForContentType>, Transformable>;

impl<S> tower::Layer<S> for Layer {
    type Service = Service<S>;

    fn layer(&self, inner: S) -> Service<S> {
        let inner = Arc::new(inner);
        let worthwhile = SizeAbove::new(self.config.min_bytes)
            .and(NotForContentType::GRPC)
            .and(NotForContentType::SSE)
            .and(Transformable);
        let compressing = CompressionLayer::new().quality(LEVEL).compress_when(worthwhile).layer(AsTower::new(&inner));
        Service { inner, compressing, enabled: self.config.enabled }
    }
}

/// An origin that says `no-transform` is obeyed (RFC 9111 section 5.2.2.6).
#[derive(Clone, Copy)]
pub(crate) struct Transformable;

impl Predicate for Transformable {
    fn should_compress<B: http_body::Body>(&self, response: &http::Response<B>) -> bool {
        let control = response.headers().get(header::CACHE_CONTROL).and_then(|v| v.to_str().ok());
        !control.is_some_and(|v| v.contains("no-transform"))
            && response.status() != http::StatusCode::SWITCHING_PROTOCOLS
    }
}

pub(crate) struct Service<S> {
    inner: Arc<S>,
    compressing: Compression<AsTower<S>, Worthwhile>,
    enabled: bool,
}

impl<S> hyper::service::Service<Request> for Service<S>
where
    S: hyper::service::Service<Request, Response = Response, Error = Error>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Error;
    type Future = Either<S::Future, Answering>;

    fn call(&self, request: Request) -> Self::Future {
        if !self.enabled || !request.headers().contains_key(header::ACCEPT_ENCODING) {
            return Either::Left(self.inner.call(request));
        }
        let answer = tower::Service::call(&mut self.compressing.clone(), request);
        Either::Right(Box::pin(async move {
            let mut response = answer.await?;
            if response.headers().contains_key(header::CONTENT_ENCODING) {
                weaken(response.headers_mut());
            }
            Ok(response.map(body::boxed))
        }))
    }
}

/// A strong validator speaks of exact bytes, and those have just changed (RFC 9110 section 8.8.1).
fn weaken(headers: &mut HeaderMap) {
    let strong = headers.get(header::ETAG).filter(|tag| tag.as_bytes().starts_with(b"\""));
    let weak = strong.and_then(|tag| HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat()).ok());
    if let Some(weak) = weak {
        headers.insert(header::ETAG, weak);
    }
}

#[cfg(test)]
mod tests {
    use hyper::service::Service as _;
    use tower::Layer as _;

    use super::*;

    async fn check(kind: &'static str, bytes: usize, accept: Option<&str>, expected: Option<&str>) {
        let inner = hyper::service::service_fn(move |_request: Request| async move {
            let mut response = Response::new(body::full("x".repeat(bytes)));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            response.headers_mut().insert(header::ETAG, HeaderValue::from_static("\"v1\""));
            Ok(response)
        });
        let mut request = http::Request::builder().uri("/");
        if let Some(accept) = accept {
            request = request.header(header::ACCEPT_ENCODING, accept);
        }
        let service = Layer::new(Config::default()).layer(inner);
        let response = service.call(request.body(body::empty()).unwrap()).await.unwrap();
        let encoding = response.headers().get(header::CONTENT_ENCODING).map(|v| v.to_str().unwrap());
        assert_eq!(encoding, expected, "{kind} {bytes} {accept:?}");
        let tag = if expected.is_some() { "W/\"v1\"" } else { "\"v1\"" };
        assert_eq!(response.headers()[header::ETAG], tag);
    }

    #[tokio::test]
    async fn only_what_is_asked_for_and_pays_is_compressed() {
        check("application/json", 5000, Some("br"), Some("br")).await;
        check("application/json", 5000, Some("gzip, zstd;q=0.5"), Some("gzip")).await;
        check("application/json", 5000, Some("zstd"), Some("zstd")).await;
        check("application/json", 5000, Some("identity"), None).await;
        check("application/json", 5000, None, None).await;
        check("application/json", 100, Some("br"), None).await;
        check("text/event-stream", 5000, Some("br"), None).await;
        check("application/grpc", 5000, Some("br"), None).await;
    }
}
