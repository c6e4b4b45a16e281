//! An entry as bytes, for a cache outside the process. Little-endian; a version first; the key inside, so that a value
//! that got under another key is no answer. Read as if an enemy had written it.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderName, HeaderValue};

use super::Entry;
use crate::semantics::fields::Head;
use crate::semantics::range::Span;
use crate::{Key, Lifetime, Stamp, Tag, Tags};

const VERSION: u8 = 3;
const MAX_HEADERS: u16 = 256;
const MAX_TAGS: u16 = 64;

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
        let Lifetime { initial, fresh, while_revalidate, if_error, retained, strict } = self.lifetime;
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let span = self.span.unwrap_or(Span { first: 0, last: 0, total: None });
        for number in [
            self.stamp.micros,
            self.stamp.origin,
            micros(initial),
            micros(fresh),
            micros(while_revalidate),
            micros(if_error),
            micros(retained),
            micros(self.cost),
            u64::from(strict) | u64::from(self.span.is_some()) << 1 | u64::from(self.signpost.is_some()) << 2,
            span.first,
            span.last,
            span.total.unwrap_or(u64::MAX),
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        let tags = self.tags.iter().take(usize::from(MAX_TAGS));
        out.extend_from_slice(&(tags.len() as u16).to_le_bytes());
        for tag in tags {
            out.extend_from_slice(&tag.0.to_le_bytes());
        }
        let empty = HeaderValue::from_static("");
        let signpost = self.signpost.iter().flatten().map(|name| (name, &empty));
        let head: Vec<_> = self.head.iter().map(|(name, value)| (name, value)).chain(signpost).collect();
        let head = &head[..head.len().min(usize::from(MAX_HEADERS))];
        out.extend_from_slice(&(head.len() as u16).to_le_bytes());
        for (name, value) in head {
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
        let [initial, fresh, while_revalidate, if_error, retained, cost] = reader.durations()?;
        let flags = reader.number()?;
        let lifetime = Lifetime { initial, fresh, while_revalidate, if_error, retained, strict: flags & 1 != 0 };
        let (first, last, total) = (reader.number()?, reader.number()?, reader.number()?);
        let span = Span { first, last, total: (total != u64::MAX).then_some(total) };
        let tags = (0..reader.count(MAX_TAGS)?).map(|_| reader.number().map(Tag)).collect::<Result<Vec<_>, _>>()?;
        let mut head = Head::new();
        for _ in 0..reader.count(MAX_HEADERS)? {
            let name = HeaderName::from_bytes(&reader.bytes()?).map_err(|_| Undecodable)?;
            let value = HeaderValue::from_maybe_shared(reader.bytes()?).map_err(|_| Undecodable)?;
            head.push((name, value));
        }
        let entry = Self { cost, ..Self::new(status, Head::new(), reader.0, stamp, lifetime, Tags::from(tags)) };
        let span = (flags & 2 != 0).then_some(span);
        Ok(match flags & 4 != 0 {
            true => Self { signpost: Some(head.into_iter().map(|(name, _)| name).collect()), span, ..entry },
            false => Self { head, span, ..entry },
        })
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

    fn durations<const N: usize>(&mut self) -> Result<[Duration; N], Undecodable> {
        let mut durations = [Duration::ZERO; N];
        for duration in &mut durations {
            *duration = Duration::from_micros(self.number()?);
        }
        Ok(durations)
    }

    fn count(&mut self, most: u16) -> Result<u16, Undecodable> {
        let count = u16::from_le_bytes(self.array()?);
        if count > most { Err(Undecodable) } else { Ok(count) }
    }

    fn bytes(&mut self) -> Result<Bytes, Undecodable> {
        let length = u32::from_le_bytes(self.array()?);
        self.take(length as usize)
    }
}

#[cfg(test)]
mod tests {
    use http::header;
    use proptest::prelude::*;

    use super::*;
    use crate::Audience;

    fn key(id: &str) -> Key {
        Key::embed(Audience { tenant: None, scope: "vectors:read" }, "c", id)
    }

    fn entry(body: Vec<u8>, some: bool) -> Entry {
        let head = vec![
            (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (header::SET_COOKIE, HeaderValue::from_static("a=b")),
            (header::SET_COOKIE, HeaderValue::from_static("c=d")),
        ];
        let tags = Tags::from((5..if some { 8 } else { 5 }).map(Tag).collect::<Vec<_>>());
        let seconds = Duration::from_secs;
        let lifetime = Lifetime {
            initial: Duration::from_micros(1),
            fresh: seconds(30),
            while_revalidate: seconds(31),
            if_error: seconds(32),
            retained: seconds(33),
            strict: some,
        };
        let span = some.then_some(Span { first: 1, last: 2, total: None });
        let stamp = Stamp { micros: 1, origin: 2 };
        let cost = seconds(34);
        Entry { span, cost, ..Entry::new(StatusCode::OK, head, body.into(), stamp, lifetime, tags) }
    }

    #[test]
    fn a_signpost_is_written_too() {
        let names = vec![header::ACCEPT, HeaderName::from_static("foo")];
        let signpost = Entry::signpost(names, &entry(Vec::new(), true));
        assert_eq!(Entry::decode(&key("a"), signpost.encode(&key("a")).into()), Ok(signpost));
    }

    #[test]
    fn an_answer_under_another_key_is_none() {
        let bytes = Bytes::from(entry(b"{}".to_vec(), true).encode(&key("a")));
        assert_eq!(Entry::decode(&key("b"), bytes), Err(Undecodable));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(body in any::<Vec<u8>>(), some in any::<bool>()) {
            let entry = entry(body, some);
            let bytes = Bytes::from(entry.encode(&key("a")));
            prop_assert_eq!(Entry::decode(&key("a"), bytes), Ok(entry));
        }

        #[test]
        fn damage_is_noticed(cut in 0usize..400, flip in 0usize..400, bit in 0u8..8) {
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
