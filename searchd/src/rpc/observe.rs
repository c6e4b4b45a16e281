//! Around every call: a span that continues the caller's trace, a count and a duration.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use http::{Request, Response};
use nearfield_telemetry::exemplar;
use nearfield_telemetry::trace_context::TraceContext;
use tower::{Layer, Service};
use tracing::Instrument;

use crate::metrics::{Call, Calls, Method};

#[derive(Clone)]
pub struct Observe(pub Calls);

#[derive(Clone)]
pub struct Observed<S> {
    inner: S,
    calls: Calls,
}

impl<S> Layer<S> for Observe {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Observed<S> {
        Observed { inner, calls: self.0.clone() }
    }
}

impl<S, Body, Answer> Service<Request<Body>> for Observed<S>
where
    S: Service<Request<Body>, Response = Response<Answer>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = method(request.uri().path());
        let started = Instant::now();
        let span = tracing::info_span!(
            "grpc",
            otel.name = method,
            otel.kind = "server",
            "rpc.system" = "grpc",
            "rpc.method" = method,
            request_id = tracing::field::Empty,
            trace_id = tracing::field::Empty
        );
        let headers = request.headers();
        let trace = TraceContext::begin(headers, &span);
        span.record("trace_id", trace.trace_id());
        if let Some(id) = headers.get("x-request-id").and_then(|id| id.to_str().ok()) {
            span.record("request_id", id);
        }
        let calls = self.calls.clone();
        // From the moment at which it is known to have come, so that all that came together know of each other.
        let under_way = UnderWay::begin(&calls.under_way);
        let answering = self.inner.call(request);
        let observed = async move {
            let answer = answering.await;
            drop(under_way);
            let code = answer.as_ref().map_or("2", |answer| code(answer.headers()));
            tracing::info!(code, seconds = started.elapsed().as_secs_f64(), "answered");
            calls.total.get_or_create(&Call { method, code }).inc();
            exemplar::observe(&calls.duration.get_or_create(&Method { method }), started.elapsed(), Some(&trace));
            answer
        };
        Box::pin(observed.instrument(span))
    }
}

/// Counts a call.
struct UnderWay(Arc<AtomicUsize>);

impl UnderWay {
    fn begin(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Labels are a closed set: a path that is none of ours must not make a new one.
fn method(path: &str) -> &'static str {
    METHODS
        .iter()
        .find(|known| path.strip_prefix("/nearfield.").is_some_and(|rest| rest.ends_with(*known)))
        .copied()
        .unwrap_or("other")
}

/// An answer that is an error from the start has its status in its head; any other head is a success so far.
fn code(headers: &http::HeaderMap) -> &'static str {
    let Some(code) = headers.get("grpc-status").and_then(|value| value.to_str().ok()) else { return "0" };
    CODES.iter().find(|known| **known == code).copied().unwrap_or("2")
}

const METHODS: [&str; 17] = [
    "VectorSearch/Search",
    "VectorSearch/StreamSearch",
    "VectorSearch/BidirectionalSearch",
    "VectorSearch/BatchSearch",
    "VectorSearch/Insert",
    "VectorSearch/InsertStream",
    "VectorSearch/Update",
    "VectorSearch/Delete",
    "VectorSearch/Fetch",
    "VectorSearch/Scan",
    "Collections/Create",
    "Collections/List",
    "Collections/Describe",
    "Collections/Delete",
    "Collections/MeasureRecall",
    "Replication/Tail",
    "Backups/Create",
];

const CODES: [&str; 17] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_a_closed_set() {
        assert_eq!(method("/nearfield.v1.VectorSearch/Search"), "VectorSearch/Search");
        assert_eq!(method("/nearfield.v1.VectorSearch/StreamSearch"), "VectorSearch/StreamSearch");
        assert_eq!(method("/nearfield.log.v1.Replication/Tail"), "Replication/Tail");
        assert_eq!(method("/x.VectorSearch/Search"), "other");
        assert_eq!(method("/nearfield.v1.Anything/Else"), "other");
    }
}
