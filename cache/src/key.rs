//! Which answers are the same answer: a BLAKE3 hash over who may see it and what was asked, not over how.
//!
//! The protocol, the method (a search by GET or POST), the spelling of JSON and of the query string are not in it. Who
//! asks is in it by what decides the answer: the tenant and the scope that admits the route. Subjects share answers.

use std::fmt;

use blake3::Hasher;
use http::{HeaderMap, HeaderName};

use crate::canonical::{hash_bytes, hash_json};
use crate::semantics::vary;

/// Changes when the meaning of a key does, so that what an older gateway left in Redis is not found.
const VERSION: u8 = 3;
/// searchd's defaults: a caller that spells them out asks the same.
const DEFAULT_COLLECTION: &str = "default";
const DEFAULT_K: u32 = 10;

/// The key of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key([u8; 32]);

/// Whoever may be given the same answer.
#[derive(Clone, Copy, Debug)]
pub struct Audience<'a> {
    pub tenant: Option<&'a str>,
    /// The scope that the route asks for.
    pub scope: &'a str,
}

/// What a search is near.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    Point(&'a str),
    Vector(&'a [f32]),
}

/// A search, as far as it decides the answer. Empty and zero stand for the default, as in the gRPC message.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    pub collection: &'a str,
    pub target: Target<'a>,
    pub k: u32,
    pub metric: &'a str,
    /// JSON; empty for none.
    pub filter: &'a [u8],
    pub include: &'a [String],
    pub ef_search: u32,
    pub recall_target: f64,
    pub exact: bool,
}

impl Key {
    /// One that was written down.
    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A point fetched by its id.
    pub fn embed(audience: Audience<'_>, collection: &str, id: &str) -> Self {
        let mut hasher = begin(b"embed", audience);
        hash_bytes(&mut hasher, or_default(collection).as_bytes());
        hash_bytes(&mut hasher, id.as_bytes());
        Self(hasher.finalize().into())
    }

    pub fn search(audience: Audience<'_>, query: &Query<'_>) -> Self {
        let mut hasher = begin(b"search", audience);
        hash_bytes(&mut hasher, or_default(query.collection).as_bytes());
        match query.target {
            Target::Point(id) => {
                hasher.update(b"p");
                hash_bytes(&mut hasher, id.as_bytes());
            }
            Target::Vector(values) => {
                hasher.update(b"v");
                hasher.update(&(values.len() as u64).to_le_bytes());
                hash_floats(&mut hasher, values);
            }
        }
        hasher.update(&if query.k == 0 { DEFAULT_K } else { query.k }.to_le_bytes());
        hash_bytes(&mut hasher, query.metric.as_bytes());
        match query.filter {
            b"" => hash_json(&mut hasher, b"{}"),
            filter => hash_json(&mut hasher, filter),
        }
        hash_included(&mut hasher, query.include);
        hasher.update(&query.ef_search.to_le_bytes());
        hasher.update(&query.recall_target.to_le_bytes());
        hasher.update(&[u8::from(query.exact)]);
        Self(hasher.finalize().into())
    }

    /// What is at a path of a host: by GET, or by a QUERY with a body of some media type.
    pub fn resource(host: &str, path: &str, query: Option<(&[u8], &[u8])>) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(&[VERSION]);
        hash_bytes(&mut hasher, if query.is_some() { b"query" } else { b"resource" });
        hash_bytes(&mut hasher, host.to_ascii_lowercase().as_bytes());
        hash_bytes(&mut hasher, path.as_bytes());
        let (media, body) = query.unwrap_or_default();
        hash_bytes(&mut hasher, media);
        hash_bytes(&mut hasher, body);
        Self(hasher.finalize().into())
    }

    /// Of the answers under this key, the one for what `request` says in the fields `names`.
    #[must_use]
    pub fn variant(&self, names: &[HeaderName], request: &HeaderMap) -> Self {
        let mut hasher = Hasher::new_keyed(&self.0);
        hasher.update(b"v");
        for name in names {
            hash_bytes(&mut hasher, name.as_str().as_bytes());
            let value = vary::normalised(request, name);
            hasher.update(&[u8::from(value.is_some())]);
            hash_bytes(&mut hasher, &value.unwrap_or_default());
        }
        Self(hasher.finalize().into())
    }

    /// A part of the answer under this key.
    #[must_use]
    pub fn part(&self) -> Self {
        Self(blake3::keyed_hash(&self.0, b"part").into())
    }

    /// A request by its bytes, to be mapped to the key of what it means without reading it again.
    pub fn raw(audience: Audience<'_>, parts: &[&[u8]]) -> Self {
        let mut hasher = begin(b"raw", audience);
        for part in parts {
            hash_bytes(&mut hasher, part);
        }
        Self(hasher.finalize().into())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", blake3::Hash::from_bytes(self.0))
    }
}

fn begin(kind: &[u8], audience: Audience<'_>) -> Hasher {
    let mut hasher = Hasher::new();
    hasher.update(&[VERSION, u8::from(audience.tenant.is_some())]);
    hash_bytes(&mut hasher, audience.tenant.unwrap_or_default().as_bytes());
    hash_bytes(&mut hasher, audience.scope.as_bytes());
    hash_bytes(&mut hasher, kind);
    hasher
}

fn or_default(collection: &str) -> &str {
    if collection.is_empty() { DEFAULT_COLLECTION } else { collection }
}

/// By their bits, 256 at a time: a hasher is fastest on whole kilobytes. Zero has no sign.
fn hash_floats(hasher: &mut Hasher, values: &[f32]) {
    let mut bytes = [0; 1024];
    for chunk in values.chunks(256) {
        for (to, value) in bytes.chunks_exact_mut(4).zip(chunk) {
            let value = if *value == 0.0 { 0.0 } else { *value };
            to.copy_from_slice(&value.to_le_bytes());
        }
        hasher.update(&bytes[..4 * chunk.len()]);
    }
}

/// A set: order and repetition make no difference, and none stands for metadata.
fn hash_included(hasher: &mut Hasher, include: &[String]) {
    let mut words: Vec<&str> = include.iter().map(String::as_str).collect();
    if words.is_empty() {
        words.push("metadata");
    }
    words.sort_unstable();
    words.dedup();
    hasher.update(&(words.len() as u64).to_le_bytes());
    for word in words {
        hash_bytes(hasher, word.as_bytes());
    }
}

#[cfg(test)]
mod tests;
