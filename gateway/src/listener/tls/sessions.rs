//! What is left of TLS sessions between handshakes, so that clients resume them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rustls::server::{ServerSessionMemoryCache, StoresServerSessions};

use super::MinVersion;
use super::tickets::{Own, Secret, Secrets, Ticketer};
use super::trust::Trust;

/// What outlives a swap, so that clients still resume.
#[derive(Default)]
pub(super) struct Sessions {
    own: Own,
    /// By transport.
    stored: HashMap<&'static str, Stored>,
}

/// Sessions of clients without tickets.
struct Stored {
    /// Which admitted them.
    policy: [u8; 32],
    /// How many there may be.
    size: usize,
    sessions: Arc<dyn StoresServerSessions>,
}

impl Sessions {
    pub(super) fn stored(
        &mut self,
        transport: &'static str,
        policy: [u8; 32],
        size: usize,
    ) -> Arc<dyn StoresServerSessions> {
        match self.stored.get(transport) {
            Some(stored) if stored.policy == policy && stored.size == size => stored.sessions.clone(),
            _ => {
                let sessions: Arc<dyn StoresServerSessions> = ServerSessionMemoryCache::new(size);
                self.stored.insert(transport, Stored { policy, size, sessions: sessions.clone() });
                sessions
            }
        }
    }

    pub(super) fn ticketer(&self, shared: Option<&[Secret]>, policy: [u8; 32], rotation: Duration) -> Arc<Ticketer> {
        let secrets = match shared {
            Some(shared) => Secrets::Shared(shared.to_vec()),
            None => Secrets::Own(self.own.clone()),
        };
        Ticketer::new(secrets, policy, rotation)
    }
}

/// A digest of what decides who is admitted: a session is resumed under the same one only.
pub(super) fn policy(transport: &str, min_version: MinVersion, trust: Option<&Trust>) -> [u8; 32] {
    let mut digest = blake3::Hasher::new();
    digest.update(transport.as_bytes()).update(&[0, min_version as u8]);
    digest.update(trust.map_or(&[][..], |trust| &trust.digest));
    *digest.finalize().as_bytes()
}
