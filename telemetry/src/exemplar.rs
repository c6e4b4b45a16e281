//! Histograms whose buckets each name a trace that fell into them (an OpenMetrics exemplar), so that whoever sees a latency
//! finds the request that had it.

use std::time::{Duration, SystemTime};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::exemplar::HistogramWithExemplars;

use crate::trace_context::TraceContext;

/// The exemplar's one label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Traced {
    trace_id: String,
}

/// Seconds, by bucket.
pub type Latencies = HistogramWithExemplars<Traced>;

/// Counts `latency` in `latencies`, of `trace` when it is sampled: others are kept nowhere.
pub fn observe(latencies: &Latencies, latency: Duration, trace: Option<&TraceContext>) {
    let traced = trace.filter(|trace| trace.is_sampled()).map(|trace| Traced { trace_id: trace.trace_id() });
    let at = traced.is_some().then(SystemTime::now);
    latencies.observe(latency.as_secs_f64(), traced, at);
}
