//! How often each client may come: so many times at once, and so many a second.
//!
//! A handshake costs a gateway more than its client, and whoever was shown out for a flood could come back with another one at
//! once. So that is fined: with what it may come in [`Config::penalty`], twice as much each time that it has not paid for
//! the last, [`Config::max_penalty`] at most.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Deserialize;
use tokio::time::Instant;

use super::allowance::{Allowance, Purse};
use crate::layers::client_addr::Range;
use crate::layers::rate_limit::by_address;
use crate::layers::rate_limit::limiter::Key;

/// `[listener.arrivals]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Handshakes a second of one client, an IPv4 address or an IPv6 /64, over TCP and QUIC together. Past it TCP connections
    /// are closed before TLS, and over QUIC nothing is answered that is not proven to come from there.
    pub per_second: NonZeroU32,
    /// The same at once.
    pub burst: NonZeroU32,
    /// What a client that was shown out for a flood may come in this time is taken from it.
    #[serde(with = "humantime_serde")]
    pub penalty: Duration,
    /// The most that it can owe.
    #[serde(with = "humantime_serde")]
    pub max_penalty: Duration,
    /// Who may come as often as they like, beside the hops in `client.trusted` and `proxy_protocol.trusted`: by default
    /// who is on this machine, a proxy most likely.
    pub exempt: Vec<Range>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            per_second: NonZeroU32::new(50).unwrap_or(NonZeroU32::MIN),
            burst: NonZeroU32::new(200).unwrap_or(NonZeroU32::MIN),
            penalty: Duration::from_secs(1),
            max_penalty: Duration::from_secs(30),
            exempt: vec![Range::LOOPBACK_V4, Range::LOOPBACK_V6],
        }
    }
}

/// Clients that are remembered at once. Beyond, only those that are at rest are forgotten, and new ones come uncounted.
const MOST_CLIENTS: usize = 65_536;
/// So few are not looked through for those at rest.
const FEW_CLIENTS: usize = 1_024;
/// Between two looks through as many as are remembered.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// What each client has left.
pub(super) struct Arrivals {
    allowance: Allowance,
    penalty: u32,
    max_penalty: u32,
    known: Mutex<Known>,
}

struct Known {
    clients: HashMap<Key, Client>,
    /// When there are so many, those at rest are forgotten.
    look_at: usize,
    looked: Instant,
}

struct Client {
    purse: Purse,
    /// Fines in a row.
    fines: u32,
}

impl Arrivals {
    pub(super) fn new(config: &Config) -> Self {
        Self::of(config, 1)
    }

    /// `each` times as often, for what a handshake takes several of.
    pub(super) fn of(config: &Config, each: u32) -> Self {
        let per_second = config.per_second.get().saturating_mul(each);
        let allowance = Allowance { burst: config.burst.get().saturating_mul(each), per_second };
        // Of a float that is too large becomes the largest.
        let within = |time: Duration| (f64::from(per_second) * time.as_secs_f64()).ceil() as u32;
        let known = Known { clients: HashMap::new(), look_at: FEW_CLIENTS, looked: Instant::now() };
        Self {
            allowance,
            penalty: within(config.penalty),
            max_penalty: within(config.max_penalty),
            known: Mutex::new(known),
        }
    }

    /// Counts one. False when it is too often.
    pub(super) fn come(&self, client: IpAddr) -> bool {
        let mut known = self.known.lock();
        known.of(client, self.allowance).is_none_or(|client| client.purse.spend())
    }

    /// Whether the next one would be too often.
    pub(super) fn is_spent(&self, client: IpAddr) -> bool {
        let mut known = self.known.lock();
        known.clients.get_mut(&by_address::client(client)).is_some_and(|client| client.purse.left() == 0)
    }

    /// Whether it has not paid yet for a flood: then it cannot come before long.
    pub(super) fn owes(&self, client: IpAddr) -> bool {
        let mut known = self.known.lock();
        known.clients.get_mut(&by_address::client(client)).is_some_and(|client| client.purse.owes())
    }

    /// It was shown out for a flood.
    pub(super) fn fine(&self, client: IpAddr) {
        let mut known = self.known.lock();
        let Some(client) = known.of(client, self.allowance) else { return };
        if client.purse.left() >= self.allowance.burst {
            client.fines = 0;
        }
        let more = self.penalty.saturating_mul(2_u32.saturating_pow(client.fines));
        client.purse.fine(more.min(self.max_penalty), self.max_penalty);
        client.fines = client.fines.saturating_add(1);
    }

