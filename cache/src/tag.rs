//! What an answer depends on, and by which it is purged: its tenant, its collection, the point that it is about; or the
//! resource that it is of, and what its origin says of it.

use std::fmt;
use std::sync::Arc;

use crate::canonical::hash_bytes;

/// One tag, tenant included: the same collection name under two tenants is two tags.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tag(pub(crate) u64);

impl Tag {
    /// All that a tenant has; for None, all that belongs to no tenant.
    pub fn tenant(tenant: Option<&str>) -> Self {
        Self::of(b"tenant", tenant, &[])
    }

    pub fn collection(tenant: Option<&str>, collection: &str) -> Self {
        Self::of(b"collection", tenant, &[collection])
    }

    pub fn point(tenant: Option<&str>, collection: &str, id: &str) -> Self {
        Self::of(b"point", tenant, &[collection, id])
    }

    /// A path with its query at a host, in all its variants.
    pub fn resource(host: &str, path: &str) -> Self {
        Self::of(b"resource", None, &[host, path])
    }

    /// A word that an origin gave to its answer.
    pub fn word(word: &str) -> Self {
        Self::of(b"word", None, &[word])
    }

    /// A tag as `Cache-Tag` spells it: `collection:shoes`, `point:shoes/42`.
    pub fn parse(tenant: Option<&str>, text: &str) -> Option<Self> {
        if let Some(collection) = text.strip_prefix("collection:") {
            return Some(Self::collection(tenant, collection));
        }
        let (collection, id) = text.strip_prefix("point:")?.split_once('/')?;
        Some(Self::point(tenant, collection, id))
    }

    fn of(kind: &[u8], tenant: Option<&str>, parts: &[&str]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hash_bytes(&mut hasher, kind);
        hasher.update(&[u8::from(tenant.is_some())]);
        hash_bytes(&mut hasher, tenant.unwrap_or_default().as_bytes());
        for part in parts {
            hash_bytes(&mut hasher, part.as_bytes());
        }
        let mut first = [0; 8];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        Self(u64::from_le_bytes(first))
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tag({:016x})", self.0)
    }
}

/// The tags of one answer. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tags(Arc<[Tag]>);

impl Tags {
    /// Of an answer to a question: its tenant's, its collection's, and its point's when it is about one.
    pub fn new(tenant: Option<&str>, collection: &str, point: Option<&str>) -> Self {
        let whole = [Tag::tenant(tenant), Tag::collection(tenant, collection)];
        let point = point.map(|id| Tag::point(tenant, collection, id));
        Self(whole.into_iter().chain(point).collect())
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = Tag> {
        self.0.iter().copied()
    }
}

impl From<Vec<Tag>> for Tags {
    fn from(tags: Vec<Tag>) -> Self {
        Self(tags.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_of_their_tenant() {
        let of = Tag::collection;
        assert_ne!(of(None, "shoes"), of(Some("a"), "shoes"));
        assert_ne!(of(Some("a"), "shoes"), of(Some("b"), "shoes"));
        assert_ne!(of(None, "shoes"), of(Some(""), "shoes"));
        assert_ne!(of(Some("ab"), "c"), of(Some("a"), "bc"));
    }

    #[test]
    fn tags_are_read_as_they_are_written() {
        assert_eq!(Tag::parse(Some("a"), "collection:shoes"), Some(Tag::collection(Some("a"), "shoes")));
        assert_eq!(Tag::parse(None, "point:shoes/a/b"), Some(Tag::point(None, "shoes", "a/b")));
        assert_eq!(Tag::parse(None, "shoes"), None);
        assert_eq!(Tag::parse(None, "point:shoes"), None);
    }
}
