//! Spans to an OpenTelemetry collector, by OTLP over gRPC, when `[otlp] endpoint` names one.

mod spans;

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};
use serde::Deserialize;

pub use self::spans::register;

/// How long one export may take before its spans are dropped.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// `[otlp]`: where spans go.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// A collector's gRPC endpoint, `http://127.0.0.1:4317` say. Absent: spans are not exported.
    pub endpoint: Option<String>,
    /// The share of traces begun here that is sampled, 0 to 1. A caller's own decision (the `traceparent` flag) comes
    /// before it.
    pub sample_ratio: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { endpoint: None, sample_ratio: 1.0 }
    }
}

/// Which process the spans and logs come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `gateway` or `searchd`.
    pub service: &'static str,
    pub region: String,
    pub instance: String,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("connecting the span exporter to {endpoint}")]
    Endpoint { endpoint: String, source: opentelemetry_otlp::ExporterBuildError },
    #[error("`otlp.sample_ratio` is {0}, not between 0 and 1")]
    SampleRatio(f64),
}

/// The exporter, if one is configured. Must be called on a tokio runtime: the connection lives there.
pub(crate) fn provider(config: &Config, identity: &Identity) -> Result<Option<SdkTracerProvider>, Error> {
    if !(0.0..=1.0).contains(&config.sample_ratio) {
        return Err(Error::SampleRatio(config.sample_ratio));
    }
    let Some(endpoint) = &config.endpoint else { return Ok(None) };
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(|source| Error::Endpoint { endpoint: endpoint.clone(), source })?;
    let resource = Resource::builder()
        .with_service_name(identity.service)
        .with_attribute(KeyValue::new("service.namespace", "nearfield"))
        .with_attribute(KeyValue::new("service.instance.id", identity.instance.clone()))
        .with_attribute(KeyValue::new("cloud.region", identity.region.clone()))
        .build();
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sample_ratio)));
    Ok(Some(
        SdkTracerProvider::builder()
            .with_span_processor(spans::Bounded::before(exporter))
            .with_resource(resource)
            .with_sampler(sampler)
            .build(),
    ))
}

pub(crate) fn tracer(provider: &SdkTracerProvider) -> SdkTracer {
    provider.tracer("nearfield")
}
