//! Certificates as whoever watches a fleet must see them: when they end, and whether replacements were taken.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::certificate::Loaded;

const SERVED: Reload = Reload { outcome: "served" };
const REFUSED: Reload = Reload { outcome: "refused" };

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reload {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Certificate {
    /// As the settings name its file.
    certificate: String,
}

#[derive(Clone, Default)]
pub(crate) struct Metrics {
    reloads: Family<Reload, Counter>,
    expiry: Family<Certificate, Gauge>,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for outcome in [SERVED, REFUSED] {
            drop(metrics.reloads.get_or_create(&outcome));
        }
        let registry = registry.sub_registry_with_prefix("gateway_tls");
        registry.register("reloads", "times that the files of TLS were read again", metrics.reloads.clone());
        registry.register(
            "certificate_expiry_seconds",
            "Unix time at which a certificate in use ends",
            metrics.expiry.clone(),
        );
        metrics
    }

    pub(super) fn replaced(&self) {
        self.reloads.get_or_create(&SERVED).inc();
    }

    pub(super) fn refused(&self) {
        self.reloads.get_or_create(&REFUSED).inc();
    }

    pub(super) fn serving(&self, certificates: &[Loaded]) {
        self.expiry.clear();
        for one in certificates {
            let certificate = one.config.certificate.display().to_string();
            self.expiry.get_or_create(&Certificate { certificate }).set(one.not_after);
        }
    }
}
