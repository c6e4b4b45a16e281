//! Who the client is when load balancers stand in front: the address that the nearest proven hop vouches for.
//!
//! Forwarding headers are believed only from a hop that gives every proof the settings ask for ([`proof`]), and only as
//! far from their right end as such hops wrote them: what a client puts there itself stays to the left and is never
//! reached.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::HeaderMap;
use serde::Deserialize;

use crate::body::{Request, Response};
use crate::request::{ClientAddr, PeerIdentity, Proven};

mod forwarded;
pub mod proof;
mod range;

pub use forwarded::Header;
pub use range::{BadRange, Range};

use proof::Secrets;

/// Whether clients may come straight to this gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    #[default]
    Direct,
    /// Only through the perimeter: what lacks the proof is refused.
    Fronted,
}

/// `[client]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub mode: Mode,
    /// Addresses of the hops in front, as CIDR ranges. Empty: addresses prove nothing.
    pub trusted: Vec<Range>,
    pub header: Header,
    /// Entries at the right end of the header that the trusted hop adds behind the client's. Google's load balancer
    /// writes `client, lb`: 1.
    pub entries_after_client: usize,
    /// Entries that are looked at, those included.
    pub max_hops: usize,
    pub proof: proof::Config,
    pub geo: super::locate::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            trusted: Vec::new(),
            header: Header::default(),
            entries_after_client: 0,
            max_hops: 16,
            proof: proof::Config::default(),
            geo: super::locate::Config::default(),
        }
    }
}

impl Config {
    /// Is anything asked for that tells a hop of ours from a client?
    pub(crate) fn has_proof(&self) -> bool {
        !self.trusted.is_empty() || self.proof.is_any()
    }

    fn trusts(&self, addr: IpAddr) -> bool {
        self.trusted.iter().any(|range| range.contains(addr))
    }

    /// The client behind `peer`, which is a hop of ours.
    fn client(&self, peer: SocketAddr, headers: &HeaderMap) -> SocketAddr {
        for hop in self.header.hops(headers).take(self.max_hops).skip(self.entries_after_client) {
            // What a hop of ours writes is an address; from anything else on nothing can be believed.
            let Some(addr) = hop else { break };
            if !self.trusts(addr.ip()) {
                return addr;
            }
        }
        peer
    }
}

#[derive(Clone)]
pub(crate) struct Layer {
    config: Arc<Config>,
    secrets: Secrets,
}

impl Layer {
    pub(crate) fn new(config: Config, secrets: Secrets) -> Self {
        Self { config: Arc::new(config), secrets }
    }

    pub(crate) fn secrets(&self) -> Secrets {
        self.secrets.clone()
    }

    /// Does the request come from a hop of ours, by every proof that is asked for?
    fn is_proven(&self, peer: SocketAddr, request: &Request) -> bool {
        let config = &self.config;
        config.has_proof()
            && (config.trusted.is_empty() || config.trusts(peer.ip()))
            && self.secrets.admit(request.headers())
            && config.proof.admits(request.extensions().get::<PeerIdentity>())
    }
}

impl<S> tower::Layer<S> for Layer {
    type Service = Service<S>;

    fn layer(&self, inner: S) -> Service<S> {
        Service { inner, layer: self.clone() }
    }
}

pub(crate) struct Service<S> {
    inner: S,
    layer: Layer,
}

impl<S: hyper::service::Service<Request, Response = Response>> hyper::service::Service<Request> for Service<S> {
    type Response = Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, mut request: Request) -> S::Future {
        if let Some(ClientAddr(peer)) = request.extensions().get().copied()
            && self.layer.is_proven(peer, &request)
        {
            let client = self.layer.config.client(peer, request.headers());
            request.extensions_mut().insert(ClientAddr(client));
            request.extensions_mut().insert(Proven);
        }
        // Nobody inside is to know it.
        self.layer.secrets.strip(request.headers_mut());
        self.inner.call(request)
    }
}

#[cfg(test)]
mod tests;
