//! Session tickets that outlive a swap of certificates, and that gateways of one name may take from each other.
//!
//! A ticket's key is derived from a secret, the time and the policy that the session was admitted under. Time moves the
//! key every `tls.ticket_rotation`, and the one before is still taken, so a ticket lives for one to two rotations. The
//! policy (which client certificates are asked for, which are revoked) is part of the key, so that nobody resumes past
//! a check that has become stricter. Secrets come from a file that gateways share, or are made by this process, one a
//! rotation, and forgotten with it: then what was recorded cannot be read once they are gone.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use rustls::server::ProducesTickets;

use super::Error;

/// Secrets that a file may hold: the first mints, all are taken.
const MAX_SECRETS: usize = 8;
/// Bytes of a secret at least.
const MIN_SECRET: usize = 32;
/// The longest that TLS 1.3 lets a ticket live (RFC 8446 section 4.6.1).
pub(super) const MAX_ROTATION: Duration = Duration::from_secs(7 * 24 * 3600);
pub(super) const MIN_ROTATION: Duration = Duration::from_secs(60);
const NAME_LEN: usize = 16;
/// A ticket holds its client's certificate chain; larger ones are not minted, since a ClientHello would not carry them.
const MAX_STATE: usize = 16 << 10;

pub(super) type Secret = [u8; 32];

/// Where keys come from.
#[derive(Debug)]
pub(super) enum Secrets {
    /// From a file, [`read`].
    Shared(Vec<Secret>),
    Own(Own),
}

/// This process's own secrets, by rotation.
#[derive(Clone, Default)]
pub(crate) struct Own(Arc<Mutex<BTreeMap<u64, Secret>>>);

impl Own {
    fn of(&self, rotation: u64, minting: bool) -> Option<Secret> {
        let mut secrets = self.0.lock();
        if minting && !secrets.contains_key(&rotation) {
            let mut secret = Secret::default();
            aws_lc_rs::rand::fill(&mut secret).ok()?;
            secrets.insert(rotation, secret);
            // What is too old to be taken must not be known any more.
            secrets.retain(|&at, _| at + 1 >= rotation);
        }
        secrets.get(&rotation).copied()
    }
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Own")
    }
}

/// The secrets in `file`: one a line, base64, at least 32 bytes; empty lines and those that begin with `#` are passed
/// over.
///
/// # Errors
/// A file that cannot be read, or holds no secrets, or others than these.
pub(super) fn read(file: &Path) -> Result<Vec<Secret>, Error> {
    let bad = |reason| Error::TicketKeys { file: file.to_owned(), reason };
    let text = fs_err::read_to_string(file).map_err(Error::Read)?;
    let mut secrets = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let bytes = STANDARD.decode(line).map_err(|_| bad("a line is not base64"))?;
        if bytes.len() < MIN_SECRET {
            return Err(bad("a secret has fewer than 32 bytes"));
        }
        secrets.push(blake3::derive_key("nearfield tls ticket secret", &bytes));
    }
    match secrets.len() {
        0 => Err(bad("it holds no secret")),
        1..=MAX_SECRETS => Ok(secrets),
        _ => Err(bad("it holds more than 8 secrets")),
    }
}

impl Secrets {
    /// All that are taken at `rotation`; the first of a rotation that mints is the one that does.
    fn of(&self, rotation: u64, minting: bool) -> Vec<Secret> {
        match self {
            Self::Shared(secrets) => secrets.clone(),
            Self::Own(own) => own.of(rotation, minting).into_iter().collect(),
        }
    }
}

/// Mints and takes the tickets of one transport under one policy.
pub(super) struct Ticketer {
    secrets: Secrets,
    policy: [u8; 32],
    rotation: Duration,
    ring: ArcSwap<Ring>,
}

struct Ring {
    rotation: u64,
    /// The first mints.
    keys: Vec<Key>,
}

struct Key {
    name: [u8; NAME_LEN],
    key: RandomizedNonceKey,
}

impl Key {
    fn derive(secret: &Secret, rotation: u64, policy: &[u8; 32]) -> Option<Self> {
        let mut material = secret.to_vec();
        material.extend_from_slice(&rotation.to_be_bytes());
        material.extend_from_slice(policy);
        let key = blake3::derive_key("nearfield tls ticket key", &material);
        let name = blake3::derive_key("nearfield tls ticket key name", &material);
        let key = RandomizedNonceKey::new(&AES_256_GCM, &key).ok()?;
        Some(Self { name: name[..NAME_LEN].try_into().ok()?, key })
    }
}

impl Ticketer {
    pub(super) fn new(secrets: Secrets, policy: [u8; 32], rotation: Duration) -> Arc<Self> {
        let ring = ArcSwap::from_pointee(Ring { rotation: 0, keys: Vec::new() });
        Arc::new(Self { secrets, policy, rotation, ring })
    }

    fn ring(&self, now: Duration) -> Arc<Ring> {
        let rotation = now.as_secs() / self.rotation.as_secs().max(1);
        let ring = self.ring.load();
        if ring.rotation == rotation {
            return Arc::clone(&ring);
        }
        // Gateways that share secrets do not share a clock: what one has minted a moment early is taken too.
        let taken = [(rotation, true), (rotation.saturating_sub(1), false), (rotation + 1, false)];
        let keys = taken.into_iter().flat_map(|(at, minting)| {
            let secrets = self.secrets.of(at, minting);
            secrets.into_iter().filter_map(move |secret| Key::derive(&secret, at, &self.policy))
        });
        let ring = Arc::new(Ring { rotation, keys: keys.collect() });
        self.ring.store(Arc::clone(&ring));
        ring
    }

