//! Connection ids by which a process knows its own QUIC connections from those of the process before it.

use std::sync::Arc;

use quinn::{ConnectionId, ConnectionIdGenerator, EndpointConfig};
use serde::{Deserialize, Serialize};

const NONCE_LEN: usize = 4;
const LEN: usize = 8;

/// What a process's connection ids are marked with.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Mark([u8; 32]);

impl Mark {
    pub(crate) fn random() -> Result<Self, aws_lc_rs::error::Unspecified> {
        random().map(Self)
    }

    /// Half of an id is random, and half a digest of that under the mark: to others the whole is noise.
    fn id(&self, nonce: [u8; NONCE_LEN]) -> [u8; LEN] {
        let mut id = [0; LEN];
        id[..NONCE_LEN].copy_from_slice(&nonce);
        id[NONCE_LEN..].copy_from_slice(&blake3::keyed_hash(&self.0, &nonce).as_bytes()[..LEN - NONCE_LEN]);
        id
    }

    fn made(&self, id: &[u8]) -> bool {
        id.first_chunk::<NONCE_LEN>().is_some_and(|nonce| id == self.id(*nonce))
    }

    /// Whether a datagram is for a connection of the process with this mark. A client's first one is for nobody's: it
    /// chose the id itself.
    pub(super) fn is_on(&self, datagram: &[u8]) -> bool {
        destination(datagram).is_some_and(|id| self.made(id))
    }
}

/// Set in the first byte of a long header.
const LONG: u8 = 0x80;
/// The bits of that byte which say what it is, in version 1: none of them for an Initial.
const KIND: u8 = 0x30;
const VERSION_1: u32 = 1;

/// Whether a datagram may ask for more than it cost: one that begins with an Initial, or is of a version that we do not
/// speak, which is answered by those that we do. Others are for a connection, or of no consequence.
pub(super) fn begins(datagram: &[u8]) -> bool {
    let Some(([first], rest)) = datagram.split_first_chunk() else { return false };
    let version = rest.first_chunk().map(|version| u32::from_be_bytes(*version));
    first & LONG != 0 && (first & KIND == 0 || version != Some(VERSION_1))
}

/// The destination's connection id (RFC 9000 section 17): after a length in a long header, of our length in a short one.
fn destination(datagram: &[u8]) -> Option<&[u8]> {
    if datagram.first()? & LONG == 0 {
        return datagram.get(1..=LEN);
    }
    let length = usize::from(*datagram.get(5)?);
    datagram.get(6..6 + length)
}

/// Every id passes as valid, as by default: one of a process that has ended is answered by a stateless reset, which [`Secrets`]
/// make its client believe.
impl ConnectionIdGenerator for Mark {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&self.id(rand::random()))
    }

    fn cid_len(&self) -> usize {
        LEN
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

/// What the processes of one gateway share, so that each understands what another told its clients.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Secrets {
    /// For stateless resets (RFC 9000 section 10.3).
    reset: [u8; 32],
    /// For the tokens of address validation (RFC 9000 section 8.1).
    tokens: [u8; 32],
}

impl Secrets {
    pub(crate) fn random() -> Result<Self, aws_lc_rs::error::Unspecified> {
        Ok(Self { reset: random()?, tokens: random()? })
    }

    pub(super) fn endpoint_config(&self, mark: Mark) -> EndpointConfig {
        let reset = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &self.reset);
        let mut config = EndpointConfig::new(Arc::new(reset));
        config.cid_generator(move || Box::new(mark));
        config
    }

    pub(super) fn server_config(&self, crypto: Arc<dyn quinn::crypto::ServerConfig>) -> quinn::ServerConfig {
        use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
        quinn::ServerConfig::new(crypto, Arc::new(Salt::new(HKDF_SHA256, &[]).extract(&self.tokens)))
    }
}

fn random() -> Result<[u8; 32], aws_lc_rs::error::Unspecified> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_known_by_the_mark_in_its_destination() {
        let (mut own, other) = (Mark::random().unwrap(), Mark::random().unwrap());
        for _ in 0..1000 {
            let id = own.generate_cid();
            let short = [&[0x40][..], &id, b"rest"].concat();
            let long = [&[0xe0, 0, 0, 0, 1, LEN as u8][..], &id, b"rest"].concat();
            for datagram in [short, long] {
                assert!(own.is_on(&datagram));
                assert!(!other.is_on(&datagram));
            }
        }
    }

    #[test]
    fn what_may_begin_a_handshake_is_told_from_what_goes_on_with_one() {
        let long = |first: u8, version: u32| [&[first][..], &version.to_be_bytes(), &[0; 20]].concat();
        for (datagram, may) in [
            (long(0xc0, 1), true),
            (long(0xcf, 1), true),
            // Version 2 has another order of kinds.
            (long(0xd0, 0x6b33_43cf), true),
            (long(0xf0, 0x1a2a_3a4a), true),
            (long(0xd0, 1), false),
            (long(0xe0, 1), false),
            (long(0xf0, 1), false),
            (long(0x40, 1), false),
            (vec![0xc0], true),
            (vec![], false),
        ] {
            assert_eq!(begins(&datagram), may, "{datagram:x?}");
        }
    }

    #[test]
    fn what_is_too_short_or_no_quic_is_on_nobodys_mark() {
        let own = Mark::random().unwrap();
        let id = own.id([1, 2, 3, 4]);
        let long = [&[0xe0, 0, 0, 0, 1, 20][..], &id].concat();
        assert!(!own.is_on(&long), "an id that claims to be longer than the datagram");
        for length in 0..long.len() {
            assert!(!own.is_on(&long[..length]));
        }
        assert!(!own.is_on(&[&[0x40][..], &id[..7]].concat()));
    }
}
