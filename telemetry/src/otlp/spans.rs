//! Spans on their way to the collector: so many may wait, and what becomes of each is counted.
//!
//! A collector that is down or slow costs spans, nothing else: whoever ends a span never waits.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// Spans that wait for the collector, those of the export under way included; more are dropped.
const WAITING_MAX: usize = 2048;
/// Spans of one export.
const BATCH_MAX: usize = 512;

/// Of the process's one exporter.
static COUNTS: Counts = Counts {
    waiting: AtomicUsize::new(0),
    exported: AtomicU64::new(0),
    failed: AtomicU64::new(0),
    dropped: AtomicU64::new(0),
};

#[derive(Debug)]
struct Counts {
    waiting: AtomicUsize,
    exported: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

/// Adds `otlp_spans_total` and `otlp_spans_waiting` to `registry`.
pub fn register(registry: &mut Registry) {
    registry.register_collector(Box::new(&COUNTS));
}

impl Collector for &'static Counts {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Sampled spans, by what became of them";
        let mut total = encoder.encode_descriptor("otlp_spans", help, None, MetricType::Counter)?;
        for (outcome, count) in [("exported", &self.exported), ("failed", &self.failed), ("dropped", &self.dropped)] {
            let count = ConstCounter::new(count.load(Ordering::Relaxed));
            count.encode(total.encode_family(&[("outcome", outcome)])?)?;
        }
        let waiting = ConstGauge::new(self.waiting.load(Ordering::Relaxed) as i64);
        let help = "Sampled spans that wait for the collector";
        waiting.encode(encoder.encode_descriptor("otlp_spans_waiting", help, None, MetricType::Gauge)?)
    }
}

/// Passes spans on in batches, by a thread of its own.
#[derive(Debug)]
pub(super) struct Bounded(BatchSpanProcessor);

impl Bounded {
    pub(super) fn before(exporter: impl SpanExporter + 'static) -> Self {
        // As long as what may wait: then it never drops what was counted as waiting.
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(WAITING_MAX)
            .with_max_export_batch_size(BATCH_MAX)
            .build();
        Self(BatchSpanProcessor::new(Counted(exporter), batches))
    }
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.0.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        if COUNTS.waiting.fetch_add(1, Ordering::AcqRel) >= WAITING_MAX {
            COUNTS.waiting.fetch_sub(1, Ordering::AcqRel);
            COUNTS.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.0.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.0.set_resource(resource);
    }
}

/// Counts what the exporter is done with.
#[derive(Debug)]
struct Counted<E>(E);

impl<E: SpanExporter> SpanExporter for Counted<E> {
    fn export(&self, batch: Vec<SpanData>) -> impl Future<Output = OTelSdkResult> + Send {
        let spans = batch.len();
        async move {
            let exported = self.0.export(batch).await;
            COUNTS.waiting.fetch_sub(spans, Ordering::AcqRel);
            let count = if exported.is_ok() { &COUNTS.exported } else { &COUNTS.failed };
            count.fetch_add(spans as u64, Ordering::Relaxed);
            exported
        }
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.0.set_resource(resource);
    }
}
