//! An entry as bytes, for a cache outside the process. Little-endian; a version first; the key inside, so that a value
//! that got under another key is no answer. Read as if an enemy had written it.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderName, HeaderValue};

use super::Entry;
use crate::{Key, Lifetime, Stamp, Tag, Tags};

const VERSION: u8 = 1;
const MAX_HEADERS: u16 = 32;

/// Bytes that are not an entry of this version under this key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cache entry that is understood")]
pub(crate) struct Undecodable;

impl Entry {
    pub(crate) fn encode(&self, key: &Key) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.body.len() + 512);
        out.push(VERSION);
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(&self.status.as_u16().to_le_bytes());
        for number in [
            self.stamp.micros,
            self.stamp.origin,
            self.lifetime.fresh.as_micros() as u64,
            self.lifetime.stale.as_micros() as u64,
            self.tags.tenant.0,
            self.tags.collection.0,
            u64::from(self.tags.point.is_some()),
            self.tags.point.map_or(0, |tag| tag.0),
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        let headers = self.headers.iter().take(usize::from(MAX_HEADERS));
        out.extend_from_slice(&(headers.len() as u16).to_le_bytes());
        for (name, value) in headers {
            for bytes in [name.as_str().as_bytes(), value.as_bytes()] {
                out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
                out.extend_from_slice(bytes);
            }
        }
        out.extend_from_slice(&self.body);
        // Over all that is before it.
        let sum = blake3::hash(&out);
        out.extend_from_slice(&sum.as_bytes()[..SUM_BYTES]);
        out
    }

    pub(crate) fn decode(key: &Key, bytes: Bytes) -> Result<Self, Undecodable> {
        let body_end = bytes.len().checked_sub(SUM_BYTES).ok_or(Undecodable)?;
        if blake3::hash(&bytes[..body_end]).as_bytes()[..SUM_BYTES] != bytes[body_end..] {
            return Err(Undecodable);
        }
        let mut reader = Reader(bytes.slice(..body_end));
        if reader.array::<1>()? != [VERSION] || reader.array::<32>()? != *key.as_bytes() {
            return Err(Undecodable);
        }
        let status = StatusCode::from_u16(u16::from_le_bytes(reader.array()?)).map_err(|_| Undecodable)?;
        let stamp = Stamp { micros: reader.number()?, origin: reader.number()? };
        let lifetime =
            Lifetime { fresh: Duration::from_micros(reader.number()?), stale: Duration::from_micros(reader.number()?) };
        let tenant = Tag(reader.number()?);
        let collection = Tag(reader.number()?);
        let has_point = reader.number()? != 0;
        let point = Tag(reader.number()?);
        let tags = Tags { tenant, collection, point: has_point.then_some(point) };
        let count = u16::from_le_bytes(reader.array()?);
        if count > MAX_HEADERS {
            return Err(Undecodable);
        }
        let mut headers = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let name = HeaderName::from_bytes(&reader.bytes()?).map_err(|_| Undecodable)?;
            let value = HeaderValue::from_maybe_shared(reader.bytes()?).map_err(|_| Undecodable)?;
            headers.push((name, value));
        }
        Ok(Self { status, headers, body: reader.0, stamp, lifetime, tags })
    }
}

const SUM_BYTES: usize = 16;

struct Reader(Bytes);

impl Reader {
    fn take(&mut self, length: usize) -> Result<Bytes, Undecodable> {
        if length > self.0.len() { Err(Undecodable) } else { Ok(self.0.split_to(length)) }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Undecodable> {
        self.take(N)?.as_ref().try_into().map_err(|_| Undecodable)
    }

    fn number(&mut self) -> Result<u64, Undecodable> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn bytes(&mut self) -> Result<Bytes, Undecodable> {
        let length = u32::from_le_bytes(self.array()?);
        self.take(length as usize)
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, header};
    use proptest::prelude::*;

    use super::*;
    use crate::Audience;

    fn key(id: &str) -> Key {
        Key::embed(Audience { tenant: None, scope: "vectors:read" }, "c", id)
    }

    fn entry(body: Vec<u8>, point: bool) -> Entry {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::SET_COOKIE, HeaderValue::from_static("a=b"));
        headers.insert("x-request-id", HeaderValue::from_static("req_1"));
        let tags = Tags { tenant: Tag(5), collection: Tag(7), point: point.then_some(Tag(9)) };
        let lifetime = Lifetime { fresh: Duration::from_secs(30), stale: Duration::from_micros(1) };
        Entry::new(StatusCode::OK, &headers, body.into(), Stamp { micros: 1, origin: 2 }, lifetime, tags)
    }

    #[test]
    fn only_what_is_about_the_answer_is_kept() {
        let kept: Vec<_> = entry(Vec::new(), false).headers;
        assert_eq!(kept, [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    }

    #[test]
    fn an_answer_under_another_key_is_none() {
        let bytes = Bytes::from(entry(b"{}".to_vec(), true).encode(&key("a")));
        assert_eq!(Entry::decode(&key("b"), bytes), Err(Undecodable));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(body in any::<Vec<u8>>(), point in any::<bool>()) {
            let entry = entry(body, point);
            let bytes = Bytes::from(entry.encode(&key("a")));
            prop_assert_eq!(Entry::decode(&key("a"), bytes), Ok(entry));
        }

        #[test]
        fn damage_is_noticed(cut in 0usize..300, flip in 0usize..300, bit in 0u8..8) {
            let good = entry(b"{\"results\":[]}".to_vec(), true).encode(&key("a"));
            let mut flipped = good.clone();
            flipped[flip % good.len()] ^= 1 << bit;
            prop_assert_eq!(Entry::decode(&key("a"), flipped.into()), Err(Undecodable));
            let short = good[..cut % good.len()].to_vec();
            prop_assert_eq!(Entry::decode(&key("a"), short.into()), Err(Undecodable));
        }

        #[test]
        fn noise_is_no_entry(bytes in any::<Vec<u8>>()) {
            prop_assert_eq!(Entry::decode(&key("a"), bytes.into()), Err(Undecodable));
        }
    }
}
