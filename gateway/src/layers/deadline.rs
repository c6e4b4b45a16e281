//! When a request must be answered: the caller's `X-Request-Timeout` or `grpc-timeout`, at most our own limit.
//!
//! The deadline travels inwards as an extension, is passed on to searchd, and is enforced here on the head and on the
//! body of the answer, whoever forgets it inside.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, Ready, ready};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use http_body::{Frame, SizeHint};
use serde::Deserialize;
use tokio::time::{Instant, Sleep};

use super::{Answering, classify};
use crate::body::{self, Body, BodyError, Request, Response};
use crate::error::Error;
use crate::request::Deadline;
use crate::route::Route;

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// For requests that ask for nothing, and the most that others get.
    #[serde(with = "humantime_serde")]
    pub unary: Duration,
    /// The same for streams: SSE, gRPC, exports, NDJSON inserts.
    #[serde(with = "humantime_serde")]
    pub stream: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { unary: Duration::from_secs(30), stream: Duration::from_secs(300) }
    }
}

const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout");

/// What is inside gets this much longer before its answer is cut off: it knows a better way to say goodbye.
const GRACE: Duration = Duration::from_millis(50);

#[derive(Clone)]
pub(crate) struct Layer {
    config: Config,
}

impl Layer {
    pub(crate) fn new(config: Config) -> Self {
        Self { config }
    }
}

impl<S> tower::Layer<S> for Layer {
    type Service = Service<S>;

    fn layer(&self, inner: S) -> Service<S> {
        Service { inner, config: self.config.clone() }
    }
}

pub(crate) struct Service<S> {
    inner: S,
    config: Config,
}

impl<S> hyper::service::Service<Request> for Service<S>
where
    S: hyper::service::Service<Request, Response = Response, Error = Error>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Error;
    type Future = Either<Answering, Either<S::Future, Ready<Result<Response, Error>>>>;

    fn call(&self, mut request: Request) -> Self::Future {
        let route = classify::route(&request);
        // A WebSocket lasts; its messages have deadlines of their own.
        if route == Route::WebSocket {
            return Either::Right(Either::Left(self.inner.call(request)));
        }
        let asked = match asked(request.headers(), route) {
            Ok(asked) => asked,
            Err(error) => return Either::Right(Either::Right(ready(Err(error)))),
        };
        let longest =
            if route.streams() || is_ndjson(request.headers()) { self.config.stream } else { self.config.unary };
        let deadline = Instant::now() + asked.map_or(longest, |asked| asked.min(longest));
        request.extensions_mut().insert(Deadline(deadline.into_std()));
        let grpc = route.is_grpc();
        let answer = self.inner.call(request);
        Either::Left(Box::pin(async move {
            let cut_off = deadline + GRACE;
            let response =
                tokio::time::timeout_at(cut_off, answer).await.map_err(|_elapsed| Error::DeadlineExceeded)??;
            Ok(response.map(|inner| bounded(inner, cut_off, grpc)))
        }))
    }
}

pub(crate) fn is_ndjson(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-ndjson"))
}

/// How long the caller waits.
fn asked(headers: &HeaderMap, route: Route) -> Result<Option<Duration>, Error> {
    if route.is_grpc()
        && let Some(value) = headers.get("grpc-timeout")
    {
        return grpc_timeout(value)
            .map(Some)
            .ok_or_else(|| Error::invalid("grpc-timeout", "is not at most 8 digits and one of H, M, S, m, u, n"));
    }
    let Some(value) = headers.get(REQUEST_TIMEOUT) else { return Ok(None) };
    request_timeout(value)
        .map(Some)
        .ok_or_else(|| Error::invalid("X-Request-Timeout", "is not a time above zero such as 250ms or 2s"))
}

/// `250ms`, `2s`, `1m`: digits and one unit.
fn request_timeout(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    if number.is_empty() || number.len() > 9 {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    let timeout = match unit {
        "us" => Duration::from_micros(number),
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number * 60),
        _ => return None,
    };
    (!timeout.is_zero()).then_some(timeout)
}

