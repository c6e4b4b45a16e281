//! Endpoints from DNS: all addresses of a host, or the targets of SRV records with their weights.
//!
//! Asked again when the answer's time is over, within bounds. An endpoint's id is its address, so that gateways that
//! resolve alike balance alike.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use domain::base::iana::Rcode;
use domain::base::name::{Name, ParsedName};
use domain::base::{Rtype, ToName};
use domain::rdata::{A, Aaaa, Srv};
use domain::resolv::StubResolver;
use domain::resolv::stub::Answer;
use domain::resolv::stub::conf::{ResolvConf, ServerConf, Transport};

use super::{Config, Error, take};
use crate::forward::balance::WEIGHT_MAX;
use crate::forward::{self, EndpointConfig, WeightedEndpoint};

type DnsName = Name<Vec<u8>>;

pub(super) struct Names {
    asked: Asked,
    nameservers: Vec<SocketAddr>,
    timeout: Duration,
    ttl_min: Duration,
    ttl_max: Duration,
}

enum Asked {
    Host(DnsName, u16),
    Srv(DnsName),
}

/// The weight of each address.
type Weights = BTreeMap<SocketAddr, u16>;

impl Names {
    pub(super) fn host(text: &str, config: &Config) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        Some(Self::new(Asked::Host(name(host)?, port.parse().ok()?), config))
    }

    pub(super) fn srv(text: &str, config: &Config) -> Option<Self> {
        Some(Self::new(Asked::Srv(name(text)?), config))
    }

    fn new(asked: Asked, config: &Config) -> Self {
        let Config { ttl_min, ttl_max, dns_timeout: timeout, .. } = *config;
        Self { asked, nameservers: config.nameservers.clone(), timeout, ttl_min, ttl_max }
    }

    /// Keeps a cluster, which may be gone some day, at what the names say.
    pub(super) async fn follow(self, upstream: forward::upstream::Gone) {
        let resolver = self.resolver();
        let mut failures = 0;
        loop {
            let mut ttl = u32::MAX;
            let found = self.look_up(&resolver, &mut ttl).await;
            let Some(upstream) = upstream.upgrade() else { return };
            let pause = if take(&upstream, found) {
                failures = 0;
                Duration::from_secs(ttl.into())
            } else {
                failures += 1;
                self.ttl_min.saturating_mul(1 << failures.min(DOUBLINGS_MAX))
            };
            drop(upstream);
            tokio::time::sleep(pause.clamp(self.ttl_min, self.ttl_max)).await;
        }
    }

    fn resolver(&self) -> StubResolver {
        let mut config = if self.nameservers.is_empty() { ResolvConf::default() } else { ResolvConf::new() };
        config.servers.extend(self.nameservers.iter().map(|server| ServerConf::new(*server, Transport::UdpTcp)));
        config.options.timeout = self.timeout;
        StubResolver::from_conf(config)
    }

    /// The endpoints, and the shortest time that what named them says it is good for.
    async fn look_up(&self, resolver: &StubResolver, ttl: &mut u32) -> Result<Vec<EndpointConfig>, Error> {
        let mut weights = Weights::new();
        match &self.asked {
            Asked::Host(host, port) => {
                let found = addresses(resolver, host, ttl).await?;
                weights.extend(found.into_iter().map(|ip| (SocketAddr::new(ip, *port), 1)));
            }
            Asked::Srv(name) => {
                for srv in targets(resolver, name, ttl).await? {
                    let found = addresses(resolver, &srv.target().to_name(), ttl).await?;
                    weights.extend(found.into_iter().map(|ip| (SocketAddr::new(ip, srv.port()), srv.weight())));
                }
            }
        }
        if weights.is_empty() { Err(Error::Empty) } else { Ok(endpoints(&weights)) }
    }
}

fn name(text: &str) -> Option<DnsName> {
    text.parse().ok().filter(|name: &DnsName| !name.is_root())
}

