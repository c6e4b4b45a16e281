//! One answer on disk: a head, then the entry as it is written for Redis, which has its key and a checksum over all.
//!
//! The head is for whoever reads a segment from its beginning: how long the record is, whose, and until when of use. It
//! has a checksum of its own, so that nobody follows a wrong length.

use std::io;

use bytes::Bytes;

use crate::entry::Undecodable;
use crate::{Entry, Key};

pub(super) const HEAD_BYTES: usize = 56;
const CHECKED: usize = 48;

/// A record's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) key: Key,
    /// Unix microseconds; from then on it is of no use.
    pub(super) dies: u64,
    /// Bytes behind the head; 0 for a record that ends what is under its key.
    pub(super) length: u32,
}

/// Why a record is passed over.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("the disk failed")]
    Disk(#[from] io::Error),
    #[error("the record is torn, damaged or of another key")]
    Damaged,
}

impl From<Undecodable> for Unreadable {
    fn from(_: Undecodable) -> Self {
        Self::Damaged
    }
}

impl Unreadable {
    pub(super) fn is_damage(&self) -> bool {
        match self {
            Self::Damaged => true,
            Self::Disk(error) => error.kind() == io::ErrorKind::UnexpectedEof,
        }
    }
}

impl Head {
    fn encode(self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        bytes[..4].copy_from_slice(b"NFA\x01");
        bytes[4..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.dies.to_le_bytes());
        bytes[16..CHECKED].copy_from_slice(self.key.as_bytes());
        let sum = blake3::hash(&bytes[..CHECKED]);
        bytes[CHECKED..].copy_from_slice(&sum.as_bytes()[..HEAD_BYTES - CHECKED]);
        bytes
    }

    pub(super) fn decode(bytes: &[u8; HEAD_BYTES]) -> Option<Self> {
        let sum = blake3::hash(&bytes[..CHECKED]);
        if bytes[..4] != *b"NFA\x01" || bytes[CHECKED..] != sum.as_bytes()[..HEAD_BYTES - CHECKED] {
            return None;
        }
        let length = u32::from_le_bytes(bytes[4..8].try_into().ok()?);
        let dies = u64::from_le_bytes(bytes[8..16].try_into().ok()?);
        Some(Self { key: Key::from_bytes(bytes[16..CHECKED].try_into().ok()?), dies, length })
    }
}

/// A record, whole; None for an entry that ends what is under `key`.
pub(super) fn encode(key: &Key, entry: Option<&Entry>) -> Vec<u8> {
    let payload = entry.map(|entry| entry.encode(key)).unwrap_or_default();
    let life = entry.map_or(0, |entry| u64::try_from(entry.lifetime.total().as_micros()).unwrap_or(u64::MAX));
    let dies = entry.map_or(u64::MAX, |entry| entry.stamp.micros.saturating_add(life));
    let length = u32::try_from(payload.len()).unwrap_or_default();
    [&Head { key: *key, dies, length }.encode()[..], &payload[..]].concat()
}

/// The entry of a whole record.
pub(super) fn decode(key: &Key, record: Vec<u8>) -> Result<Entry, Unreadable> {
    let head = record.first_chunk().and_then(Head::decode).ok_or(Unreadable::Damaged)?;
    if head.key != *key || record.len() != HEAD_BYTES + head.length as usize {
        return Err(Unreadable::Damaged);
    }
    Ok(Entry::decode(key, Bytes::from(record).slice(HEAD_BYTES..))?)
}
