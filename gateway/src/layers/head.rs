//! An answer to HEAD has the fields of the answer to GET and no body (RFC 9110, section 9.3.2). HTTP/1.1's codec would
//! see to that by itself, HTTP/2's and HTTP/3's do not.

use http::{HeaderValue, Method, header};
use http_body::Body as _;

use super::Answering;
use crate::body::{self, Request, Response};

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
        let is_head = request.method() == Method::HEAD;
        let answer = self.inner.call(request);
        Box::pin(async move {
            let mut response = answer.await?;
            if is_head {
                let length = response.body().size_hint().exact();
                if let Some(length) = length {
                    response.headers_mut().entry(header::CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
                }
                *response.body_mut() = body::empty();
            }
            Ok(response)
        })
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use hyper::service::Service as _;
    use tower::Layer as _;

    use super::*;

    async fn check(method: Method, length: Option<&str>, expected: &str) {
        let inner = hyper::service::service_fn(|_request: Request| async {
            Ok::<_, std::convert::Infallible>(Response::new(body::full("answer")))
        });
        let request = http::Request::builder().method(method).body(body::empty()).unwrap();
        let (parts, body) = Layer.layer(inner).call(request).await.unwrap().into_parts();
        let told = parts.headers.get(header::CONTENT_LENGTH).map(|v| v.to_str().unwrap());
        assert_eq!((told, &*body.collect().await.unwrap().to_bytes()), (length, expected.as_bytes()));
    }

    #[tokio::test]
    async fn only_the_answer_to_head_loses_its_body() {
        check(Method::HEAD, Some("6"), "").await;
        check(Method::GET, None, "answer").await;
    }
}
