//! A body has to come at some pace: a client that opens many requests and drips their bodies would hold all that a request
//! holds. Only the time spent waiting for the client counts, so a client that waits for the gateway loses nothing.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use serde::Deserialize;
use tokio::time::{Instant, Sleep};

use super::classify;
use crate::body::{self, Body, BodyError, Request, Response};
use crate::error::Error;
use crate::route::Route;

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long a body may keep the gateway waiting, whatever its length.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
    /// Bytes a second that it must have brought for each second beyond; 0: any pace will do.
    pub min_bytes_per_second: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { grace: Duration::from_secs(10), min_bytes_per_second: 1024 }
    }
}

impl Config {
    /// The longest that a body of which `bytes` have come may have been waited for.
    fn patience(&self, bytes: u64) -> Duration {
        self.grace + Duration::from_secs_f64(bytes as f64 / f64::from(self.min_bytes_per_second))
    }
}

#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) config: Config,
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

impl<S: hyper::service::Service<Request, Response = Response>> hyper::service::Service<Request> for Service<S> {
    type Response = Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, request: Request) -> S::Future {
        let route = classify::route(&request);
        // gRPC's streams may be silent in both directions; their calls have deadlines.
        let exempt = route.is_grpc() || route == Route::WebSocket || self.config.min_bytes_per_second == 0;
        if exempt || http_body::Body::is_end_stream(request.body()) {
            return self.inner.call(request);
        }
        let config = self.config.clone();
        self.inner.call(request.map(|inner| body::boxed(Paced::new(inner, config))))
    }
}

struct Paced {
    inner: Body,
    config: Config,
    bytes: u64,
    waited: Duration,
    /// Since when the client is waited for, and the end of patience with it.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Paced {
    fn new(inner: Body, config: Config) -> Self {
        Self { inner, config, bytes: 0, waited: Duration::ZERO, waiting: None }
    }
}

impl http_body::Body for Paced {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) {
            if let Some((since, _)) = this.waiting.take() {
                this.waited += since.elapsed();
            }
            if let Some(Ok(data)) = frame.as_ref().map(|frame| frame.as_ref().map(Frame::data_ref)) {
                this.bytes += data.map_or(0, |data| data.len() as u64);
            }
            return Poll::Ready(frame);
        }
        let (patience, waited) = (this.config.patience(this.bytes), this.waited);
        let (_, timer) = this.waiting.get_or_insert_with(|| {
            let now = Instant::now();
            (now, Box::pin(tokio::time::sleep_until(now + patience.saturating_sub(waited))))
        });
        if timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        this.waiting = None;
        this.inner = body::empty();
        Poll::Ready(Some(Err(Error::BodyTimeout.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    /// A body of `count` frames of `bytes`, each after `pause`.
    fn dripping(count: usize, bytes: usize, pause: Duration) -> Body {
        let frames = futures::stream::unfold(0, move |sent| async move {
            if sent == count {
                return None;
            }
            tokio::time::sleep_until(Instant::now() + pause).await;
            Some((Ok::<_, BodyError>(Frame::data(Bytes::from(vec![b'x'; bytes]))), sent + 1))
        });
        body::boxed(StreamBody::new(frames))
    }

    async fn check(body: Body, expected: Result<usize, u64>) {
        let started = Instant::now();
        let read = Paced::new(body, Config::default()).collect().await;
        let read = read.map(|read| read.to_bytes().len()).map_err(|error| {
            assert!(matches!(Error::of_body(error), Error::BodyTimeout));
            started.elapsed().as_secs()
        });
        assert_eq!(read, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_drips_is_cut_off_and_one_that_flows_is_not() {
        // Ten seconds, and one more for each kilobyte that came.
        check(dripping(1000, 1, Duration::from_secs(1)), Err(10)).await;
        check(dripping(1000, 512, Duration::from_secs(1)), Err(19)).await;
        check(dripping(1000, 1024, Duration::from_secs(1)), Ok(1_024_000)).await;
        check(dripping(9, 1, Duration::from_secs(1)), Ok(9)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn only_waiting_for_the_client_counts() {
        let mut body = Paced::new(dripping(100, 1, Duration::from_millis(90)), Config::default());
        while let Some(frame) = body.frame().await {
            frame.unwrap();
            // The reader is the slow one.
            tokio::time::sleep_until(Instant::now() + Duration::from_secs(5)).await;
        }
    }
}
