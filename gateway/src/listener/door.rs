//! The door that connections come in by: how many may be inside, of one client too, how often one may come, whether any more
//! are let in, and which were shown out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Config;
use super::arrivals::Arrivals;
use crate::layers::client_addr::Range;
use crate::layers::rate_limit::by_address;
use crate::layers::rate_limit::limiter::Key;

pub(crate) struct Door {
    places: Arc<Semaphore>,
    max: usize,
    /// Connections of one client.
    max_of_client: usize,
    /// Who brings many clients, each with a connection of its own: hops of ours, which may change, and proxies.
    hops: ArcSwap<Vec<Range>>,
    proxies: Vec<Range>,
    /// How many of each client are inside: no more entries than places.
    clients: Mutex<HashMap<Key, usize>>,
    arrivals: Arrivals,
    /// The same for the datagrams that a QUIC handshake begins with, which need not come from where they say.
    initials: Arrivals,
    exempt: Vec<Range>,
    shut: AtomicBool,
    refused: Family<Refused, Counter>,
    cut: Family<Cut, Counter>,
    unheard: Counter,
}

/// Datagrams with which a client begins a QUIC handshake, for each that it may make: two of a first flight, the same again behind
/// a Retry, what is lost, and what acknowledges the answer.
const INITIALS_PER_HANDSHAKE: u32 = 8;
/// Clients that `/debug` shows.
const SHOWN: usize = 20;

/// A connection's place inside. It goes where the connection goes.
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
    /// Whose it is, once that is known and if it counts.
    client: Option<(Arc<Door>, Key)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Reason {
    Full,
    Pressure,
    Client,
    Rate,
}

impl EncodeLabelValue for Reason {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        let label = match self {
            Self::Full => "full",
            Self::Pressure => "pressure",
            Self::Client => "client",
            Self::Rate => "rate",
        };
        EncodeLabelValue::encode(&label, encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    reason: Reason,
}

/// A bound of the protocol's that a client went past, so that its connection, over HTTP/3 its stream, was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Limit {
    /// Frames that cost more than they are worth, HTTP/2.
    Http2Frames,
    /// The same over HTTP/3.
    Http3Frames,
    /// Requests that were given up or were none, over HTTP/2.
    Http2Resets,
    /// The same over HTTP/3.
    Http3Resets,
    /// A head that took too long.
    Head,
    /// An answer that was not taken.
    Answer,
}

impl Limit {
    /// Nobody goes past it by being slow, or badly connected.
    fn is_flood(self) -> bool {
        match self {
            Self::Http2Frames | Self::Http3Frames | Self::Http2Resets | Self::Http3Resets => true,
            Self::Head | Self::Answer => false,
        }
    }
}

