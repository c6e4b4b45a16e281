//! Refuses what no route takes: unknown paths and methods, before anything is spent on them.

use futures::future::{Either, Ready, ready};
use http::{HeaderMap, Version, header};

use super::classify;
use super::rescue::has_grpc_content;
use crate::body::{Request, Response};
use crate::error::Error;
use crate::route::{GrpcMethod, Route};

#[derive(Clone)]
pub(crate) struct Layer {
    /// Header fields of a request, of any transport.
    pub(crate) max_headers: usize,
}

impl<S> tower::Layer<S> for Layer {
    type Service = Service<S>;

    fn layer(&self, inner: S) -> Service<S> {
        Service { inner, max_headers: self.max_headers }
    }
}

pub(crate) struct Service<S> {
    inner: S,
    max_headers: usize,
}

impl<S: hyper::service::Service<Request, Response = Response, Error = Error>> hyper::service::Service<Request>
    for Service<S>
{
    type Response = Response;
    type Error = Error;
    type Future = Either<S::Future, Ready<Result<Response, Error>>>;

    fn call(&self, request: Request) -> Self::Future {
        match refusal(&request, self.max_headers) {
            Some(error) => Either::Right(ready(Err(error))),
            None => Either::Left(self.inner.call(request)),
        }
    }
}

fn refusal(request: &Request, max_headers: usize) -> Option<Error> {
    // hyper counts for HTTP/1.1; the other two come with a limit on bytes only.
    if request.headers().len() > max_headers {
        return Some(Error::HeadTooLarge);
    }
    if request.version() == Version::HTTP_11 && request.headers().get_all(header::HOST).iter().count() != 1 {
        return Some(Error::malformed("an HTTP/1.1 request has exactly one Host"));
    }
    if !is_framed_plainly(request.headers()) {
        return Some(Error::malformed("Transfer-Encoding is not just chunked"));
    }
    let route = classify::route(request);
    match route {
        Route::Grpc(GrpcMethod::Unknown) => Some(unimplemented(request)),
        Route::Unknown if has_grpc_content(request.headers()) => Some(unimplemented(request)),
        Route::Unknown => Some(Error::NotFound(format!("there is nothing at {}", request.uri().path()))),
        _ if !route.allows(request.method()) => Some(Error::MethodNotAllowed { allow: route.allow() }),
        _ => None,
    }
}

/// Another coding, or chunked twice, is one that readers disagree about (RFC 9112 section 6.1). The listener closes behind
/// any body in chunks.
fn is_framed_plainly(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(only), None) => only.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}

/// gRPC's word for a method that is not there.
fn unimplemented(request: &Request) -> Error {
    tonic::Status::unimplemented(format!("there is no method {}", request.uri().path())).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body;

    fn check(method: &str, path: &str, expected: Option<&str>) {
        let mut request =
            http::Request::builder().method(method).uri(path).header("host", "x").body(body::empty()).unwrap();
        request.extensions_mut().insert(Route::of(path));
        let refused = refusal(&request, 100).map(|e| e.to_string());
        assert_eq!(refused.as_deref(), expected, "{method} {path}");
    }

    #[test]
    fn only_known_targets_pass() {
        check("GET", "/api/v1/search", None);
        check("POST", "/nearfield.v1.VectorSearch/Search", None);
        check("PUT", "/api/v1/search", Some("the method is not allowed here"));
        check("GET", "/nothing", Some("there is nothing at /nothing"));
        check(
            "POST",
            "/nearfield.v1.VectorSearch/Guess",
            Some("searchd answered Unimplemented: there is no method /nearfield.v1.VectorSearch/Guess"),
        );
    }

    #[test]
    fn a_body_is_in_chunks_and_in_nothing_else() {
        let check = |values: &[&str], expected| {
            let values = values.iter().map(|value| (header::TRANSFER_ENCODING, value.parse().unwrap()));
            assert_eq!(is_framed_plainly(&values.collect()), expected);
        };
        check(&[], true);
        check(&["Chunked"], true);
        check(&["gzip, chunked"], false);
        check(&["chunked, chunked"], false);
        check(&["identity", "chunked"], false);
    }

    #[test]
    fn too_many_fields_are_refused_on_every_transport() {
        let mut request = http::Request::builder().uri("/api/v1/search").version(Version::HTTP_2);
        for i in 0..101 {
            request = request.header(format!("x-{i}"), "1");
        }
        let request = request.body(body::empty()).unwrap();
        assert!(matches!(refusal(&request, 100), Some(Error::HeadTooLarge)));
    }
}