    fn seal(&self, now: Duration, plain: &[u8]) -> Option<Vec<u8>> {
        if plain.len() > MAX_STATE {
            return None;
        }
        let ring = self.ring(now);
        let Key { name, key } = ring.keys.first()?;
        let mut sealed = plain.to_vec();
        let nonce = key.seal_in_place_append_tag(Aad::from(name), &mut sealed).ok()?;
        Some([name, nonce.as_ref().as_slice(), &sealed].concat())
    }

    fn open(&self, now: Duration, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(NAME_LEN)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        let ring = self.ring(now);
        let Key { name, key } = ring.keys.iter().find(|key| key.name == name)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut opened = sealed.to_vec();
        let length = key.open_in_place(nonce, Aad::from(name), &mut opened).ok()?.len();
        opened.truncate(length);
        Some(opened)
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.rotation.min(MAX_ROTATION).as_secs() as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(now(), plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(now(), cipher)
    }
}

impl fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticketer").field("rotation", &self.rotation).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const STATE: &[u8] = b"a session";

    fn at(hours: u64) -> Duration {
        Duration::from_secs(1_800_000_000 / 3600 * 3600 + 60) + HOUR * hours as u32
    }

    #[test]
    fn a_ticket_is_taken_in_its_rotation_and_the_next_and_then_no_more() {
        let ticketer = Ticketer::new(Secrets::Own(Own::default()), [0; 32], HOUR);
        let ticket = ticketer.seal(at(0), STATE).unwrap();
        assert_ne!(ticketer.seal(at(0), STATE).unwrap(), ticket, "every ticket has a nonce of its own");
        assert_eq!(ticketer.open(at(0), &ticket).as_deref(), Some(STATE));
        assert_eq!(ticketer.open(at(1), &ticket).as_deref(), Some(STATE));
        assert_ne!(ticketer.seal(at(1), STATE).unwrap()[..NAME_LEN], ticket[..NAME_LEN], "the key has moved");
        assert_eq!(ticketer.open(at(2), &ticket), None);
    }

    #[test]
    fn secrets_of_the_past_are_forgotten() {
        let own = Own::default();
        let ticketer = Ticketer::new(Secrets::Own(own.clone()), [0; 32], HOUR);
        for hour in 0..10 {
            ticketer.seal(at(hour), STATE).unwrap();
            assert!(own.0.lock().len() <= 2);
        }
    }

    #[test]
    fn an_altered_ticket_and_noise_are_no_tickets() {
        let ticketer = Ticketer::new(Secrets::Own(Own::default()), [0; 32], HOUR);
        let ticket = ticketer.seal(at(0), STATE).unwrap();
        for i in 0..ticket.len() {
            let mut altered = ticket.clone();
            altered[i] ^= 1;
            assert_eq!(ticketer.open(at(0), &altered), None, "byte {i}");
            assert_eq!(ticketer.open(at(0), &ticket[..i]), None, "{i} bytes");
        }
        assert_eq!(ticketer.seal(at(0), &vec![0; MAX_STATE + 1]), None);
    }

    #[test]
    fn another_policy_takes_no_ticket_and_a_new_ticketer_of_the_same_takes_all() {
        let own = Own::default();
        let ticketer = |policy| Ticketer::new(Secrets::Own(own.clone()), policy, HOUR);
        let ticket = ticketer([0; 32]).seal(at(0), STATE).unwrap();
        assert_eq!(ticketer([0; 32]).open(at(0), &ticket).as_deref(), Some(STATE));
        assert_eq!(ticketer([1; 32]).open(at(0), &ticket), None);
    }

    #[test]
    fn gateways_that_share_a_file_take_each_others_tickets_through_a_rotation_of_its_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tickets");
        let [old, new] = [7, 8].map(|byte| STANDARD.encode([byte; 32]));
        let with = |lines: &[&str]| {
            fs_err::write(&file, format!("# rotated by hand\n{}\n", lines.join("\n"))).unwrap();
            Ticketer::new(Secrets::Shared(read(&file).unwrap()), [0; 32], HOUR)
        };
        let before = with(&[&old]);
        let after = with(&[&new, &old]);
        let ticket = before.seal(at(0), STATE).unwrap();
        assert_eq!(after.open(at(0), &ticket).as_deref(), Some(STATE));
        assert_eq!(after.open(at(1), &ticket).as_deref(), Some(STATE));
        let early = before.seal(at(1), STATE).unwrap();
        assert_eq!(before.open(at(0), &early).as_deref(), Some(STATE), "from a clock that is ahead");
        assert_eq!(with(&[&new]).open(at(0), &ticket), None, "the old secret is withdrawn");
    }

    #[test]
    fn a_file_that_holds_no_good_secrets_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tickets");
        let good = STANDARD.encode([7; 32]);
        for text in [String::new(), "no base64!".to_owned(), STANDARD.encode([7; 31]), format!("{good}\n").repeat(9)] {
            fs_err::write(&file, text).unwrap();
            assert!(read(&file).is_err());
        }
    }
}
