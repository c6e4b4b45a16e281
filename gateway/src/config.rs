//! The gateway's settings, parsed once into values that the rest is built from. Every module owns its part.

use serde::Deserialize;

use crate::layers;
use crate::listener;

/// The whole of `gateway.toml`. `docs/config-gateway.md` is its reference.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub server: Server,
    pub listener: listener::Config,
    pub tls: listener::tls::Config,
    pub deadline: layers::deadline::Config,
}

/// Who this process is, and how it leaves.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// The region that this gateway stands in.
    pub region: String,
    /// This gateway's name, unique in its region.
    pub instance: String,
    /// Worker threads; 0 takes one per core.
    pub threads: usize,
    /// How long a drain waits for what was admitted.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: std::time::Duration,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            region: "local".to_owned(),
            instance: "gateway-0".to_owned(),
            threads: 0,
            drain_timeout: std::time::Duration::from_secs(30),
        }
    }
}