/// gRPC's `TimeoutValue TimeoutUnit` (gRPC over HTTP/2, section Requests).
fn grpc_timeout(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    if !text.is_ascii() || text.len() < 2 || text.len() > 9 {
        return None;
    }
    let (number, unit) = text.split_at(text.len() - 1);
    if !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Bodies that are already there need no timer.
fn bounded(inner: Body, cut_off: Instant, grpc: bool) -> Body {
    if http_body::Body::size_hint(&inner).exact().is_some() {
        return inner;
    }
    body::boxed(Bounded { inner, cut_off: Box::pin(tokio::time::sleep_until(cut_off)), grpc, ended: false })
}

/// A body that ends at the deadline: a gRPC stream with a status, any other with an error that resets it.
struct Bounded {
    inner: Body,
    cut_off: Pin<Box<Sleep>>,
    grpc: bool,
    ended: bool,
}

impl http_body::Body for Bounded {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        if self.cut_off.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.ended = true;
        self.inner = body::empty();
        if self.grpc {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from(i32::from(tonic::Code::DeadlineExceeded)));
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        Poll::Ready(Some(Err(Error::DeadlineExceeded.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};
    use hyper::service::Service as _;
    use tower::Layer as _;

    use super::*;

    fn header(text: &str) -> HeaderValue {
        text.parse().unwrap()
    }

    #[test]
    fn timeouts_are_read_strictly() {
        assert_eq!(request_timeout(&header("250ms")), Some(Duration::from_millis(250)));
        assert_eq!(request_timeout(&header("2s")), Some(Duration::from_secs(2)));
        for bad in ["", "250", "ms", "-1s", "1.5s", "0ms", "9999999999s", "1 s", "1h30m", "2S"] {
            assert_eq!(request_timeout(&header(bad)), None, "{bad}");
        }
        assert_eq!(grpc_timeout(&header("100m")), Some(Duration::from_millis(100)));
        assert_eq!(grpc_timeout(&header("0n")), Some(Duration::ZERO));
        for bad in ["", "S", "1", "123456789S", "+1S", "1s"] {
            assert_eq!(grpc_timeout(&header(bad)), None, "{bad}");
        }
    }

    async fn call(request: http::request::Builder, inner: Response) -> Result<Response, Error> {
        let inner = parking_lot::Mutex::new(Some(inner));
        let service = hyper::service::service_fn(move |_request: Request| {
            let response = inner.lock().take();
            async move {
                match response {
                    Some(response) => Ok(response),
                    None => std::future::pending().await,
                }
            }
        });
        let layered = classify::Layer.layer(Layer::new(Config::default()).layer(service));
        layered.call(request.body(body::empty()).unwrap()).await
    }

    fn endless() -> Response {
        Response::new(body::boxed(StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, BodyError>>())))
    }

    #[tokio::test(start_paused = true)]
    async fn an_invalid_timeout_is_refused_by_name() {
        let request = http::Request::builder().uri("/api/v1/search").header("x-request-timeout", "soon");
        let Err(Error::Malformed { violations, .. }) = call(request, endless()).await else { panic!("refused") };
        assert_eq!(violations[0].pointer, "X-Request-Timeout");
    }

    #[tokio::test(start_paused = true)]
    async fn a_grpc_stream_ends_with_a_status_and_others_with_an_error() {
        let request =
            http::Request::builder().uri("/nearfield.v1.VectorSearch/StreamSearch").header("grpc-timeout", "1S");
        let started = Instant::now();
        let collected = call(request, endless()).await.unwrap().into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["grpc-status"], "4");
        assert_eq!(started.elapsed(), Duration::from_secs(1) + GRACE);

        let request = http::Request::builder().uri("/api/v1/stream/search");
        let error = call(request, endless()).await.unwrap().into_body().collect().await.unwrap_err();
        assert!(matches!(Error::of_body(error), Error::DeadlineExceeded));
        assert_eq!(started.elapsed(), Duration::from_secs(301) + 2 * GRACE);
    }
}
