//! One point: registers that merge by last writer wins.
//!
//! A put sets the vector and the whole metadata; a patch sets single registers; a delete outdoes everything older. What
//! a point is depends only on which entries it has seen, not on their order:
//!
//! - it lives when its latest put is later than its latest delete (a patch alone brings nothing back to life);
//! - a register counts when it is later than both, so that a put also clears the keys that it does not name.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::stamp::Stamp;

/// Top-level metadata keys and their values, in the order in which they are shown.
type Object = Map<String, Value>;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// 1 when first stored, one more with each change; merged by maximum.
    pub version: u64,
    /// The latest put.
    base: Option<Stamp>,
    deleted: Option<Stamp>,
    /// The vector's register. The values of a live record are in the index.
    vector: Option<Stamp>,
    /// The vector of a patch that waits for a put: the record is not live, so the index has nothing of it.
    waiting: Option<Bytes>,
    /// The metadata as it stands: a JSON object.
    metadata: Bytes,
    /// Registers of metadata keys that were patched after the latest put. `true` marks a key that was removed.
    patches: BTreeMap<Box<str>, (Stamp, bool)>,
}

/// What a merge did to a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// The values that the index must have for the record from now on.
    pub values: Option<Bytes>,
    /// The record's metadata is another one than before.
    pub metadata: bool,
    /// The record came to life (`Some(true)`) or died (`Some(false)`).
    pub life: Option<bool>,
}

impl Merged {
    pub fn changed(&self) -> bool {
        self.values.is_some() || self.metadata || self.life.is_some()
    }
}

impl Record {
    pub fn is_live(&self) -> bool {
        self.base > self.deleted
    }

    /// A JSON object; `{}` when there is none.
    pub fn metadata(&self) -> &[u8] {
        if self.metadata.is_empty() { b"{}" } else { &self.metadata }
    }

    pub fn metadata_bytes(&self) -> Bytes {
        if self.metadata.is_empty() { Bytes::from_static(b"{}") } else { self.metadata.clone() }
    }

    /// As it is kept: empty for `{}`.
    pub fn stored_metadata(&self) -> Bytes {
        self.metadata.clone()
    }

    pub fn base(&self) -> Option<&Stamp> {
        self.base.as_ref()
    }

    pub fn deleted(&self) -> Option<&Stamp> {
        self.deleted.as_ref()
    }

    pub fn vector(&self) -> Option<&Stamp> {
        self.vector.as_ref()
    }

    pub fn patches(&self) -> impl Iterator<Item = (&str, &Stamp, bool)> {
        self.patches.iter().map(|(key, (stamp, removed))| (&**key, stamp, *removed))
    }

    /// The JSON text of a top-level key.
    pub fn value(&self, key: &str) -> Option<String> {
        parse(&self.metadata).get(key).map(Value::to_string)
    }

    /// Nothing waits here for a put.
    pub fn is_bare(&self) -> bool {
        self.vector.is_none() && self.patches.is_empty()
    }

    /// Little-endian f32s of a vector that the index does not have.
    pub fn waiting(&self) -> Option<&Bytes> {
        self.waiting.as_ref()
    }

    /// Rebuilds a record from a snapshot's parts.
    pub fn restore(
        version: u64,
        [base, deleted, vector]: [Option<Stamp>; 3],
        waiting: Option<Bytes>,
        metadata: Bytes,
        patches: BTreeMap<Box<str>, (Stamp, bool)>,
    ) -> Self {
        Self { version, base, deleted, vector, waiting, metadata, patches }
    }

    /// The latest moment at which everything before was void.
    fn floor(&self) -> Option<&Stamp> {
        self.base.as_ref().max(self.deleted.as_ref())
    }

    /// `values` are little-endian f32s, `metadata` is a JSON object or empty for none.
    pub fn put(&mut self, stamp: &Stamp, values: &Bytes, metadata: &Bytes, version: u64) -> Merged {
        self.version = self.version.max(version);
        if self.floor() >= Some(stamp) {
            return Merged::default();
        }
        let was_live = self.is_live();
        let before = std::mem::take(&mut self.metadata);
        self.patches.retain(|_, (patched, _)| *patched > *stamp);
        self.metadata =
            // A copy of its own: `metadata` may be a piece of a large message, which must not stay in memory for it.
            if self.patches.is_empty() { Bytes::copy_from_slice(metadata) } else { overlay(metadata, &before, &self.patches) };
        self.base = Some(stamp.clone());
        let waiting = self.waiting.take();
        let values = if self.raise_vector(stamp) { Some(values.clone()) } else { waiting };
        Merged { values, metadata: self.metadata != before, life: (!was_live).then_some(true) }
    }

