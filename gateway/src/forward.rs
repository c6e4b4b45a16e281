//! From the gateway to searchd: who answers a call, over which connection, and what happens when that fails.
//!
//! An [`Upstream`] is one region's cluster of searchds. Reads stick to one endpoint by the client's address, writes to
//! one by (tenant, collection), both by Maglev hashing over the healthy. What is safe to repeat is repeated elsewhere, and
//! what is late is asked for twice.

pub mod balance;
pub mod call;
mod class;
pub mod client;
pub mod codec;
mod connection;
pub mod discovery;
mod endpoint;
mod grpc;
pub mod health;
mod latency;
mod load;
mod members;
pub mod metrics;
pub mod outlier;
mod passthrough;
mod race;
pub mod retry;
mod upstream;
mod watch;

use std::time::Duration;

use serde::Deserialize;

pub use self::call::CallContext;
pub use self::grpc::Messages;
pub(crate) use self::passthrough::{Incoming, Named};
pub use self::upstream::{Changes, EndpointStatus, Upstream};

/// The settings' section `[upstream]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The searchds of this region, when nothing is discovered.
    pub endpoints: Vec<EndpointConfig>,
    pub discovery: discovery::Config,
    /// HTTP/2 connections that an endpoint is given when load needs them; the first ones fill up before others open.
    pub connections_max: usize,
    /// Calls that share one connection before another one is opened.
    pub streams_per_connection: usize,
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// How often an HTTP/2 PING asks whether the peer is alive, and how long its answer may take.
    #[serde(with = "humantime_serde")]
    pub keep_alive_interval: Duration,
    #[serde(with = "humantime_serde")]
    pub keep_alive_timeout: Duration,
    /// How long calls may go on at an endpoint that takes no new ones.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
    /// How long an endpoint that is new, or came back, takes to get all its clients.
    #[serde(with = "humantime_serde")]
    pub slow_start: Duration,
    pub health: health::Config,
    pub retry: retry::Config,
    pub hedge: retry::Hedging,
    pub outlier: outlier::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            endpoints: vec![EndpointConfig::Url("http://127.0.0.1:50051".to_owned())],
            discovery: discovery::Config::default(),
            connections_max: 16,
            streams_per_connection: 100,
            connect_timeout: Duration::from_secs(1),
            keep_alive_interval: Duration::from_secs(60),
            keep_alive_timeout: Duration::from_secs(20),
            drain_timeout: Duration::from_secs(30),
            slow_start: Duration::from_secs(30),
            health: health::Config::default(),
            retry: retry::Config::default(),
            hedge: retry::Hedging::default(),
            outlier: outlier::Config::default(),
        }
    }
}

/// One searchd: its URL, or a table with its URL and weight.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum EndpointConfig {
    Url(String),
    Weighted(WeightedEndpoint),
}

/// A searchd that takes another share than its equals.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightedEndpoint {
    pub url: String,
    /// Its share of the keys, relative to the others'; 1 to 1,000.
    pub weight: u32,
}

impl EndpointConfig {
    fn url(&self) -> &str {
        match self {
            Self::Url(url) => url,
            Self::Weighted(endpoint) => &endpoint.url,
        }
    }

    fn weight(&self) -> u32 {
        match self {
            Self::Url(_) => 1,
            Self::Weighted(endpoint) => endpoint.weight,
        }
    }
}

/// What is wrong with `[upstream]`.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("upstream.discovery {0}")]
    Discovery(&'static str),
    #[error("upstream.endpoints names {0} twice")]
    Duplicate(String),
    #[error("upstream.endpoints: {url:?} is not of the form http://host:port")]
    Endpoint { url: String },
    #[error("upstream.endpoints: {count} are more than the {max} that one region may have")]
    TooMany { count: usize, max: usize },
    #[error("upstream.{0} must be at least 1")]
    Zero(&'static str),
    #[error("upstream.{0} is a share: 0 to 1")]
    Share(&'static str),
    #[error("upstream.endpoints: a weight is 1 to {max}, not {weight}")]
    Weight { weight: u32, max: u32 },
}

impl Config {
    /// Checks what the types alone cannot.
    ///
    /// # Errors
    /// The first setting that is out of its bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        validate(&self.endpoints)?;
        self.discovery.source()?;
        let at_least_one = [
            ("connections_max", self.connections_max),
            ("streams_per_connection", self.streams_per_connection),
            ("health.healthy_after", self.health.healthy_after as usize),
            ("health.unhealthy_after", self.health.unhealthy_after as usize),
            ("retry.attempts", self.retry.attempts as usize),
            ("outlier.consecutive_failures", self.outlier.consecutive_failures as usize),
            ("outlier.interval", usize::from(!self.outlier.interval.is_zero())),
        ];
        let shares = [
            ("hedge.quantile", self.hedge.quantile),
            ("hedge.budget_ratio", self.hedge.budget_ratio),
            ("retry.budget_ratio", self.retry.budget_ratio),
            ("outlier.ejected_share_max", self.outlier.ejected_share_max),
            ("outlier.success_margin", self.outlier.success_margin),
        ];
        if let Some((name, _)) = shares.into_iter().find(|(_, share)| !(0.0..=1.0).contains(share)) {
            return Err(ConfigError::Share(name));
        }
        match at_least_one.into_iter().find(|(_, value)| *value == 0) {
            Some((name, _)) => Err(ConfigError::Zero(name)),
            None => Ok(()),
        }
    }
}

/// Checks a set of endpoints.
fn validate(endpoints: &[EndpointConfig]) -> Result<(), ConfigError> {
    let (count, max) = (endpoints.len(), balance::ENDPOINTS_MAX);
    if count > max {
        return Err(ConfigError::TooMany { count, max });
    }
    let mut seen = std::collections::BTreeSet::new();
    for endpoint in endpoints {
        let url = endpoint.url();
        connection::Origin::parse(url).ok_or_else(|| ConfigError::Endpoint { url: url.to_owned() })?;
        if !seen.insert(url) {
            return Err(ConfigError::Duplicate(url.to_owned()));
        }
        let (weight, max) = (endpoint.weight(), balance::WEIGHT_MAX);
        if !(1..=max).contains(&weight) {
            return Err(ConfigError::Weight { weight, max });
        }
    }
    Ok(())
}
