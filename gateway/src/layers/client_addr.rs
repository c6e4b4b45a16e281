//! Who the client is when load balancers stand in front: the address that the nearest trusted hop vouches for.
//!
//! `X-Forwarded-For` is believed only from peers in `trusted`, and only as far from its right end as those peers wrote
//! it: what a client puts there itself stays to the left and is never reached.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::HeaderMap;
use serde::Deserialize;

use crate::body::{Request, Response};
use crate::request::ClientAddr;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Addresses of the hops in front, as CIDR ranges. Empty: the connection's remote end is the client.
    pub trusted: Vec<Range>,
    /// Entries at the right end of `X-Forwarded-For` that the trusted hop adds behind the client's. Google's load
    /// balancer writes `client, lb`: 1.
    pub entries_after_client: usize,
}

/// A CIDR range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    base: IpAddr,
    bits: u8,
}

/// What is not a range.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address range such as 10.0.0.0/8 or 2001:db8::/32")]
pub struct BadRange(String);

impl FromStr for Range {
    type Err = BadRange;

    fn from_str(text: &str) -> Result<Self, BadRange> {
        let bad = || BadRange(text.to_owned());
        let (base, bits) = text.split_once('/').map_or((text, None), |(base, bits)| (base, Some(bits)));
        let base: IpAddr = base.parse().map_err(|_| bad())?;
        let most = if base.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), str::parse).map_err(|_| bad())?;
        if bits > most {
            return Err(bad());
        }
        Ok(Self { base, bits })
    }
}

impl<'de> Deserialize<'de> for Range {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Range {
    pub fn contains(&self, addr: IpAddr) -> bool {
        match (self.base, addr) {
            (IpAddr::V4(base), IpAddr::V4(addr)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                (base.to_bits() ^ addr.to_bits()) & mask == 0
            }
            (IpAddr::V6(base), IpAddr::V6(addr)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
                (base.to_bits() ^ addr.to_bits()) & mask == 0
            }
            _ => false,
        }
    }
}

impl Config {
    fn trusts(&self, addr: IpAddr) -> bool {
        self.trusted.iter().any(|range| range.contains(addr))
    }

    /// The client behind `peer`.
    fn client(&self, peer: SocketAddr, headers: &HeaderMap) -> SocketAddr {
        if !self.trusts(peer.ip()) {
            return peer;
        }
        let hops = headers.get_all("x-forwarded-for").iter().rev().filter_map(|value| value.to_str().ok());
        let entries = hops.flat_map(|value| value.rsplit(',')).map(str::trim);
        for entry in entries.skip(self.entries_after_client) {
            // What the trusted hop wrote is an address; from anything else on nothing can be believed.
            let Ok(addr) = entry.parse::<IpAddr>() else { break };
            let addr = addr.to_canonical();
            if !self.trusts(addr) {
                return SocketAddr::new(addr, 0);
            }
        }
        peer
    }
}

#[derive(Clone)]
pub(crate) struct Layer {
    config: Arc<Config>,
}

impl Layer {
    pub(crate) fn new(config: Config) -> Self {
        Self { config: Arc::new(config) }
    }
}

impl<S> tower::Layer<S> for Layer {
    type Service = Service<S>;

    fn layer(&self, inner: S) -> Service<S> {
        Service { inner, config: self.config.clone() }
    }
}

#[derive(Clone)]
pub(crate) struct Service<S> {
    inner: S,
    config: Arc<Config>,
}

impl<S: tower::Service<Request, Response = Response>> tower::Service<Request> for Service<S> {
    type Response = Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> S::Future {
        if let Some(ClientAddr(peer)) = request.extensions().get().copied() {
            let client = self.config.client(peer, request.headers());
            request.extensions_mut().insert(ClientAddr(client));
        }
        self.inner.call(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LB: &str = "35.191.0.9:443";

    fn check(trusted: &[&str], after: usize, peer: &str, forwarded: &[&str], expected: &str) {
        let config =
            Config { trusted: trusted.iter().map(|r| r.parse().unwrap()).collect(), entries_after_client: after };
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        let client = config.client(peer.parse().unwrap(), &headers);
        assert_eq!(client.ip().to_string(), expected, "{peer} {forwarded:?}");
    }

    #[test]
    fn only_a_trusted_hop_is_believed_and_only_for_what_it_wrote() {
        let google = &["35.191.0.0/16", "130.211.0.0/22"][..];
        check(google, 1, "198.51.100.7:5", &["203.0.113.1, 34.1.1.1"], "198.51.100.7");
        check(google, 1, LB, &["203.0.113.1, 34.1.1.1"], "203.0.113.1");
        // The client wrote an address of its own first.
        check(google, 1, LB, &["9.9.9.9, 203.0.113.1, 34.1.1.1"], "203.0.113.1");
        check(google, 1, LB, &["9.9.9.9", "203.0.113.1, 34.1.1.1"], "203.0.113.1");
        check(google, 0, LB, &["203.0.113.1, 35.191.3.3"], "203.0.113.1");
        check(google, 0, LB, &["203.0.113.1, nonsense"], "35.191.0.9");
        check(google, 0, LB, &[], "35.191.0.9");
        check(&["::1/128"], 0, "[::1]:5", &["2001:db8::7"], "2001:db8::7");
    }

    #[test]
    fn ranges_are_exact_at_their_edges() {
        let range: Range = "10.1.0.0/15".parse().unwrap();
        assert!(range.contains("10.0.0.0".parse().unwrap()));
        assert!(range.contains("10.1.255.255".parse().unwrap()));
        assert!(!range.contains("10.2.0.0".parse().unwrap()));
        assert!("0.0.0.0/0".parse::<Range>().unwrap().contains("1.2.3.4".parse().unwrap()));
        assert!("10.0.0.0/33".parse::<Range>().is_err());
        assert!("ten".parse::<Range>().is_err());
    }
}
