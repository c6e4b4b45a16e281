//! The receiving end of an OpenTelemetry collector: takes spans by OTLP over gRPC, and keeps them.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

pub struct Collector {
    url: String,
    received: Received,
    serving: tokio::task::JoinHandle<()>,
}

/// A span, and the service that it came from.
#[derive(Clone, Debug)]
pub struct Collected {
    /// `gateway`, `searchd`.
    pub service: String,
    pub name: String,
    /// Hex digits, as in a `traceparent`.
    pub trace: String,
    pub id: String,
    /// Empty at the root of a trace.
    pub parent: String,
}

#[derive(Clone, Default)]
struct Received(Arc<Mutex<Vec<Collected>>>);

impl Collector {
    /// On a free port.
    ///
    /// # Errors
    /// When there is none.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let received = Received::default();
        let service = TraceServiceServer::new(received.clone());
        let serving = tokio::spawn(async move {
            let connections = futures::stream::unfold(listener, |listener| async move {
                let accepted = listener.accept().await.map(|(stream, _)| stream);
                Some((accepted, listener))
            });
            // It ends with the task.
            let _ended = tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(Box::pin(connections))
                .await;
        });
        Ok(Self { url, received, serving })
    }

    /// For `[otlp] endpoint`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// All that have come of one trace.
    pub fn of_trace(&self, trace: &str) -> Vec<Collected> {
        let received = self.received.0.lock().unwrap_or_else(PoisonError::into_inner);
        received.iter().filter(|span| span.trace == trace).cloned().collect()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut collected = Vec::new();
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.map(|resource| resource.attributes).unwrap_or_default();
            let service = attributes.into_iter().find(|attribute| attribute.key == "service.name");
            let service = service.and_then(|attribute| text(attribute.value?.value?));
            let service = service.context("a service's name").map_err(|e| Status::invalid_argument(e.to_string()))?;
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            collected.extend(spans.map(|span| Collected::of(&service, span)));
        }
        self.0.lock().unwrap_or_else(PoisonError::into_inner).append(&mut collected);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

impl Collected {
    fn of(service: &str, span: Span) -> Self {
        Self {
            service: service.to_owned(),
            name: span.name,
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
