//! What operators see of the upstreams: each endpoint's health and load, and how many calls went how.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::health::State;
use super::outlier::Reason;
use super::upstream::{Counts, Upstream};

/// The upstreams that a scrape looks at. Registered before there are any; clones are the same.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Mutex<Vec<(String, Upstream)>>>);

impl Metrics {
    /// Adds the `gateway_upstream_*` metrics to `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register_collector(Box::new(metrics.clone()));
        metrics
    }

    /// Shows the upstreams of `others` in the place of its own.
    pub(crate) fn replace(&self, others: &Self) {
        let others = others.0.lock().clone();
        *self.0.lock() = others;
    }

    pub(crate) fn add(&self, region: &str, upstream: Upstream) {
        self.0.lock().push((region.to_owned(), upstream));
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabels {
    region: String,
    endpoint: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    region: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    region: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassLabels {
    region: String,
    class: &'static str,
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let upstreams = self.0.lock().clone();
        let endpoints = || {
            upstreams.iter().flat_map(|(region, upstream)| {
                let labels = |endpoint| EndpointLabels { region: region.clone(), endpoint };
                upstream.endpoints().into_iter().map(move |status| (labels(status.id.clone()), status))
            })
        };
        let healthy =
            endpoints().map(|(labels, status)| (labels, ConstGauge::new(i64::from(status.state == State::Healthy))));
        family(&mut encoder, "gateway_upstream_healthy", "whether an endpoint is healthy", healthy)?;
        let in_flight = endpoints()
            .map(|(labels, status)| (labels, ConstGauge::new(i64::try_from(status.in_flight).unwrap_or(i64::MAX))));
        family(&mut encoder, "gateway_upstream_in_flight", "calls that an endpoint has not ended", in_flight)?;
        let utilization =
            endpoints().filter_map(|(labels, status)| Some((labels, ConstGauge::new(status.told?.utilization))));
        let help = "the share of its search threads' time that an endpoint says is spent";
        family(&mut encoder, "gateway_upstream_utilization", help, utilization)?;
        let delays = endpoints()
            .filter_map(|(labels, status)| Some((labels, ConstGauge::new(status.told?.queue_delay.as_secs_f64()))));
        let help = "how long searches wait at an endpoint, by its own account";
        family(&mut encoder, "gateway_upstream_queue_delay_seconds", help, delays)?;
        let ejected =
            endpoints().map(|(labels, status)| (labels, ConstGauge::new(i64::from(status.ejected.is_some()))));
        family(&mut encoder, "gateway_upstream_ejected", "whether an endpoint is ejected", ejected)?;
        let shares = endpoints().map(|(labels, status)| (labels, ConstGauge::new(status.share)));
        let help = "the share of its clients that an endpoint is given";
        family(&mut encoder, "gateway_upstream_share", help, shares)?;
        let ejections = upstreams.iter().flat_map(|(region, upstream)| {
            let labels = |reason: Reason| ReasonLabels { region: region.clone(), reason: reason.label() };
            upstream.ejections().map(move |(reason, count)| (labels(reason), ConstCounter::new(count)))
        });
        family(&mut encoder, "gateway_upstream_ejections", "endpoints ejected, by why", ejections)?;
        let delays = upstreams.iter().flat_map(|(region, upstream)| {
            let labels = |class| ClassLabels { region: region.clone(), class };
            upstream.hedge_delays().map(move |(class, delay)| (labels(class), ConstGauge::new(delay.as_secs_f64())))
        });
        let help = "after how long a read is asked for twice";
        family(&mut encoder, "gateway_upstream_hedge_delay_seconds", help, delays)?;
        let calls = upstreams.iter().flat_map(|(region, upstream)| {
            let Counts { answered, failed, hedged, hedges_won, hung, repeated } = upstream.counts();
            let by_outcome = [
                ("answered", answered),
                ("failed", failed),
                ("hedged", hedged),
                ("hedge_won", hedges_won),
                ("hung", hung),
                ("repeated", repeated),
            ];
            by_outcome
                .map(|(outcome, count)| (CallLabels { region: region.clone(), outcome }, ConstCounter::new(count)))
        });
        family(&mut encoder, "gateway_upstream_calls", "attempts at searchd, by how they ended", calls)
    }
}

fn family<L: EncodeLabelSet, M: EncodeMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metrics: impl Iterator<Item = (L, M)>,
) -> fmt::Result {
    let mut metrics = metrics.peekable();
    let Some((_, first)) = metrics.peek() else { return Ok(()) };
    let kind = first.metric_type();
    let mut descriptor = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, metric) in metrics {
        metric.encode(descriptor.encode_family(&labels)?)?;
    }
    Ok(())
}
