//! The door that connections come in by: how many may be inside, of one client too, whether any more are let in, and which
//! were shown out.

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
    shut: AtomicBool,
    refused: Family<Refused, Counter>,
    cut: Family<Cut, Counter>,
}

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
}

impl EncodeLabelValue for Reason {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        let label = match self {
            Self::Full => "full",
            Self::Pressure => "pressure",
            Self::Client => "client",
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
        let registry = registry.sub_registry_with_prefix("gateway");
        registry.register("connections_refused", "connections refused before their handshake", refused.clone());
        registry.register("connections_cut", "connections and streams ended for what their clients did", cut.clone());
        let max = config.max_connections.min(Semaphore::MAX_PERMITS);
        Self {
            places: Arc::new(Semaphore::new(max)),
            max,
            max_of_client: config.max_connections_per_client,
            hops: ArcSwap::from_pointee(hops.to_vec()),
            proxies: config.proxy_protocol.trusted.clone(),
            clients: Mutex::default(),
            shut: AtomicBool::new(false),
            refused,
            cut,
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
        serde_json::json!({ "open": open, "max": self.max, "clients": clients, "refusing": refusing })
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

    /// Counts who was shown out, and why.
    pub(crate) fn cut(&self, limit: Limit) {
        self.cut.get_or_create(&Cut { limit }).inc();
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
        if door.hops.load().iter().chain(&door.proxies).any(|range| range.contains(client)) {
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
}
