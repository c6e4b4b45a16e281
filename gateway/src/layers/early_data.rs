//! Requests that anybody may have sent again: what came in TLS early data (RFC 8446 section 8), here or on a hop before.
//!
//! A copy of early data is as good as the original until the handshake is done. So what changes nothing and costs little is
//! answered at once, and all else waits for the handshake: no copy gets that far. What a hop in front took early cannot be
//! waited for here, only refused (RFC 8470 section 5.2); its client then asks again behind its own handshake.

use std::sync::Arc;

use futures::future::{Either, Ready, ready};
use http::{HeaderName, Method};

use super::{Answering, classify};
use crate::body::{Request, Response};
use crate::error::Error;
use crate::request::Early;
use crate::route::Route;

/// By hops in front (RFC 8470 section 5.1). Whatever it says, and whoever says it, it says this: at worst a client refuses itself.
const EARLY_DATA: HeaderName = HeaderName::from_static("early-data");

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
    S: hyper::service::Service<Request, Response = Response, Error = Error> + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Error;
    type Future = Either<S::Future, Either<Ready<Result<Response, Error>>, Answering>>;

    fn call(&self, request: Request) -> Self::Future {
        if may_be_repeated(classify::route(&request), request.method()) {
            return Either::Left(self.inner.call(request));
        }
        if request.headers().contains_key(EARLY_DATA) {
            return Either::Right(Either::Left(ready(Err(Error::TooEarly))));
        }
        match request.extensions().get::<Early>().cloned() {
            None => Either::Left(self.inner.call(request)),
            Some(early) => {
                let inner = Arc::clone(&self.inner);
                Either::Right(Either::Right(Box::pin(async move {
                    early.settled().await;
                    inner.call(request).await
                })))
            }
        }
    }
}

/// Whether a copy of the request may be answered as the original is: it changes nothing (RFC 9110 section 9.2.1), is no act of
/// an administrator's, and costs about what any search does.
fn may_be_repeated(route: Route, method: &Method) -> bool {
    let is_safe = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) || method.as_str() == "QUERY";
    let is_plain = match route {
        Route::Collection
        | Route::Collections
        | Route::Embed
        | Route::HealthReady
        | Route::OpenApi
        | Route::Search
        | Route::SearchBatch
        | Route::StreamSearch => true,
        Route::Audit
        | Route::CachePurge
        | Route::CacheWarm
        | Route::Delete
        | Route::Export
        | Route::Grpc(_)
        | Route::Insert
        | Route::Key
        | Route::KeyRotate
        | Route::Keys
        | Route::Recall
        | Route::Regions
        | Route::Unknown
        | Route::Update
        | Route::WebSocket => false,
    };
    is_safe && is_plain
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use hyper::service::Service as _;
    use tokio_util::sync::CancellationToken;
    use tower::Layer as _;

    use super::*;
    use crate::body;

    fn request(method: &str, path: &str) -> Request {
        http::Request::builder().method(method).uri(path).body(body::empty()).unwrap()
    }

    fn answer(request: Request) -> impl Future<Output = Result<Response, Error>> {
        let inner = hyper::service::service_fn(|_: Request| async { Ok(Response::new(body::empty())) });
        classify::Layer.layer(Layer.layer(inner)).call(request)
    }

    const SAFE: [(&str, &str); 6] = [
        ("GET", "/api/v1/search?query_vector_id=a"),
        ("QUERY", "/api/v1/search"),
        ("QUERY", "/api/v1/search/batch"),
        ("HEAD", "/api/v1/embed/a"),
        ("GET", "/api/v1/stream/search?query_vector_id=a"),
        ("OPTIONS", "/api/v1/search"),
    ];
    const UNSAFE: [(&str, &str); 9] = [
        ("POST", "/api/v1/search"),
        ("POST", "/api/v1/insert"),
        ("PUT", "/api/v1/collections/a"),
        ("DELETE", "/api/v1/collections/a"),
        ("GET", "/api/v1/ws"),
        ("CONNECT", "/api/v1/ws"),
        ("GET", "/api/v1/keys"),
        ("GET", "/api/v1/export?collection=a"),
        ("POST", "/nearfield.v1.VectorSearch/Search"),
    ];

    #[test]
    fn what_a_hop_took_early_is_answered_when_it_is_safe_and_refused_else() {
        for (method, path) in SAFE.into_iter().chain(UNSAFE) {
            for told in ["1", "", "0", "nonsense"] {
                let mut request = request(method, path);
                request.headers_mut().append(EARLY_DATA, told.parse().unwrap());
                let refused = matches!(answer(request).now_or_never(), Some(Err(Error::TooEarly)));
                assert_eq!(refused, UNSAFE.contains(&(method, path)), "{method} {path} {told:?}");
            }
            assert!(matches!(answer(request(method, path)).now_or_never(), Some(Ok(_))), "{method} {path}");
        }
    }

    #[test]
    fn what_is_not_safe_waits_for_the_handshake() {
        for (method, path) in SAFE.into_iter().chain(UNSAFE) {
            let handshake = CancellationToken::new();
            let mut request = request(method, path);
            request.extensions_mut().insert(Early::until(handshake.clone()));
            let mut answer = std::pin::pin!(answer(request));
            let answered = answer.as_mut().now_or_never();
            assert_eq!(answered.is_none(), UNSAFE.contains(&(method, path)), "{method} {path}");
            handshake.cancel();
            assert!(answered.or_else(|| answer.now_or_never()).is_some_and(|answer| answer.is_ok()), "{method} {path}");
        }
    }
}
