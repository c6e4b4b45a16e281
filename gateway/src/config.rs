//! The gateway's settings, parsed once into values that the rest is built from. Every module owns its part.

pub mod source;

use nearfield_cache::feed::Name;
use serde::Deserialize;

use crate::{audit, forward, layers, listener, region, sse, websocket};

/// The whole of `gateway.toml`. `docs/config-gateway.md` is its reference.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub server: Server,
    pub listener: listener::Config,
    pub tls: listener::tls::Config,
    pub auth: nearfield_auth::Config,
    pub audit: audit::Config,
    pub cache: layers::response_cache::Config,
    pub client: layers::client_addr::Config,
    pub cors: layers::cors::Config,
    pub deadline: layers::deadline::Config,
    pub shed: layers::shed::Config,
    pub rate_limit: layers::rate_limit::Config,
    pub body: layers::request_body::Config,
    pub pace: layers::pace::Config,
    pub compression: layers::compression::Config,
    pub stream: sse::Config,
    pub websocket: websocket::Config,
    pub upstream: forward::Config,
    pub topology: region::Config,
    pub access_log: layers::observe::Config,
    pub log: nearfield_telemetry::logging::Config,
    pub otlp: nearfield_telemetry::otlp::Config,
}

/// A setting that parses and still makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    #[error("`auth`")]
    Auth(#[from] nearfield_auth::Error),
    #[error(transparent)]
    Cors(#[from] layers::cors::Invalid),
    #[error("`client.proof.peers` asks for certificates, and `tls.client.ca` names nobody who gives them")]
    NoAuthority,
    #[error("`client.mode` is \"fronted\", and neither `client.trusted` nor `client.proof` says what proves it")]
    NoProof,
    #[error("`{key}` is {value:?}; it takes 1 to 63 of a-z, 0-9 and -")]
    Name { key: &'static str, value: String },
    #[error("`listener.https` names no address")]
    NoAddress,
    #[error("`rate_limit.default_plan` is {0:?}, which is not among `rate_limit.plans`")]
    NoSuchPlan(String),
    #[error("`{key}` is {value}; it takes a share above 0 and at most 1")]
    Share { key: &'static str, value: f64 },
    #[error("`{key}` is {value}; it takes a share of 0 to 1")]
    Ratio { key: &'static str, value: f64 },
    #[error(transparent)]
    Upstream(#[from] forward::ConfigError),
    #[error("`{key}` is zero")]
    Zero { key: &'static str },
}

impl Config {
    /// What types cannot say. [`Gateway::start`](crate::gateway::Gateway::start) asks it first, and so does `--check`.
    ///
    /// # Errors
    /// The first setting that makes no sense.
    pub fn check(&self) -> Result<(), Invalid> {
        name("server.region", &self.server.region)?;
        name("server.instance", &self.server.instance)?;
        if self.listener.https.is_empty() {
            return Err(Invalid::NoAddress);
        }
        if !self.rate_limit.plans.contains_key(&self.rate_limit.default_plan) {
            return Err(Invalid::NoSuchPlan(self.rate_limit.default_plan.clone()));
        }
        if self.client.mode == layers::client_addr::Mode::Fronted && !self.client.has_proof() {
            return Err(Invalid::NoProof);
        }
        if !self.client.proof.peers.is_empty() && self.tls.client.ca.is_none() {
            return Err(Invalid::NoAuthority);
        }
        self.auth.check()?;
        self.cors.check()?;
        self.upstream.validate()?;
        if !(0.0..=1.0).contains(&self.access_log.success_ratio) {
            return Err(Invalid::Ratio { key: "access_log.success_ratio", value: self.access_log.success_ratio });
        }
        self.shares()?;
        let zero = [
            ("cache.feed.max_silence", self.cache.feed.max_silence.is_zero()),
            ("cache.feed.nats.replicas", self.cache.feed.nats.replicas == 0),
            ("shed.adaptive.window", self.shed.adaptive.window.is_zero()),
            ("shed.pressure.interval", self.shed.pressure.interval.is_zero()),
            ("listener.max_connections", self.listener.max_connections == 0),
            ("listener.idle_timeout", self.listener.idle_timeout.is_zero()),
            ("listener.proxy_protocol.timeout", self.listener.proxy_protocol.timeout.is_zero()),
            ("listener.http1.header_timeout", self.listener.http1.header_timeout.is_zero()),
            ("listener.http1.max_headers", self.listener.http1.max_headers == 0),
            ("listener.http1.max_header_bytes", self.listener.http1.max_header_bytes == 0),
            ("listener.http2.max_concurrent_streams", self.listener.http2.max_concurrent_streams == 0),
            ("listener.http3.max_concurrent_streams", self.listener.http3.max_concurrent_streams == 0),
            ("tls.handshake_timeout", self.tls.handshake_timeout.is_zero()),
            ("listener.send_timeout", self.listener.send_timeout.is_zero()),
            ("pace.grace", self.pace.grace.is_zero()),
            ("audit.file_bytes", self.audit.file_bytes == 0),
            ("audit.max_files", self.audit.max_files == 0),
            ("client.max_hops", self.client.max_hops == 0),
            ("client.proof.reload_interval", self.client.proof.reload_interval.is_zero()),
            ("client.geo.reload_interval", self.client.geo.reload_interval.is_zero()),
            ("deadline.unary", self.deadline.unary.is_zero()),
            ("deadline.stream", self.deadline.stream.is_zero()),
            ("topology.residency_ttl", self.topology.residency_ttl.is_zero()),
            ("stream.ping_interval", self.stream.ping_interval.is_zero()),
            ("websocket.idle_timeout", self.websocket.idle_timeout.is_zero()),
            ("websocket.message_bytes_max", self.websocket.message_bytes_max == 0),
            ("websocket.ping_interval", self.websocket.ping_interval.is_zero()),
            ("websocket.request_timeout", self.websocket.request_timeout.is_zero()),
            ("websocket.requests_max", self.websocket.requests_max == 0),
            ("websocket.send_timeout", self.websocket.send_timeout.is_zero()),
        ];
        match zero.into_iter().find(|(_, is_zero)| *is_zero) {
            Some((key, _)) => Err(Invalid::Zero { key }),
            None => Ok(()),
        }
    }
}

impl Config {
    fn shares(&self) -> Result<(), Invalid> {
        let pressure = &self.shed.pressure;
        let shares = [
            ("shed.pressure.throttle_at", pressure.throttle_at),
            ("shed.pressure.close_idle_at", pressure.close_idle_at),
            ("shed.pressure.refuse_at", pressure.refuse_at),
            ("shed.pressure.hysteresis", pressure.hysteresis),
            ("shed.pressure.shed_share", pressure.shed_share),
            ("topology.comeback.step", self.topology.comeback.step),
        ];
        match shares.into_iter().find(|(_, share)| !(*share > 0.0 && *share <= 1.0)) {
            Some((key, value)) => Err(Invalid::Share { key, value }),
            None => Ok(()),
        }
    }
}

/// Region and instance stand in header fields, request ids and metric labels.
fn name(key: &'static str, value: &str) -> Result<(), Invalid> {
    let fits = (1..=63).contains(&value.len())
        && value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fits { Ok(()) } else { Err(Invalid::Name { key, value: value.to_owned() }) }
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
    /// How often the settings' file is looked at for a change.
    #[serde(with = "humantime_serde")]
    pub reload_interval: std::time::Duration,
    /// Where a newer process asks for the sockets. Absent: nowhere.
    pub upgrade_socket: Option<std::path::PathBuf>,
    /// How long a drain waits for what was admitted.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: std::time::Duration,
}

impl Server {
    /// How other gateways know this one.
    pub(crate) fn name(&self) -> Name {
        Name { region: self.region.clone(), instance: self.instance.clone() }
    }
}

impl Default for Server {
    fn default() -> Self {
        Self {
            region: "local".to_owned(),
            instance: "gateway-0".to_owned(),
            threads: 0,
            upgrade_socket: None,
            reload_interval: std::time::Duration::from_secs(10),
            drain_timeout: std::time::Duration::from_secs(30),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, nearfield_telemetry::settings::Error> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("gateway.toml");
        fs_err::write(&file, text).unwrap();
        nearfield_telemetry::settings::load(Some(&file))
    }

    #[test]
    fn the_reference_shows_every_default() {
        let page = include_str!("../../docs/config-gateway.md");
        let example = page.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
        let shown = format!("{:#?}", load(example).unwrap());
        assert_eq!(shown, format!("{:#?}", Config::default()));
        // Every field that `Debug` names stands on the page.
        for line in shown.lines() {
            if let Some((field, _)) = line.trim().split_once(": ") {
                let listed = page.contains(&format!("{field} = "))
                    || page.contains(&format!("{field}]"))
                    || page.contains(&format!("{field}."));
                assert!(listed || field.starts_with('"') || field == "trusted", "{field} is not documented");
            }
        }
    }

    #[test]
    fn a_misspelt_key_is_an_error_that_names_it() {
        let error = load("[listener]\nhtpps = []\n").unwrap_err();
        let text = format!("{:#}", anyhow::Error::from(error));
        assert!(text.contains("htpps"), "{text}");
    }

    #[test]
    fn what_types_cannot_say_is_checked() {
        let check = |text: &str, expected: &str| {
            let error = load(text).unwrap().check().unwrap_err();
            assert_eq!(error.to_string(), expected);
        };
        Config::default().check().unwrap();
        check("[server]\nregion = \"EU\"", "`server.region` is \"EU\"; it takes 1 to 63 of a-z, 0-9 and -");
        check("[listener]\nhttps = []", "`listener.https` names no address");
        let unproven =
            "`client.mode` is \"fronted\", and neither `client.trusted` nor `client.proof` says what proves it";
        let nobody = "`client.proof.peers` asks for certificates, and `tls.client.ca` names nobody who gives them";
        check("[client.proof]\npeers = [\"lb\"]", nobody);
        check("[client]\nmode = \"fronted\"", unproven);
        check("[deadline]\nunary = \"0s\"", "`deadline.unary` is zero");
        let share = "`shed.pressure.refuse_at` is 95; it takes a share above 0 and at most 1";
        check("[shed.pressure]\nrefuse_at = 95.0", share);
        let plan = "`rate_limit.default_plan` is \"gold\", which is not among `rate_limit.plans`";
        check("[rate_limit]\ndefault_plan = \"gold\"", plan);
    }
}
