//! Where a region's searchds are: a list in the settings, a file that is watched, or DNS.
//!
//! Whatever the source, a new list takes the old one's place at once and whole, and a source that fails, or says
//! something that makes no sense, leaves the old one as it is.

mod dns;
mod file;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::{ConfigError, EndpointConfig, Upstream};

/// The settings' section `[upstream.discovery]`. At most one of its sources is named.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// A file whose `endpoints` are taken.
    pub file: Option<PathBuf>,
    /// How often the file is looked at.
    #[serde(with = "humantime_serde")]
    pub file_interval: Duration,
    /// `host:port`, of whose host all A and AAAA records are taken.
    pub dns: Option<String>,
    /// A name whose SRV records give hosts, ports and weights (RFC 2782).
    pub srv: Option<String>,
    /// Who is asked; none: those of the system.
    pub nameservers: Vec<SocketAddr>,
    /// How long one question may take.
    #[serde(with = "humantime_serde")]
    pub dns_timeout: Duration,
    /// Bounds for the time that a DNS answer says it is good for, and for the pauses after failures.
    #[serde(with = "humantime_serde")]
    pub ttl_min: Duration,
    #[serde(with = "humantime_serde")]
    pub ttl_max: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            file: None,
            file_interval: Duration::from_secs(1),
            dns: None,
            srv: None,
            nameservers: Vec::new(),
            dns_timeout: Duration::from_secs(5),
            ttl_min: Duration::from_secs(1),
            ttl_max: Duration::from_secs(60),
        }
    }
}

/// Why a source gave no list.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading the endpoints' file")]
    Invalid(#[source] Box<figment::Error>),
    #[error("the endpoints make no sense")]
    Endpoints(#[from] ConfigError),
    #[error("there is no endpoint in it")]
    Empty,
    #[error("asking DNS")]
    Dns(#[source] std::io::Error),
    #[error("DNS answered {0}")]
    Refused(domain::base::iana::Rcode),
    #[error("reading an answer of DNS")]
    Unreadable(#[from] domain::base::wire::ParseError),
}

/// A source to be followed.
pub(super) struct Source(Kind);

enum Kind {
    Dns(dns::Names),
    File(file::File),
}

impl Config {
    /// Is any source named?
    pub(crate) fn is_used(&self) -> bool {
        self.file.is_some() || self.dns.is_some() || self.srv.is_some()
    }

    /// The source that is named, if one is.
    ///
    /// # Errors
    /// When there are several, or one that cannot be.
    pub(super) fn source(&self) -> Result<Option<Source>, ConfigError> {
        let bad = |reason| Err(ConfigError::Discovery(reason));
        if self.ttl_min.is_zero() || self.ttl_min > self.ttl_max {
            return bad("needs 0 < ttl_min <= ttl_max");
        }
        if self.file_interval.is_zero() || self.dns_timeout.is_zero() {
            return bad("needs a file_interval and a dns_timeout above zero");
        }
        match (&self.file, &self.dns, &self.srv) {
            (None, None, None) => Ok(None),
            (Some(file), None, None) => Ok(Some(Source(Kind::File(file::File::new(file, self.file_interval))))),
            (None, Some(host), None) => match dns::Names::host(host, self) {
                Some(names) => Ok(Some(Source(Kind::Dns(names)))),
                None => bad("dns is not of the form host:port"),
            },
            (None, None, Some(name)) => match dns::Names::srv(name, self) {
                Some(names) => Ok(Some(Source(Kind::Dns(names)))),
                None => bad("srv is not a name"),
            },
            _ => bad("names more than one of file, dns and srv"),
        }
    }
}

impl Source {
    /// The list to begin with: what is wrong with a file is told at the start, while for DNS nobody is waited for.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn first(&self) -> Result<Vec<EndpointConfig>, Error> {
        match &self.0 {
            Kind::Dns(_) => Ok(Vec::new()),
            Kind::File(file) => file.read(),
        }
    }

    /// Keeps `upstream`, which may be gone some day, at what the source says.
    pub(super) async fn follow(self, upstream: super::upstream::Gone) {
        match self.0 {
            Kind::Dns(names) => names.follow(upstream).await,
            Kind::File(file) => file.follow(upstream).await,
        }
    }
}

/// Takes up a list, or says why not. The old one stays.
fn take(upstream: &Upstream, found: Result<Vec<EndpointConfig>, Error>) -> bool {
    let replaced = found.and_then(|endpoints| Ok(upstream.replace(&endpoints)?));
    if let Err(error) = &replaced {
        let error = error as &dyn std::error::Error;
        tracing::warn!(error, "no new list of endpoints, keeping the old");
    }
    replaced.is_ok()
}
