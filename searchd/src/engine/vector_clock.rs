//! Which log entries an instance has applied: origin → highest sequence number. A session token is such a clock, so
//! "has my write arrived?" is a comparison.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Most origins that a token may name. A region has fewer searchds than that.
const MAX_ORIGINS: usize = 64;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VectorClock(BTreeMap<u64, u64>);

/// The text is not a session token of this service.
#[derive(Debug, thiserror::Error)]
#[error("is not a session token of this service")]
pub struct MalformedSession;

impl VectorClock {
    pub fn get(&self, origin: u64) -> u64 {
        self.0.get(&origin).copied().unwrap_or(0)
    }

    /// Raises `origin` to `sequence`; never lowers it.
    pub fn raise(&mut self, origin: u64, sequence: u64) {
        let known = self.0.entry(origin).or_insert(0);
        *known = sequence.max(*known);
    }

    /// Whether everything in `other` is in this clock too.
    pub fn covers(&self, other: &Self) -> bool {
        other.0.iter().all(|(origin, sequence)| self.get(*origin) >= *sequence)
    }

    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().map(|(origin, sequence)| (*origin, *sequence))
    }

    /// An opaque token: base64url of (origin, sequence) pairs of little-endian u64s after a format byte.
    pub fn to_token(&self) -> String {
        let mut bytes = Vec::with_capacity(1 + self.0.len() * 16);
        bytes.push(TOKEN_FORMAT);
        for (origin, sequence) in self.iter() {
            bytes.extend_from_slice(&origin.to_le_bytes());
            bytes.extend_from_slice(&sequence.to_le_bytes());
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    pub fn from_token(token: &str) -> Result<Self, MalformedSession> {
        if token.len() > MAX_TOKEN_LENGTH {
            return Err(MalformedSession);
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| MalformedSession)?;
        let (format, pairs) = bytes.split_first().ok_or(MalformedSession)?;
        if *format != TOKEN_FORMAT || pairs.len() % 16 != 0 || pairs.len() / 16 > MAX_ORIGINS {
            return Err(MalformedSession);
        }
        let mut clock = Self::default();
        for pair in pairs.chunks_exact(16) {
            let (origin, sequence) = pair.split_at(8);
            clock.raise(little_endian(origin), little_endian(sequence));
        }
        Ok(clock)
    }
}

impl FromIterator<(u64, u64)> for VectorClock {
    fn from_iter<I: IntoIterator<Item = (u64, u64)>>(pairs: I) -> Self {
        let mut clock = Self::default();
        for (origin, sequence) in pairs {
            clock.raise(origin, sequence);
        }
        clock
    }
}

fn little_endian(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("a half of a sixteen-byte pair"))
}

const TOKEN_FORMAT: u8 = 1;
const MAX_TOKEN_LENGTH: usize = (1 + MAX_ORIGINS * 16).div_ceil(3) * 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_as_the_clock_it_was() {
        let clock: VectorClock = [(7, 3), (u64::MAX, 9)].into_iter().collect();
        assert_eq!(VectorClock::from_token(&clock.to_token()).unwrap(), clock);
    }

    #[test]
    fn other_text_is_refused() {
        for text in ["", "x", "not a token!", "AAAA", &"A".repeat(100_000)] {
            assert!(VectorClock::from_token(text).is_err(), "{text:.20}");
        }
    }

    #[test]
    fn a_clock_covers_what_it_has_seen() {
        let clock: VectorClock = [(1, 5), (2, 5)].into_iter().collect();
        assert!(clock.covers(&[(1, 5)].into_iter().collect()));
        assert!(!clock.covers(&[(1, 6)].into_iter().collect()));
        assert!(!clock.covers(&[(3, 1)].into_iter().collect()));
    }
}
