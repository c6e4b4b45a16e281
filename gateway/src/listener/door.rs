//! The door that connections come in by: how many may be inside, and whether any more are let in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub(crate) struct Door {
    places: Arc<Semaphore>,
    max: usize,
    shut: AtomicBool,
    refused: Family<Labels, Counter>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Reason {
    Full,
    Pressure,
}

impl EncodeLabelValue for Reason {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        let label = match self {
            Self::Full => "full",
            Self::Pressure => "pressure",
        };
        EncodeLabelValue::encode(&label, encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    reason: Reason,
}

impl Door {
    pub(crate) fn new(max: usize, registry: &mut Registry) -> Self {
        let refused = Family::<Labels, Counter>::default();
        registry.sub_registry_with_prefix("gateway").register(
            "connections_refused",
            "connections refused before their handshake",
            refused.clone(),
        );
        let max = max.min(Semaphore::MAX_PERMITS);
        Self { places: Arc::new(Semaphore::new(max)), max, shut: AtomicBool::new(false), refused }
    }

    /// For `/debug`.
    pub(crate) fn view(&self) -> serde_json::Value {
        let open = self.max - self.places.available_permits();
        serde_json::json!({ "open": open, "max": self.max, "refusing": self.shut.load(Ordering::Relaxed) })
    }

    /// A place for one more connection; none when it is to be refused.
    pub(crate) fn enter(&self) -> Option<OwnedSemaphorePermit> {
        let place = if self.shut.load(Ordering::Relaxed) {
            Err(Reason::Pressure)
        } else {
            self.places.clone().try_acquire_owned().map_err(|_none| Reason::Full)
        };
        place
            .map_err(|reason| {
                self.refused.get_or_create(&Labels { reason }).inc();
                tracing::debug!(?reason, "connection refused");
            })
            .ok()
    }

    /// Lets nobody in any more, or again.
    pub(crate) fn shut(&self, shut: bool) {
        self.shut.store(shut, Ordering::Relaxed);
    }

    /// The share of places that are taken, 0 to 1.
    pub(crate) fn filled(&self) -> f64 {
        1.0 - self.places.available_permits() as f64 / self.max.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_inside_stays_when_the_door_is_shut() {
        let door = Door::new(4, &mut Registry::default());
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
}
