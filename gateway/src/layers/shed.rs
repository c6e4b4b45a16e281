//! Protects the process and what is behind it, so that what was admitted is answered as if nobody else asked.
//!
//! Three layers, each where it knows what it needs. [`ceiling`] is outside: one atomic bounds what is under way.
//! [`triage`] is behind authentication: it says how much a request matters, and lets some go by the level of
//! [`pressure`] that the [`sampler`] finds. [`admission`] is innermost: it lets in as many calls as what is behind
//! answers without making them wait for each other, and keeps a short queue, those who matter more first.

use std::time::Duration;

use prometheus_client::registry::Registry;
use serde::Deserialize;

use self::metrics::Metrics;
use crate::layers::rate_limit;

pub(crate) mod admission;
pub(crate) mod ceiling;
pub(crate) mod class;
pub mod criticality;
pub mod gradient;
mod latencies;
mod metrics;
pub mod pressure;
pub mod room;
pub(crate) mod sampler;
pub(crate) mod triage;

/// `[shed]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Searches and look-ups that searchds are asked at once; twice as many may be under way in the gateway.
    pub max_reads: usize,
    /// The same for writes.
    pub max_writes: usize,
    /// Streams and WebSockets open.
    pub max_streams: usize,
    /// What a refused client is told to wait at least (`Retry-After`).
    #[serde(with = "humantime_serde")]
    pub retry_after: Duration,
    pub adaptive: gradient::Config,
    pub queue: room::QueueConfig,
    pub pressure: pressure::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_reads: 4096,
            max_writes: 512,
            max_streams: 50_000,
            retry_after: Duration::from_secs(1),
            adaptive: gradient::Config::default(),
            queue: room::QueueConfig::default(),
            pressure: pressure::Config::default(),
        }
    }
}

/// The three layers, and the gauge that the sampler sets and they read.
#[derive(Clone)]
pub(crate) struct Shedding {
    pub(crate) ceiling: ceiling::Layer,
    pub(crate) triage: triage::Layer,
    pub(crate) admission: admission::Layer,
    pub(crate) gauge: sampler::Gauge,
}

impl Shedding {
    pub(crate) fn new(config: &Config, limits: &rate_limit::Limits, registry: &mut Registry) -> Self {
        let (metrics, gauge) = (Metrics::register(registry), sampler::Gauge::register(registry));
        Self {
            ceiling: ceiling::Layer::new(config, metrics.clone(), gauge.clone()),
            triage: triage::Layer::new(config, limits.plans.clone(), &limits.means, gauge.clone(), metrics.clone()),
            admission: admission::Layer::new(config, metrics, registry),
            gauge,
        }
    }

    /// The same by other settings: what is under way keeps its places, and what was learned of calls stays. How many places
    /// there are changes with [`Shedding::resize`] only.
    pub(crate) fn renewed(&self, config: &Config, limits: &rate_limit::Limits) -> Self {
        Self {
            ceiling: self.ceiling.renewed(config),
            triage: self.triage.renewed(config, limits.plans.clone(), &limits.means),
            admission: self.admission.renewed(config),
            gauge: self.gauge.clone(),
        }
    }

    /// For `/debug`: of each class, what is under way and may be, here and behind the gateway.
    pub(crate) fn places(&self) -> serde_json::Value {
        let behind = self.admission.seen();
        let row = |(class, [taken, size]): (class::Class, [usize; 2])| {
            let mut row = serde_json::json!({ "class": class.label(), "under_way": taken, "ceiling": size });
            if let Some((_, [limit, in_flight, waiting])) = behind.iter().find(|(known, _)| *known == class) {
                row["admitted"] = (*in_flight).into();
                row["admission_limit"] = (*limit).into();
                row["waiting"] = (*waiting).into();
            }
            row
        };
        self.ceiling.seen().into_iter().map(row).collect()
    }

    /// Makes places more or fewer, for those that are under way already, too.
    pub(crate) fn resize(&self, config: &Config) {
        self.ceiling.resize(config);
        self.admission.resize(config);
    }
}

/// Up to three times as long, so that those who were refused together do not come back together.
fn jittered(retry_after: Duration) -> Duration {
    retry_after.mul_f64(1.0 + 2.0 * rand::random::<f64>())
}
