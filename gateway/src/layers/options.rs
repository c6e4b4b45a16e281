//! What a path can do: `OPTIONS` is answered here (RFC 9110 section 9.3.7), without credentials, and what a QUERY may
//! bring is told where one was refused (`Accept-Query`, RFC 10008).

use futures::FutureExt;
use futures::future::{Either, Map, Ready, ready};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};

use super::client_addr::Mode;
use super::{classify, perimeter};
use crate::body::{self, Request, Response};
use crate::error::Error;
use crate::request::RequestId;
use crate::rescue;
use crate::route::Route;

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

type Answered<E> = Result<Response, E>;

impl<S: hyper::service::Service<Request, Response = Response>> hyper::service::Service<Request> for Service<S> {
    type Response = Response;
    type Error = S::Error;
    type Future = Either<Ready<Answered<S::Error>>, Map<S::Future, fn(Answered<S::Error>) -> Answered<S::Error>>>;

    fn call(&self, request: Request) -> Self::Future {
        let route = classify::route(&request);
        // Preflights too are answered outside of the perimeter's layer.
        if request.method() == Method::OPTIONS && !perimeter::admits(self.mode, &request) {
            let id = request.extensions().get().map(RequestId::as_str);
            return Either::Left(ready(Ok(rescue::response(&Error::OutsidePerimeter, id))));
        }
        // A preflight is CORS's, which stands inside.
        let preflight = request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        if request.method() == Method::OPTIONS && route != Route::Unknown && !preflight {
            return Either::Left(ready(Ok(options(route))));
        }
        let tell = if route.allows(&Method::QUERY) { tell_queries } else { std::convert::identity };
        Either::Right(self.inner.call(request).map(tell))
    }
}

fn options(route: Route) -> Response {
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::ALLOW, HeaderValue::from_static(route.allow()));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if route.allows(&Method::QUERY) {
        headers.insert(ACCEPT_QUERY, JSON);
    }
    response
}

fn tell_queries<E>(answered: Answered<E>) -> Answered<E> {
    answered.map(|mut response| {
        if matches!(response.status(), StatusCode::METHOD_NOT_ALLOWED | StatusCode::UNSUPPORTED_MEDIA_TYPE) {
            response.headers_mut().insert(ACCEPT_QUERY, JSON);
        }
        response
    })
}

const ACCEPT_QUERY: HeaderName = HeaderName::from_static("accept-query");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use hyper::service::Service as _;
    use tower::Layer as _;

    use super::*;

    async fn check(method: Method, path: &str, inner: StatusCode, expected: (u16, Option<&str>, Option<&str>)) {
        let answer = move |_request: Request| {
            let mut response = Response::new(body::empty());
            *response.status_mut() = inner;
            ready(Ok::<_, Infallible>(response))
        };
        let service = classify::Layer.layer(Layer { mode: Mode::Direct }.layer(hyper::service::service_fn(answer)));
        let request = http::Request::builder().method(method).uri(path).body(body::empty()).unwrap();
        let response = service.call(request).await.unwrap();
        let told = |name| response.headers().get(name).map(|value: &HeaderValue| value.to_str().unwrap());
        assert_eq!((response.status().as_u16(), told(header::ALLOW), told(ACCEPT_QUERY)), expected, "{path}");
    }

    #[tokio::test]
    async fn nothing_is_told_outside_of_the_perimeter() {
        let inner =
            hyper::service::service_fn(|_: Request| async { Ok::<_, Infallible>(Response::new(body::empty())) });
        let check = async |set: &dyn Fn(&mut Request), expected: u16| {
            let mut request = http::Request::options("/api/v1/search").body(body::empty()).unwrap();
            set(&mut request);
            let service = classify::Layer.layer(Layer { mode: Mode::Fronted }.layer(inner));
            assert_eq!(service.call(request).await.unwrap().status(), expected);
        };
        check(&|_| {}, 403).await;
        let preflight = HeaderValue::from_static("POST");
        check(&|request| drop(request.headers_mut().insert("access-control-request-method", preflight.clone())), 403)
            .await;
        let prove = |request: &mut Request| {
            request.extensions_mut().insert(crate::request::Proven);
        };
        check(&prove, 204).await;
    }

    #[tokio::test]
    async fn what_a_path_can_do_is_told() {
        let ok = StatusCode::OK;
        let all = Some("GET, HEAD, POST, QUERY, OPTIONS");
        check(Method::OPTIONS, "/api/v1/search", ok, (204, all, Some("application/json"))).await;
        check(Method::OPTIONS, "/api/v1/insert", ok, (204, Some("POST, OPTIONS"), None)).await;
        check(Method::OPTIONS, "/nothing", StatusCode::NOT_FOUND, (404, None, None)).await;
        check(Method::QUERY, "/api/v1/search", ok, (200, None, None)).await;
        let refused = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        check(Method::QUERY, "/api/v1/search", refused, (415, None, Some("application/json"))).await;
        check(Method::POST, "/api/v1/insert", refused, (415, None, None)).await;
    }
}