    /// How many clients are remembered, and up to `most` of those that owe something.
    pub(super) fn view(&self, most: usize) -> (usize, Vec<IpAddr>) {
        let mut known = self.known.lock();
        let remembered = known.clients.len();
        let owing = known.clients.iter_mut().filter_map(|(key, client)| (client.purse.left() == 0).then_some(key));
        (remembered, owing.map(|key| by_address::address(*key)).take(most).collect())
    }
}

impl Known {
    /// None when no more can be remembered.
    fn of(&mut self, client: IpAddr, allowance: Allowance) -> Option<&mut Client> {
        let key = by_address::client(client);
        if self.clients.len() >= self.look_at && !self.clients.contains_key(&key) {
            self.forget(allowance);
            if self.clients.len() >= MOST_CLIENTS {
                return None;
            }
        }
        Some(self.clients.entry(key).or_insert_with(|| Client { purse: Purse::new(allowance), fines: 0 }))
    }

    /// Those at rest are as good as new ones.
    fn forget(&mut self, allowance: Allowance) {
        let now = Instant::now();
        if self.look_at >= MOST_CLIENTS && now.duration_since(self.looked) < BETWEEN_LOOKS {
            return;
        }
        self.looked = now;
        self.clients.retain(|_, client| client.purse.left() < allowance.burst);
        self.look_at = (self.clients.len() * 2).clamp(FEW_CLIENTS, MOST_CLIENTS);
        self.clients.shrink_to(self.look_at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(per_second: u32, burst: u32) -> Arrivals {
        let (per_second, burst) = (NonZeroU32::new(per_second).unwrap(), NonZeroU32::new(burst).unwrap());
        Arrivals::new(&Config { per_second, burst, max_penalty: Duration::from_secs(8), ..Config::default() })
    }

    fn addr(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn come(arrivals: &Arrivals, client: &str) -> usize {
        (0..1_000).filter(|_| arrivals.come(addr(client))).count()
    }

    #[tokio::test(start_paused = true)]
    async fn each_client_comes_so_often_at_once_and_so_often_a_second() {
        let arrivals = arrivals(10, 40);
        assert_eq!(come(&arrivals, "192.0.2.1"), 40);
        assert!(arrivals.is_spent(addr("::ffff:192.0.2.1")) && !arrivals.is_spent(addr("192.0.2.2")));
        assert_eq!(come(&arrivals, "192.0.2.2"), 40);
        assert_eq!(come(&arrivals, "2001:db8::1") + come(&arrivals, "2001:db8::2"), 40, "a /64 is one client");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(come(&arrivals, "192.0.2.1"), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn fines_double_while_they_are_not_paid_and_are_bounded() {
        let arrivals = arrivals(10, 20);
        let client = addr("192.0.2.1");
        let seconds_until_it_comes = async || {
            let began = Instant::now();
            while !arrivals.come(client) {
                tokio::time::advance(Duration::from_millis(100)).await;
            }
            began.elapsed().as_secs_f64().round() as u64
        };
        assert_eq!(come(&arrivals, "192.0.2.1"), 20);
        let mut waited = Vec::new();
        for _ in 0..5 {
            arrivals.fine(client);
            assert!(arrivals.owes(client) && !arrivals.owes(addr("192.0.2.2")));
            waited.push(seconds_until_it_comes().await);
        }
        assert_eq!(waited, [1, 2, 4, 8, 8]);
        tokio::time::advance(Duration::from_secs(2)).await;
        arrivals.fine(client);
        assert_eq!(come(&arrivals, "192.0.2.1"), 10, "it had paid: the first fine again, from all that it had");
        assert_eq!(come(&arrivals, "192.0.2.2"), 20, "others pay nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_remembered_is_bounded_and_who_owes_is_not_forgotten() {
        let arrivals = arrivals(10, 20);
        arrivals.fine(addr("192.0.2.1"));
        arrivals.fine(addr("192.0.2.1"));
        let crowd =
            |network: u32| (0..2 * MOST_CLIENTS as u32).map(move |host| IpAddr::from((network + host).to_be_bytes()));
        assert!(crowd(10 << 24).all(|client| arrivals.come(client)), "nobody is refused for want of memory");
        assert_eq!(arrivals.view(10), (MOST_CLIENTS, vec![addr("192.0.2.1")]));
        tokio::time::advance(BETWEEN_LOOKS).await;
        assert!(crowd(11 << 24).all(|client| arrivals.come(client)));
        assert!(arrivals.is_spent(addr("192.0.2.1")));
        assert!(arrivals.view(0).0 <= MOST_CLIENTS);
        tokio::time::advance(Duration::from_secs(100)).await;
        assert!(crowd(12 << 24).take(MOST_CLIENTS + 1).all(|client| arrivals.come(client)));
        assert_eq!(arrivals.view(10).1, [] as [IpAddr; 0], "it has paid");
    }
}