    /// Changes single registers. Empty `values` keep the vector; a key's empty value removes the key.
    pub fn patch<'a>(
        &mut self,
        stamp: &Stamp,
        values: &Bytes,
        keys: impl Iterator<Item = (&'a str, &'a [u8])>,
        version: u64,
    ) -> Merged {
        self.version = self.version.max(version);
        if self.floor() >= Some(stamp) {
            return Merged::default();
        }
        let raised = !values.is_empty() && self.raise_vector(stamp);
        let values = raised.then(|| values.clone());
        let metadata = self.patch_metadata(stamp, keys);
        if self.is_live() {
            Merged { values, metadata, life: None }
        } else {
            self.waiting = values.map(|values| Bytes::copy_from_slice(&values)).or_else(|| self.waiting.take());
            Merged::default()
        }
    }

    fn patch_metadata<'a>(&mut self, stamp: &Stamp, keys: impl Iterator<Item = (&'a str, &'a [u8])>) -> bool {
        let mut fresh = Object::new();
        for (key, value) in keys {
            if self.patches.get(key).is_some_and(|(known, _)| known >= stamp) {
                continue;
            }
            // A value that is no JSON cannot come from a checked request; it removes the key rather than the process.
            let value: Option<Value> = serde_json::from_slice(value).ok();
            self.patches.insert(key.into(), (stamp.clone(), value.is_none()));
            if let Some(value) = value {
                fresh.insert(key.to_owned(), value);
            } else {
                fresh.shift_remove(key);
            }
        }
        let mut values = parse(&self.metadata);
        values.extend(fresh);
        let before = std::mem::take(&mut self.metadata);
        self.metadata = arrange(values, &self.patches);
        self.metadata != before
    }

    /// `indexed` gives the record's values in the index, in case a patch that is later than the delete set them.
    pub fn delete(&mut self, stamp: &Stamp, indexed: impl FnOnce() -> Option<Bytes>) -> Merged {
        if self.deleted.as_ref() >= Some(stamp) {
            return Merged::default();
        }
        let was_live = self.is_live();
        self.deleted = Some(stamp.clone());
        self.patches.retain(|_, (patched, _)| *patched > *stamp);
        if self.base.as_ref() > Some(stamp) {
            return Merged::default();
        }
        self.base = None;
        // What is left are patches that are later than the delete, waiting for a put that is, too.
        self.metadata = overlay(&Bytes::new(), &self.metadata, &self.patches);
        if self.vector.as_ref() <= Some(stamp) {
            (self.vector, self.waiting) = (None, None);
        } else if was_live {
            self.waiting = indexed();
        }
        Merged { values: None, metadata: false, life: was_live.then_some(false) }
    }

    fn raise_vector(&mut self, stamp: &Stamp) -> bool {
        let newer = self.vector.as_ref() < Some(stamp);
        if newer {
            self.vector = Some(stamp.clone());
        }
        newer
    }
}

/// `base` with the patched keys as they stand in `patched`.
fn overlay(base: &Bytes, patched: &Bytes, patches: &BTreeMap<Box<str>, (Stamp, bool)>) -> Bytes {
    let mut values = parse(base);
    values.extend(parse(patched).into_iter().filter(|(key, _)| patches.contains_key(key.as_str())));
    arrange(values, patches)
}

/// The object's text. Untouched keys come first, as the put had them, then patched ones by name, so that replicas agree
/// on every byte whatever the order in which they learnt of the patches.
fn arrange(mut values: Object, patches: &BTreeMap<Box<str>, (Stamp, bool)>) -> Bytes {
    for (key, (_, removed)) in patches {
        let value = values.shift_remove(&**key);
        if let (Some(value), false) = (value, *removed) {
            values.insert(key.to_string(), value);
        }
    }
    if values.is_empty() {
        return Bytes::new();
    }
    serde_json::to_vec(&values).expect("JSON texts under string keys serialize").into()
}

fn parse(metadata: &[u8]) -> Object {
    serde_json::from_slice(metadata).unwrap_or_default()
}
