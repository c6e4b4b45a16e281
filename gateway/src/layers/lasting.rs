//! Ends answers that outlive what they began by: streams whose caller's credentials count no more, and idle ones when the
//! process must shed. Each is told why in its own way: server-sent events by an event, gRPC by its status.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::future::{BoxFuture, Either};
use http_body::{Body as _, Frame, SizeHint};
use nearfield_auth::{Authenticator, Principal, Rejection};

use super::{Answering, classify};
use crate::body::{self, Body, BodyError, Request, Response};
use crate::current::Current;
use crate::error::Error;
use crate::request::{Caller, RequestId};
use crate::route::Route;
use crate::streams::{Registered, Streams};
use crate::{rescue, sse};

#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) authenticator: Current<Authenticator>,
    pub(crate) streams: Streams,
}

impl<S> tower::Layer<S> for Layer {
    type Service = Service<S>;

    fn layer(&self, inner: S) -> Service<S> {
        Service { inner, layer: self.clone() }
    }
}

pub(crate) struct Service<S> {
    inner: S,
    layer: Layer,
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
        let Some(goodbye) = Goodbye::of(classify::route(&request)) else {
            return Either::Left(self.inner.call(request));
        };
        let extensions = request.extensions();
        let principal = extensions.get().map(|Caller(principal)| principal.clone());
        let request_id = extensions.get::<RequestId>().cloned();
        let (layer, answer) = (self.layer.clone(), self.inner.call(request));
        Either::Right(Box::pin(async move {
            let response = answer.await?;
            // What is there already does not last.
            if !response.status().is_success() || response.body().size_hint().exact().is_some() {
                return Ok(response);
            }
            Ok(response.map(|inner| layer.watch(inner, goodbye, principal, request_id)))
        }))
    }
}

impl Layer {
    fn watch(
        self,
        inner: Body,
        goodbye: Goodbye,
        principal: Option<Arc<Principal>>,
        request_id: Option<RequestId>,
    ) -> Body {
        let registered = self.streams.add();
        let entry = registered.entry.clone();
        let ended = Box::pin(async move {
            let reason = tokio::select! {
                rejection = ended(&self.authenticator, principal.as_deref()) => return Error::InvalidCredentials(rejection),
                reason = entry.closing() => reason,
            };
            Error::Shed { reason, retry_after: RETRY_AFTER }
        });
        body::boxed(Lasting { inner, ended: Some(ended), goodbye, request_id, registered })
    }
}

/// Resolves when the credentials that made a principal count no more, with why.
pub(crate) async fn ended(authenticator: &Current<Authenticator>, principal: Option<&Principal>) -> Rejection {
    let Some(principal) = principal else { return std::future::pending().await };
    loop {
        // Before the look, so that no replacement is missed.
        let replaced = authenticator.replaced();
        let current = authenticator.get();
        tokio::select! {
            () = current.ended(principal) => break,
            () = replaced => {}
        }
    }
    let expired = principal.expires.is_some_and(|at| UNIX_EPOCH + Duration::from_secs(at) <= SystemTime::now());
    match principal.key {
        Some(_) if expired => Rejection::KeyExpired,
        Some(_) => Rejection::KeyRevoked,
        None => Rejection::Expired,
    }
}

/// How a stream that has begun is ended before its time.
#[derive(Clone, Copy)]
enum Goodbye {
    /// By an event that tells the problem.
    Event,
    /// By a gRPC status.
    Status,
    /// There is no way to say it: it breaks off, so that nobody takes a part for the whole.
    Break,
}

impl Goodbye {
    fn of(route: Route) -> Option<Self> {
        match route {
            Route::CacheWarm | Route::StreamSearch => Some(Self::Event),
            Route::Export => Some(Self::Break),
            Route::Grpc(_) => Some(Self::Status),
            _ => None,
        }
    }
}

struct Lasting {
    inner: Body,
    /// None once it has ended.
    ended: Option<BoxFuture<'static, Error>>,
    goodbye: Goodbye,
    request_id: Option<RequestId>,
    registered: Registered,
}

impl Lasting {
    fn end(&mut self, error: Error) -> Result<Frame<Bytes>, BodyError> {
        (self.ended, self.inner) = (None, body::empty());
        match self.goodbye {
            Goodbye::Event => Ok(Frame::data(sse::failure(&error, self.request_id.as_ref().map(RequestId::as_str)))),
            Goodbye::Status => Ok(Frame::trailers(rescue::grpc_trailers(&error))),
            Goodbye::Break => Err(error.into()),
        }
    }
}

impl http_body::Body for Lasting {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(ended) = &mut self.ended else { return Poll::Ready(None) };
        // First, or a stream that always has something to say would never end.
        if let Poll::Ready(error) = ended.as_mut().poll(cx) {
            return Poll::Ready(Some(self.end(error)));
        }
        let frame = Pin::new(&mut self.inner).poll_frame(cx);
        if frame.is_ready() {
            self.registered.entry.touch();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.ended.is_none() || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// What a stream that was shed is told to wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};
    use hyper::service::Service as _;
    use tower::Layer as _;

    use super::*;

    async fn answered(streams: &Streams, path: &str) -> Response {
        let authenticator = Authenticator::start(&nearfield_auth::Config::default()).await.unwrap();
        let layer = Layer { authenticator: Current::from(authenticator), streams: streams.clone() };
        let endless = hyper::service::service_fn(|_: Request| async {
            let first = futures::stream::iter([Ok::<_, BodyError>(Frame::data(Bytes::from_static(b"first")))]);
            let body = StreamBody::new(futures::StreamExt::chain(first, futures::stream::pending()));
            Ok(Response::new(body::boxed(body)))
        });
        let mut request = http::Request::builder().uri(path).body(body::empty()).unwrap();
        // A key of a store that is no more.
        let principal = Principal { key: Some("00".to_owned()), ..Principal::default() };
        if path.contains("revoked") {
            request.extensions_mut().insert(Caller(Arc::new(principal)));
        }
        classify::Layer.layer(layer.layer(endless)).call(request).await.unwrap()
    }

    #[tokio::test]
    async fn what_is_idle_is_told_why_it_ends() {
        let streams = Streams::default();
        let shed = async |path: &str| {
            let mut body = answered(&streams, path).await.into_body();
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "first");
            assert_eq!(streams.close_idle(Duration::ZERO, 9, "short of memory"), 1);
            let last = body.frame().await.unwrap();
            assert!(last.is_err() || body.frame().await.is_none());
            drop(body);
            assert!(streams.is_empty());
            last
        };
        let event = shed("/api/v1/stream/search").await.unwrap().into_data().unwrap();
        let event = std::str::from_utf8(&event).unwrap();
        assert!(event.starts_with("data: {\"event\":\"error\"") && event.contains("short of memory"), "{event}");
        assert!(event.ends_with("\n\n"), "{event}");
        let trailers = shed("/nearfield.v1.VectorSearch/BidirectionalSearch").await.unwrap().into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "14");
        assert!(matches!(shed("/api/v1/export?collection=c").await.map_err(Error::of_body), Err(Error::Shed { .. })));
    }

    #[tokio::test]
    async fn a_stream_ends_with_its_callers_key() {
        let streams = Streams::default();
        let body = answered(&streams, "/api/v1/stream/search?revoked").await.into_body();
        let told = body.collect().await.unwrap().to_bytes();
        let told = std::str::from_utf8(&told).unwrap();
        assert!(told.contains("\"status\":401") && told.contains("revoked"), "{told}");
    }
}