/// The SRV records of the lowest priority number: the first choice, and health decides among those.
async fn targets(
    resolver: &StubResolver,
    name: &DnsName,
    ttl: &mut u32,
) -> Result<Vec<Srv<ParsedName<bytes::Bytes>>>, Error> {
    let answer = ask(resolver, name, Rtype::SRV, ttl).await?;
    let records = answer.answer()?.limit_to_in::<Srv<_>>();
    let mut found = records.map(|record| Ok(record?.into_data())).collect::<Result<Vec<_>, Error>>()?;
    // The root stands for a service that is decidedly not there.
    found.retain(|srv| !srv.target().is_root());
    let first = found.iter().map(Srv::priority).min();
    found.retain(|srv| Some(srv.priority()) == first);
    Ok(found)
}

async fn addresses(resolver: &StubResolver, host: &DnsName, ttl: &mut u32) -> Result<Vec<IpAddr>, Error> {
    let mut found = Vec::new();
    let answer = ask(resolver, host, Rtype::A, ttl).await?;
    for record in answer.answer()?.limit_to_in::<A>() {
        found.push(record?.data().addr().into());
    }
    let answer = ask(resolver, host, Rtype::AAAA, ttl).await?;
    for record in answer.answer()?.limit_to_in::<Aaaa>() {
        found.push(record?.data().addr().into());
    }
    Ok(found)
}

/// One question. That there is nothing of a name is an answer, too.
async fn ask(resolver: &StubResolver, name: &DnsName, kind: Rtype, ttl: &mut u32) -> Result<Answer, Error> {
    let answer = resolver.query((name, kind)).await.map_err(Error::Dns)?;
    match answer.header().rcode() {
        Rcode::NOERROR | Rcode::NXDOMAIN => {}
        refused => return Err(Error::Refused(refused)),
    }
    // Aliases on the way count, too.
    for record in answer.answer()? {
        *ttl = (*ttl).min(record?.ttl().as_secs());
    }
    Ok(answer)
}

/// SRV weights go to 65,535 and may all be 0; ours go from 1 to [`WEIGHT_MAX`].
fn endpoints(weights: &Weights) -> Vec<EndpointConfig> {
    let heaviest = weights.values().map(|weight| u32::from(*weight)).max().unwrap_or(1).max(WEIGHT_MAX);
    let endpoint = |(address, weight): (&SocketAddr, &u16)| {
        let weight = (u32::from(*weight) * WEIGHT_MAX / heaviest).max(1);
        EndpointConfig::Weighted(WeightedEndpoint { url: format!("http://{address}"), weight })
    };
    weights.iter().map(endpoint).collect()
}

/// After so many failures in a row pauses grow no longer.
const DOUBLINGS_MAX: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_keep_their_proportions() {
        let check = |given: &[u16], expected: &[u32]| {
            let weights = given.iter().zip(1..).map(|(weight, port)| (([10, 0, 0, 1], port).into(), *weight)).collect();
            let weights: Vec<u32> = endpoints(&weights).iter().map(EndpointConfig::weight).collect();
            assert_eq!(weights, expected, "{given:?}");
        };
        check(&[1, 1, 3], &[1, 1, 3]);
        check(&[0, 0], &[1, 1]);
        check(&[60_000, 30_000, 1], &[1_000, 500, 1]);
    }

    #[test]
    fn an_ipv6_address_stands_in_brackets() {
        let endpoints = endpoints(&Weights::from([("[::1]:7".parse().unwrap(), 1)]));
        assert_eq!(endpoints[0].url(), "http://[::1]:7");
    }

    #[test]
    fn a_source_is_one_that_can_be() {
        let check = |config: Config, expected: bool| assert_eq!(config.source().is_ok(), expected, "{config:?}");
        let dns = |text: &str| Config { dns: Some(text.to_owned()), ..Config::default() };
        check(dns("searchd.internal:50051"), true);
        for bad in ["searchd.internal", "searchd.internal:port", ":1", "..:1"] {
            check(dns(bad), false);
        }
        check(Config { srv: Some("_grpc._tcp.searchd.internal".to_owned()), ..Config::default() }, true);
        check(Config { srv: Some("_grpc._tcp.x".to_owned()), ..dns("x:1") }, false);
        check(Config { ttl_min: Duration::from_secs(61), ..dns("x:1") }, false);
    }
}
