//! Rate limits: per client address, and per user, API key and tenant, the latter three by the caller's plan and in units of
//! what a request costs.
//!
//! They stand at three places. [`announce`] is outside of everything that can refuse, so that every answer, refusals
//! too, says what is left. [`by_address`] is before authentication: a flood must not even cost a signature check.
//! [`by_caller`] is right after it, when the caller's name and plan are known; where a body has been read, the rest of
//! what it [`cost`]s is paid by the request's [`toll`].

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use governor::clock::DefaultClock;
use nearfield_cache::redis::BadUrl;
use prometheus_client::registry::Registry;
use serde::Deserialize;

use self::limiter::Means;
use self::metrics::Metrics;
use self::plan::{Plan, Plans};
use self::shares::settlement;
use crate::layers::shed::criticality::Criticality;

pub(crate) mod announce;
pub(crate) mod by_address;
pub(crate) mod by_caller;
pub mod cost;
pub(crate) mod limiter;
mod metrics;
pub mod plan;
pub mod shares;
pub(crate) mod toll;

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub enabled: bool,
    /// Requests a second of one client: an IPv4 address, or an IPv6 /64.
    pub ip_per_second: NonZeroU32,
    /// The plan of callers whose token names none, or one that is not listed.
    pub default_plan: String,
    /// Plans by name.
    pub plans: BTreeMap<String, Plan>,
    /// Requests that a limiter counts before it drops the keys that are at rest.
    pub max_new_keys: u32,
    /// `redis://[user:password@]host[:port][/database]`: gateways that name the same one share the quotas.
    pub redis_url: Option<String>,
    pub cost: cost::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: true,
            ip_per_second: NonZeroU32::new(100).unwrap_or(NonZeroU32::MIN),
            default_plan: "standard".to_owned(),
            plans: BTreeMap::from([
                ("free".to_owned(), Plan::new(20, 100, Criticality::Normal)),
                ("standard".to_owned(), Plan::new(100, 1_000, Criticality::Normal)),
                ("premium".to_owned(), Plan::new(1_000, 10_000, Criticality::High)),
            ]),
            max_new_keys: 100_000,
            redis_url: None,
            cost: cost::Config::default(),
        }
    }
}

/// The limits of one gateway.
#[derive(Clone)]
pub(crate) struct Limits {
    pub(crate) announce: announce::Layer,
    pub(crate) by_address: by_address::Layer,
    pub(crate) by_caller: by_caller::Layer,
    pub(crate) plans: Arc<Plans>,
    pub(crate) means: Means,
}

impl Limits {
    /// Needs a runtime when quotas are shared: the shares are settled on the current one. `instance` tells this gateway
    /// from the others.
    ///
    /// # Errors
    /// A `redis_url` that is none. A Redis that does not answer is no error.
    pub(crate) fn start(config: &Config, instance: &str, registry: &mut Registry) -> Result<Self, BadUrl> {
        let metrics = Metrics::register(registry);
        let shares = match &config.redis_url {
            Some(url) if config.enabled => Some(settlement::start(url, instance, metrics.clone())?),
            _ => None,
        };
        let means = Means { max_new_keys: config.max_new_keys, metrics, shares };
        let plans = Arc::new(Plans::new(config));
        Ok(Self {
            announce: announce::Layer { enabled: config.enabled },
            by_address: by_address::Layer::new(config, &means, DefaultClock::default()),
            by_caller: by_caller::Layer::new(config, &plans, &means),
            plans,
            means,
        })
    }

    /// For `/debug`: nothing when nobody is limited.
    pub(crate) fn view(&self) -> serde_json::Value {
        self.by_address.view().into_iter().chain(self.by_caller.view()).collect()
    }

    /// The same by other settings. A limit that stays as it is keeps what it has counted; one that changes begins anew,
    /// which lets at most a burst pass beyond. Needs a runtime as [`Limits::start`] does.
    ///
    /// # Errors
    /// As [`Limits::start`].
    pub(crate) fn renewed(&self, before: &Config, config: &Config, instance: &str) -> Result<Self, BadUrl> {
        let shares = match &config.redis_url {
            _ if (config.enabled, &config.redis_url) == (before.enabled, &before.redis_url) => {
                self.means.shares.clone()
            }
            Some(url) if config.enabled => Some(settlement::start(url, instance, self.means.metrics.clone())?),
            _ => None,
        };
        let means = Means { max_new_keys: config.max_new_keys, shares, metrics: self.means.metrics.clone() };
        let plans = Arc::new(Plans::new(config));
        Ok(Self {
            announce: announce::Layer { enabled: config.enabled },
            by_address: self.by_address.renewed(config, &means, DefaultClock::default()),
            by_caller: self.by_caller.renewed(config, &plans, &means),
            plans,
            means,
        })
    }
}
