//! What was limited, by which policy, and how sharing quotas goes.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Policy {
    policy: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Default)]
pub(crate) struct Metrics {
    refused: Family<Policy, Counter>,
    settlements: Family<Outcome, Counter>,
    gateways: Gauge,
}

impl Metrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("gateway");
        registry.register("requests_limited", "requests refused by a rate limit", metrics.refused.clone());
        registry.register(
            "limit_settlements",
            "times that the shares of quotas were settled with Redis",
            metrics.settlements.clone(),
        );
        registry.register(
            "limits_sharing_gateways",
            "gateways that share quotas, this one included, as far as it knows",
            metrics.gateways.clone(),
        );
        metrics
    }

    pub(super) fn refused(&self, policy: &'static str) -> Counter {
        self.refused.get_or_create(&Policy { policy }).clone()
    }

    /// With so many gateways; none when it failed.
    pub(super) fn settled(&self, gateways: Option<u32>) {
        let outcome = if gateways.is_some() { "settled" } else { "failed" };
        self.settlements.get_or_create(&Outcome { outcome }).inc();
        self.gateways.set(i64::from(gateways.unwrap_or(0)));
    }
}
