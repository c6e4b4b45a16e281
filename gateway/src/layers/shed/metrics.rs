//! What was shed, of what, and why.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::class::Class;
use super::criticality::Criticality;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reason {
    /// As many are in flight as ever may be.
    Ceiling,
    /// The share that goes while a resource is nearly used up.
    Pressure,
    QueueFull,
    QueueTime,
}

impl EncodeLabelValue for Reason {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        let label = match self {
            Self::Ceiling => "ceiling",
            Self::Pressure => "pressure",
            Self::QueueFull => "queue_full",
            Self::QueueTime => "queue_time",
        };
        EncodeLabelValue::encode(&label, encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Shed {
    class: Class,
    criticality: Criticality,
    reason: Reason,
}

#[derive(Clone, Default)]
pub(crate) struct Metrics {
    shed: Family<Shed, Counter>,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.sub_registry_with_prefix("gateway").register(
            "requests_shed",
            "requests refused to protect those that were admitted",
            metrics.shed.clone(),
        );
        metrics
    }

    pub(super) fn shed(&self, class: Class, criticality: Criticality, reason: Reason) {
        self.shed.get_or_create(&Shed { class, criticality, reason }).inc();
    }
}
