//! Indexes over metadata: which slots have which value under which path, so that a filter is a few operations on sets
//! rather than a look at every record.
//!
//! An [`Index`] follows one collection, change by change, under the lock under which the changes are applied; so what it
//! says is exactly of the collection's generation. It is bounded: what would make it large (very many paths, very long
//! strings, records of very many values) it leaves out, and says of a filter which slots it is not sure of
//! ([`bounds::Bounds`]). Arrays match by any element, and each condition of a filter may be met by another one: that is
//! just what sets of slots by path and value tell.
//!
//! A small collection has no index: looking at its few records is as fast and costs no memory. After a start the indexes
//! are built in the background ([`catch_up`]); until then the records that are not read yet are in doubt.

pub mod bounds;
pub mod catch_up;
pub mod recent;

mod column;
mod evaluate;
mod number;
mod slots;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use roaring::RoaringBitmap;
use serde_json::{Map, Value};

use crate::engine::{Collection, Slot};
use crate::filter::MAX_DEPTH;
use column::Column;
use recent::{Moment, Recent};

/// Collections of up to this many slots have no index.
pub const SMALL: Slot = 64;
/// Most paths of one collection.
const MAX_PATHS: usize = 1_024;
/// Longest path.
const MAX_PATH_BYTES: usize = 256;
/// Most values of one record.
const MAX_VALUES: usize = 4_096;

/// The metadata of one collection, by path and value.
#[derive(Debug, Default)]
pub struct Index {
    columns: HashMap<Box<str>, Column>,
    /// All slots below it are in here, and nothing else.
    read: Read,
    live: RoaringBitmap,
    /// Slots of which something was left out.
    partly: RoaringBitmap,
    limits: Limits,
    bytes: usize,
    recent: Recent,
    /// It is queued to be read.
    pub is_awaited: bool,
}

/// What keeps an index from growing large.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Paths of the collection.
    paths: usize,
    /// Bytes of one path.
    path_bytes: usize,
    /// Values of one record.
    values: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { paths: MAX_PATHS, path_bytes: MAX_PATH_BYTES, values: MAX_VALUES }
    }
}

/// How far the collection has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    Below(Slot),
    All,
}

impl Default for Read {
    fn default() -> Self {
        Self::Below(0)
    }
}

impl Index {
    /// Whether every slot is in here.
    pub fn is_complete(&self) -> bool {
        self.read == Read::All
    }

    /// A slot's metadata was `before` and is `after`: JSON objects, absent while the record does not live.
    pub fn change(&mut self, slot: Slot, before: Option<&[u8]>, after: Option<&[u8]>) {
        self.recent.note(slot);
        if matches!(self.read, Read::Below(end) if slot >= end) {
            // It is read when its turn comes.
            return;
        }
        if let Some(before) = before {
            self.remove(slot, before);
        }
        if let Some(after) = after {
            self.insert(slot, after);
        }
    }

    /// Is another one after each change of the collection's metadata.
    pub fn now(&self) -> Moment {
        self.recent.now()
    }

    /// The slots whose metadata changed since then, ascending; none where that is not known any more.
    pub fn changed_since(&self, then: Moment) -> Option<Vec<Slot>> {
        self.recent.since(then)
    }

    /// Reads the next slots of the collection, at most about `count`; true when none is left. The collection must not
    /// change meanwhile.
    pub fn read(&mut self, collection: &Collection, count: Slot) -> bool {
        let Read::Below(start) = self.read else { return true };
        let end = start.saturating_add(count).min(collection.slots());
        for slot in start..end {
            if let Some((_, record)) = collection.slot(slot).filter(|(_, record)| record.is_live()) {
                self.insert(slot, record.metadata());
            }
        }
        let all = end == collection.slots();
        self.read = if all { Read::All } else { Read::Below(end) };
        all
    }

    /// Bytes in memory, about.
    pub fn bytes(&self) -> usize {
        self.bytes + self.live.serialized_size() + self.partly.serialized_size() + size_of::<Self>()
    }

    fn insert(&mut self, slot: Slot, metadata: &[u8]) {
        self.live.insert(slot);
        let mut whole = true;
        walk(metadata, self.limits, &mut |found| {
            let Found::At(path, value) = found else {
                whole = false;
                return;
            };
            let has_room = self.columns.len() < self.limits.paths;
            let column = match self.columns.get_mut(path) {
                Some(column) => column,
                None if has_room => self.columns.entry(path.into()).or_default(),
                None => {
                    whole = false;
                    return;
                }
            };
            self.bytes += match value {
                Some(value) => column.insert(slot, value),
                None => column.insert_path(slot),
            };
        });
        if !whole {
            self.partly.insert(slot);
        }
    }

    /// Takes out what [`Index::insert`] put in for the same text.
    fn remove(&mut self, slot: Slot, metadata: &[u8]) {
        self.live.remove(slot);
        self.partly.remove(slot);
        let mut emptied = false;
        walk(metadata, self.limits, &mut |found| {
            let Found::At(path, value) = found else { return };
            let Some(column) = self.columns.get_mut(path) else { return };
            let freed = match value {
                Some(value) => column.remove(slot, value),
                None => column.remove_path(slot),
            };
            emptied |= column.is_empty();
            self.bytes = self.bytes.saturating_sub(freed);
        });
        // In the end, for a path is met before its values.
        if emptied {
            self.columns.retain(|_, column| !column.is_empty());
        }
    }
}

/// What stands in a record.
enum Found<'a> {
    /// The path is there (`None`), or one of its values: an element where it is an array.
    At(&'a str, Option<&'a Value>),
    /// Something that a filter could reach, and that is left out.
    TooMuch,
}

/// Tells everything that a filter could reach in a JSON object, as [`crate::filter::Filter::matches`] reaches it.
fn walk(metadata: &[u8], limits: Limits, found: &mut dyn FnMut(Found<'_>)) {
    // Stored metadata was parsed when it came in.
    let Ok(object) = serde_json::from_slice::<Map<String, Value>>(metadata) else { return };
    let mut walker = Walker { path: String::new(), values: 0, limits, found };
    walker.object(&object, 0);
}

struct Walker<'a> {
    path: String,
    values: usize,
    limits: Limits,
    found: &'a mut dyn FnMut(Found<'_>),
}

impl Walker<'_> {
    fn object(&mut self, object: &Map<String, Value>, depth: usize) {
        // No filter reaches deeper.
        if depth == MAX_DEPTH {
            return;
        }
        for (key, value) in object {
            // A filter's path is split at dots, so it reaches no such key.
            if key.contains('.') {
                continue;
            }
            let length = self.path.len();
            if length + key.len() + 1 > self.limits.path_bytes {
                (self.found)(Found::TooMuch);
                continue;
            }
            if depth > 0 {
                self.path.push('.');
            }
            self.path.push_str(key);
            self.tell(None);
            match value {
                Value::Array(elements) => {
                    for element in elements {
                        self.value(element, depth);
                    }
                }
                value => self.value(value, depth),
            }
            self.path.truncate(length);
        }
    }

    fn value(&mut self, value: &Value, depth: usize) {
        match value {
            Value::Object(object) => self.object(object, depth + 1),
            // An array in an array: no condition holds for it, and no path leads through it.
            Value::Array(_) => {}
            value => self.tell(Some(value)),
        }
    }

    fn tell(&mut self, value: Option<&Value>) {
        self.values += 1;
        let found = if self.values > self.limits.values { Found::TooMuch } else { Found::At(&self.path, value) };
        (self.found)(found);
    }
}