impl EncodeLabelValue for Limit {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        let label = match self {
            Self::Http2Frames => "http2_frames",
            Self::Http3Frames => "http3_frames",
            Self::Http2Resets => "http2_resets",
            Self::Http3Resets => "http3_resets",
            Self::Head => "head",
            Self::Answer => "answer",
        };
        EncodeLabelValue::encode(&label, encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cut {
    limit: Limit,
}

impl Door {
    /// Hops may have as many connections as there are places.
    pub(crate) fn new(config: &Config, hops: &[Range], registry: &mut Registry) -> Self {
        let (refused, cut) = (Family::<Refused, Counter>::default(), Family::<Cut, Counter>::default());
        let unheard = Counter::default();
        let registry = registry.sub_registry_with_prefix("gateway");
        registry.register("connections_refused", "connections refused before their handshake", refused.clone());
        registry.register("connections_cut", "connections and streams ended for what their clients did", cut.clone());
        registry.register(
            "quic_initials_unheard",
            "first datagrams of QUIC handshakes that were not looked at, of clients that sent too many",
            unheard.clone(),
        );
        let max = config.max_connections.min(Semaphore::MAX_PERMITS);
        Self {
            places: Arc::new(Semaphore::new(max)),
            max,
            max_of_client: config.max_connections_per_client,
            hops: ArcSwap::from_pointee(hops.to_vec()),
            proxies: config.proxy_protocol.trusted.clone(),
            clients: Mutex::default(),
            arrivals: Arrivals::new(&config.arrivals),
            initials: Arrivals::of(&config.arrivals, INITIALS_PER_HANDSHAKE),
            exempt: config.arrivals.exempt.clone(),
            shut: AtomicBool::new(false),
            refused,
            cut,
            unheard,
        }
    }

    /// Other hops from now on.
    pub(crate) fn expect(&self, hops: &[Range]) {
        self.hops.store(Arc::new(hops.to_vec()));
    }

    /// For `/debug`.
    pub(crate) fn view(&self) -> serde_json::Value {
        let open = self.max - self.places.available_permits();
        let clients = self.clients.lock().len();
        let refusing = self.shut.load(Ordering::Relaxed);
        let (counted, too_often) = self.arrivals.view(SHOWN);
        serde_json::json!({
            "open": open,
            "max": self.max,
            "clients": clients,
            "refusing": refusing,
            "arrivals": { "clients": counted, "too_often": too_often },
        })
    }

    /// A place for one more connection; none when it is to be refused.
    pub(crate) fn enter(&self) -> Option<Place> {
        let permit = if self.shut.load(Ordering::Relaxed) {
            Err(Reason::Pressure)
        } else {
            self.places.clone().try_acquire_owned().map_err(|_none| Reason::Full)
        };
        permit.map_err(|reason| self.refuse(reason)).ok().map(|permit| Place { _permit: permit, client: None })
    }

    /// Counts a handshake of a client whose address is proven. False when it has come too often, and is to be refused.
    pub(crate) fn admits(&self, client: IpAddr) -> bool {
        let admitted = self.is_exempt(client) || self.arrivals.come(client);
        if !admitted {
            self.refuse(Reason::Rate);
        }
        admitted
    }

    /// Whether who says to be this client has to prove it first: it would be refused if it is.
    pub(crate) fn doubts(&self, client: IpAddr) -> bool {
        !self.is_exempt(client) && self.arrivals.is_spent(client)
    }

    /// False for a client that owes for a flood: to let it prove its address first would be for nothing.
    pub(crate) fn awaits(&self, client: IpAddr) -> bool {
        let awaited = self.is_exempt(client) || !self.arrivals.owes(client);
        if !awaited {
            self.refuse(Reason::Rate);
        }
        awaited
    }

    /// Whether a datagram that may begin a QUIC handshake is looked at.
    pub(crate) fn hears(&self, client: IpAddr) -> bool {
        let heard = self.is_exempt(client) || self.initials.come(client);
        if !heard {
            self.unheard.inc();
        }
        heard
    }

    /// Counts who was shown out, and why. Who flooded pays for it with handshakes, if its address is proven.
    pub(crate) fn cut(&self, limit: Limit, client: Option<IpAddr>) {
        self.cut.get_or_create(&Cut { limit }).inc();
        if let Some(client) = client
            && limit.is_flood()
            && !self.is_exempt(client)
        {
            tracing::info!(%client, ?limit, "a client was shown out for a flood");
            self.arrivals.fine(client);
        }
    }

    /// Whoever brings many clients, or may come as often as it likes.
    fn is_exempt(&self, client: IpAddr) -> bool {
        self.is_hop(client) || self.exempt.iter().any(|range| range.contains(client))
    }

    fn is_hop(&self, client: IpAddr) -> bool {
        self.hops.load().iter().chain(&self.proxies).any(|range| range.contains(client))
    }

    /// Lets nobody in any more, or again.
    pub(crate) fn shut(&self, shut: bool) {
        self.shut.store(shut, Ordering::Relaxed);
    }

    /// The share of places that are taken, 0 to 1.
    pub(crate) fn filled(&self) -> f64 {
        1.0 - self.places.available_permits() as f64 / self.max.max(1) as f64
    }

    fn refuse(&self, reason: Reason) {
        self.refused.get_or_create(&Refused { reason }).inc();
        tracing::debug!(?reason, "connection refused");
    }
}

impl Place {
    /// Counts it for its client. None when that has as many as it may.
    pub(crate) fn of(mut self, client: IpAddr, door: &Arc<Door>) -> Option<Self> {
        let client = client.to_canonical();
        if door.is_hop(client) {
            return Some(self);
        }
        let key = by_address::client(client);
        {
            let mut clients = door.clients.lock();
            let inside = clients.entry(key).or_default();
            if *inside >= door.max_of_client {
                drop(clients);
                door.refuse(Reason::Client);
                return None;
            }
            *inside += 1;
        }
        self.client = Some((door.clone(), key));
        Some(self)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((door, key)) = &self.client else { return };
        let mut clients = door.clients.lock();
        if let Some(inside) = clients.get_mut(key) {
            *inside = inside.saturating_sub(1);
            if *inside == 0 {
                clients.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(max_connections: usize, max_connections_per_client: usize, hops: &[Range]) -> Arc<Door> {
        let config = Config { max_connections, max_connections_per_client, ..Config::default() };
        Arc::new(Door::new(&config, hops, &mut Registry::default()))
    }

    #[test]
    fn who_is_inside_stays_when_the_door_is_shut() {
        let door = door(4, 4, &[]);
        let inside: Vec<_> = (0..3).map(|_| door.enter().unwrap()).collect();
        assert!((door.filled() - 0.75).abs() < 1e-9);
        door.shut(true);
        assert!(door.enter().is_none());
        assert!((door.filled() - 0.75).abs() < 1e-9);
        door.shut(false);
        let _last = door.enter().unwrap();
        assert!(door.enter().is_none(), "it is full");
        drop(inside);
        assert!(door.enter().is_some());
    }

    #[test]
    fn a_client_has_so_many_places_and_not_those_of_others() {
        let door = door(100, 2, &["10.0.0.0/8".parse().unwrap()]);
        let enter = |client: &str| door.enter().unwrap().of(client.parse().unwrap(), &door);
        let first = enter("192.0.2.1").unwrap();
        let _second = enter("::ffff:192.0.2.1").unwrap();
        assert!(enter("192.0.2.1").is_none());
        let _other = enter("192.0.2.2").unwrap();
        drop(first);
        assert!(enter("192.0.2.1").is_some());
        let _network: Vec<_> = ["2001:db8::1", "2001:db8::2"].map(|client| enter(client).unwrap()).into();
        assert!(enter("2001:db8::3").is_none(), "a /64 is one client");
        let _hop: Vec<_> = (0..10).map(|_| enter("10.1.2.3").unwrap()).collect();
        assert_eq!(door.clients.lock().len(), 3);
        door.expect(&["192.0.2.0/24".parse().unwrap()]);
        let _hops: Vec<_> = (0..10).map(|_| enter("192.0.2.1").unwrap()).collect();
        let _no_hop: Vec<_> = (0..2).map(|_| enter("10.9.9.9").unwrap()).collect();
        assert!(enter("10.9.9.9").is_none());
    }

    #[test]
    fn who_is_shown_out_for_a_flood_pays_and_who_is_slow_or_exempt_does_not() {
        let door = door(100, 100, &["10.0.0.0/8".parse().unwrap()]);
        let burst = crate::listener::arrivals::Config::default().burst.get() as usize;
        let [flooding, slow, hop, own] =
            ["192.0.2.1", "192.0.2.2", "10.1.2.3", "127.0.0.1"].map(|addr| addr.parse::<IpAddr>().unwrap());
        for client in [flooding, hop, own] {
            (0..4).for_each(|_| door.cut(Limit::Http2Frames, Some(client)));
        }
        (0..100).for_each(|_| door.cut(Limit::Head, Some(slow)));
        (0..100).for_each(|_| door.cut(Limit::Http3Resets, None));
        let admitted = |client| (0..2 * burst).filter(|_| door.admits(client)).count();
        assert_eq!([flooding, hop, own].map(admitted), [0, 2 * burst, 2 * burst]);
        assert!(door.doubts(flooding) && !door.doubts(slow) && !door.doubts(hop));
        assert!(!door.awaits(flooding) && door.awaits(slow) && door.awaits(hop));
        // What a handshake takes passes time and again.
        assert!((burst..2 * burst).contains(&admitted(slow)));
    }
}
