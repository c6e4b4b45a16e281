//! The limit per client address: an IPv4 address, or an IPv6 /64, which is what one household or server gets.

use std::net::IpAddr;
use std::sync::Arc;

use futures::future::{Either, Ready, ready};
use governor::clock::{Clock, DefaultClock};

use super::Config;
use super::announce::{Standing, Standings};
use super::limiter::{Key, Limiter, Means};
use crate::body::{Request, Response};
use crate::error::Error;
use crate::request::ClientAddr;

/// What counts as one client. The bit tells a /64 from an IPv4 address, whatever it is.
pub(crate) fn client(addr: IpAddr) -> Key {
    match addr.to_canonical() {
        IpAddr::V4(addr) => Key(u128::from(addr.to_bits())),
        IpAddr::V6(addr) => Key((addr.to_bits() >> 64 << 64) | (1 << 63)),
    }
}

/// The other way: the address, or the first of the /64.
pub(crate) fn address(client: Key) -> IpAddr {
    u32::try_from(client.0).map_or_else(
        |_network| IpAddr::from((client.0 >> 64 << 64).to_be_bytes()),
        |addr| IpAddr::from(addr.to_be_bytes()),
    )
}

pub(crate) struct Layer<C: Clock = DefaultClock> {
    /// Absent when limits are off.
    limiter: Option<Arc<Limiter<C>>>,
}

impl<C: Clock> Clone for Layer<C> {
    fn clone(&self) -> Self {
        Self { limiter: self.limiter.clone() }
    }
}

impl<C: Clock + Clone> Layer<C> {
    pub(crate) fn new(config: &Config, means: &Means, clock: C) -> Self {
        let limiter = || Arc::new(Limiter::new("ip", config.ip_per_second, means, clock));
        Self { limiter: config.enabled.then(limiter) }
    }

    /// The same by other settings. What has been counted stays where the limit does.
    pub(crate) fn renewed(&self, config: &Config, means: &Means, clock: C) -> Self {
        let limiter = || Limiter::renewed(self.limiter.as_ref(), "ip", config.ip_per_second, means, clock);
        Self { limiter: config.enabled.then(limiter) }
    }

    pub(super) fn view(&self) -> Option<serde_json::Value> {
        self.limiter.as_ref().map(|limiter| limiter.view(""))
    }

    /// Counts one request. There is no standing when limits are off.
    pub(crate) fn check(&self, addr: IpAddr) -> (Option<Standing>, Result<(), Error>) {
        let Some(limiter) = &self.limiter else { return (None, Ok(())) };
        let (standing, passed) = limiter.check(client(addr), 1);
        (Some(standing), passed)
    }
}

impl<S, C: Clock> tower::Layer<S> for Layer<C> {
    type Service = Service<S, C>;

    fn layer(&self, inner: S) -> Service<S, C> {
        Service { inner, layer: self.clone() }
    }
}

pub(crate) struct Service<S, C: Clock = DefaultClock> {
    inner: S,
    layer: Layer<C>,
}

impl<S, C> hyper::service::Service<Request> for Service<S, C>
where
    S: hyper::service::Service<Request, Response = Response, Error = Error>,
    C: Clock + Clone,
{
    type Response = Response;
    type Error = Error;
    type Future = Either<S::Future, Ready<Result<Response, Error>>>;

    fn call(&self, request: Request) -> Self::Future {
        if let Some(ClientAddr(addr)) = request.extensions().get() {
            let (standing, passed) = self.layer.check(addr.ip());
            Standings::note(&request, standing);
            if let Err(error) = passed {
                return Either::Right(ready(Err(error)));
            }
        }
        Either::Left(self.inner.call(request))
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use governor::clock::FakeRelativeClock;
    use hyper::service::Service as _;
    use tower::Layer as _;

    use super::*;
    use crate::body;
    use crate::layers::rate_limit::announce;
    use crate::layers::rescue;

    fn request(addr: &str) -> Request {
        let mut request = http::Request::new(body::empty());
        request.extensions_mut().insert(ClientAddr(SocketAddr::new(addr.parse().unwrap(), 1)));
        request
    }

    #[tokio::test]
    async fn every_answer_says_what_is_left_and_the_refusal_when_to_come_back() {
        let clock = FakeRelativeClock::default();
        let inner = hyper::service::service_fn(|_request: Request| async { Ok(Response::new(body::empty())) });
        let limited = Layer::new(&Config::default(), &Means::alone(), clock.clone()).layer(inner);
        let service = announce::Layer { enabled: true }.layer(rescue::Layer.layer(limited));
        for n in 1..=100 {
            let answer = service.call(request("198.51.100.1")).await.unwrap();
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.headers()["ratelimit-policy"], "\"ip\";q=100;w=1");
            assert_eq!(answer.headers()["ratelimit"], format!("\"ip\";r={};t=1", 100 - n));
        }
        let answer = service.call(request("198.51.100.1")).await.unwrap();
        assert_eq!(answer.status(), 429);
        assert_eq!(answer.headers()["retry-after"], "1");
        assert_eq!(answer.headers()["ratelimit"], "\"ip\";r=0;t=1");
        clock.advance(Duration::from_millis(10));
        assert_eq!(service.call(request("198.51.100.1")).await.unwrap().status(), 200);
    }

    #[test]
    fn a_limit_that_stays_keeps_what_it_has_counted_and_one_that_changes_begins_anew() {
        let (clock, config) = (FakeRelativeClock::default(), Config::default());
        let passing = |layer: &Layer<FakeRelativeClock>| {
            (0..500).filter(|_| layer.check([192, 0, 2, 1].into()).1.is_ok()).count()
        };
        let first = Layer::new(&config, &Means::alone(), clock.clone());
        assert_eq!(passing(&first), 100);
        let same = first.renewed(&config, &Means::alone(), clock.clone());
        assert_eq!(passing(&same), 0);
        let wider = Config { ip_per_second: std::num::NonZeroU32::new(200).unwrap(), ..config.clone() };
        assert_eq!(passing(&same.renewed(&wider, &Means::alone(), clock.clone())), 200);
        let off = same.renewed(&Config { enabled: false, ..config }, &Means::alone(), clock);
        assert_eq!(passing(&off), 500);
    }

    #[test]
    fn an_ipv6_client_is_its_64() {
        let client = |addr: &str| client(addr.parse().unwrap());
        assert_eq!(client("2001:db8:1:2::1"), client("2001:db8:1:2:ffff::9"));
        assert_ne!(client("2001:db8:1:2::1"), client("2001:db8:1:3::1"));
        assert_eq!(client("::ffff:192.0.2.1"), client("192.0.2.1"));
        assert_ne!(client("192.0.2.1"), client("192.0.2.2"));
        for (addr, shown) in [("2001:db8:1:2::1", "2001:db8:1:2::"), ("::ffff:192.0.2.1", "192.0.2.1"), ("::", "::")] {
            assert_eq!(address(client(addr)).to_string(), shown);
        }
    }
}
