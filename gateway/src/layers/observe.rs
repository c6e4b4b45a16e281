//! Watches every request from its head to the last byte of its answer: a span in the caller's trace, RED metrics with
//! bounded labels, and one line in the access log.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, StatusCode};
use http_body::{Frame, SizeHint};
use nearfield_telemetry::trace_context::TraceContext;
use serde::Deserialize;
use tracing::{Instrument, Span};

use super::{Answering, classify};
use crate::body::{self, Body, BodyError, Request, Response};
use crate::request::{ClientAddr, RequestId, Transport};
use crate::route::Route;

pub(crate) mod metrics;

use metrics::{Asked, Metrics, Outcome, Region, Tier};

/// The settings' section `[access_log]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Of answers that went well, the share that is logged; others always are.
    pub success_ratio: f64,
    /// From this on an answer that went well is logged always.
    #[serde(with = "humantime_serde")]
    pub slow: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { success_ratio: 1.0, slow: Duration::from_secs(1) }
    }
}

#[derive(Clone)]
pub(crate) struct Layer {
    metrics: Arc<Metrics>,
    config: Config,
}

impl Layer {
    pub(crate) fn new(config: Config, metrics: Metrics) -> Self {
        Self { metrics: Arc::new(metrics), config }
    }
}

impl<S> tower::Layer<S> for Layer {
    type Service = Service<S>;

    fn layer(&self, inner: S) -> Service<S> {
        Service { inner, metrics: self.metrics.clone(), config: self.config.clone() }
    }
}

pub(crate) struct Service<S> {
    inner: S,
    metrics: Arc<Metrics>,
    config: Config,
}

impl<S> hyper::service::Service<Request> for Service<S>
where
    S: hyper::service::Service<Request, Response = Response>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Answering<S::Error>;

    fn call(&self, mut request: Request) -> Self::Future {
        let mut record = Record::begin(&request, self.metrics.clone(), self.config.clone());
        let trace = TraceContext::begin(request.headers(), &record.span);
        trace.inject(request.headers_mut());
        record.trace = Some(trace);
        let span = record.span.clone();
        let answer = span.in_scope(|| self.inner.call(request)).instrument(span);
        Box::pin(async move {
            let response = answer.await?;
            record.head(&response);
            Ok(response.map(|inner| body::boxed(Observed { inner, record })))
        })
    }
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// What is known of one request. Dropping it ends the request: in the log, the metrics and the trace.
struct Record {
    metrics: Arc<Metrics>,
    config: Config,
    span: Span,
    trace: Option<TraceContext>,
    started: Instant,
    route: Route,
    transport: Transport,
    method: Method,
    path: String,
    client: Option<ClientAddr>,
    id: Option<RequestId>,
    /// Absent until there is an answer: the client may leave before.
    status: Option<StatusCode>,
    grpc_status: Option<i32>,
    answered_by: (Tier, Region),
    first_byte: Option<Duration>,
    sent: u64,
    /// The body came to its end; otherwise the client left, or the answer broke off.
    complete: bool,
}

impl Record {
    fn begin(request: &Request, metrics: Arc<Metrics>, config: Config) -> Self {
        let route = classify::route(request);
        let transport = request.extensions().get().copied().unwrap_or(Transport::Http1);
        let id = request.extensions().get::<RequestId>().cloned();
        metrics.begin(route, transport);
        let span = tracing::info_span!(
            "request",
            otel.name = format!("{} {}", request.method(), route.label()),
            otel.kind = "server",
            http.request.method = %request.method(),
            url.path = request.uri().path(),
            http.route = route.label(),
            network.protocol.version = transport.version(),
            http.response.status_code = tracing::field::Empty,
            request_id = id.as_ref().map(RequestId::as_str),
        );
        Self {
            metrics,
            config,
            span,
            trace: None,
            started: Instant::now(),
            route,
            transport,
            method: request.method().clone(),
            // Without the query: it may hold what a client would not want in a log.
            path: request.uri().path().to_owned(),
            client: request.extensions().get().copied(),
            id,
            status: None,
            grpc_status: None,
            answered_by: (Tier::Edge, Region::of(&HeaderMap::new())),
            first_byte: None,
            sent: 0,
            complete: false,
        }
    }

    fn head(&mut self, response: &Response) {
        let elapsed = self.started.elapsed();
        self.first_byte = Some(elapsed);
        self.answered_by = (Tier::of(response.headers()), Region::of(response.headers()));
        self.status = Some(response.status());
        self.span.record("http.response.status_code", response.status().as_u16());
        // An upgraded connection and a switch to another protocol have no body to watch.
        self.complete = http_body::Body::is_end_stream(response.body()) || response.status().is_informational();
        self.trailers(response.headers());
    }

    fn trailers(&mut self, fields: &HeaderMap) {
        if let Some(code) = fields.get(GRPC_STATUS).and_then(|v| v.to_str().ok()?.parse().ok()) {
            self.grpc_status = Some(code);
        }
    }

    /// Is this one of the lines that the access log keeps?
    fn is_logged(&self, outcome: Outcome, total: Duration) -> bool {
        let Config { success_ratio, slow } = self.config;
        let is_dull = outcome == Outcome::Ok && total < slow;
        !is_dull || success_ratio >= 1.0 || rand::random::<f64>() < success_ratio
    }

    fn outcome(&self) -> Outcome {
        match (self.status, self.complete) {
            (Some(status), true) => Outcome::of(status, self.grpc_status),
            _ => Outcome::Aborted,
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let outcome = self.outcome();
        let total = self.started.elapsed();
        let asked = Asked { route: self.route, transport: self.transport };
        let first_byte = self.first_byte.unwrap_or(total);
        self.metrics.end(asked, self.answered_by.clone(), outcome, first_byte, self.trace.as_ref());
        if !self.is_logged(outcome, total) {
            return;
        }
        tracing::info!(
            target: "access",
            // The line has all of its span's fields itself.
            parent: None,
            request_id = self.id.as_ref().map(RequestId::as_str),
            trace_id = self.trace.as_ref().map(TraceContext::trace_id),
            client = self.client.map(|ClientAddr(addr)| tracing::field::display(addr.ip())),
            method = %self.method,
            path = self.path,
            route = self.route.label(),
            protocol = self.transport.version(),
            status = self.status.map(|s| s.as_u16()),
            grpc_status = self.grpc_status,
            outcome = outcome.label(),
            tier = self.answered_by.0.label(),
            bytes = self.sent,
            first_byte_ms = self.first_byte.map(millis),
            total_ms = millis(total),
            "answered"
        );
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

/// The answer's body, counted.
struct Observed {
    inner: Body,
    record: Record,
}

impl http_body::Body for Observed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let polled = {
            let _in_span = this.record.span.enter();
            Pin::new(&mut this.inner).poll_frame(cx)
        };
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    this.record.sent += data.len() as u64;
                } else if let Some(trailers) = frame.trailers_ref() {
                    this.record.trailers(trailers);
                }
                // hyper stops asking once it knows that nothing comes any more.
                this.record.complete = this.inner.is_end_stream() || frame.is_trailers();
            }
            Poll::Ready(None) => this.record.complete = true,
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
