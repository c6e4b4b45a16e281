//! One collection: its settings and its records, each in a slot of its own for as long as the process knows its id.

use bytes::Bytes;
use nearfield_proto::log::v1 as log;

use super::record::{Merged, Record};
use super::records::Records;
use super::settings::Settings;
use super::stamp::Stamp;

/// A record's place in its collection: dense, and never given to another id.
pub type Slot = u32;

/// What applying an entry means for the index of one collection.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The slot has these values from now on: little-endian f32s.
    Vector { slot: Slot, values: Bytes },
    /// The slot is no longer found.
    Removed { slot: Slot },
    /// What a filter sees of the slot is `after` and was `before`: JSON objects, absent while the record does not live.
    Metadata { slot: Slot, before: Option<Bytes>, after: Option<Bytes> },
}

/// Where the values of live records are, for the one merge that needs them back.
pub trait Vectors {
    /// Little-endian f32s.
    fn values(&self, incarnation: u64, slot: Slot) -> Option<Bytes>;
}

#[derive(Debug)]
pub struct Collection {
    pub settings: Settings,
    /// The latest creation that was applied.
    pub created: Stamp,
    /// Tells this collection from earlier ones of the same name; names its directory.
    pub incarnation: u64,
    /// Grows with every change that this instance applied.
    pub generation: u64,
    records: Records,
    live: u64,
}

impl Collection {
    pub fn new(settings: Settings, created: Stamp, incarnation: u64, generation: u64) -> Self {
        Self { settings, created, incarnation, generation, records: Records::default(), live: 0 }
    }

    /// Live points.
    pub fn count(&self) -> u64 {
        self.live
    }

    /// All slots, dead ones too.
    pub fn slots(&self) -> Slot {
        self.records.len() as Slot
    }

    /// A live record.
    pub fn get(&self, id: &str) -> Option<(Slot, &Record)> {
        let slot = self.records.find(id)?;
        let record = &self.records.get(slot)?.record;
        record.is_live().then_some((slot, record))
    }

    /// A record whether it lives or not: its version goes on after a delete.
    pub fn remembered(&self, id: &str) -> Option<&Record> {
        Some(&self.records.get(self.records.find(id)?)?.record)
    }

    /// A slot's id and record, living or not.
    pub fn slot(&self, slot: Slot) -> Option<(&str, &Record)> {
        self.records.get(slot).map(|entry| (&*entry.id, &entry.record))
    }

    /// Puts back the records that a checkpoint had, and how many of them live.
    pub fn restore(&mut self, records: Records, live: u64) {
        (self.records, self.live) = (records, live);
    }

    pub(super) fn put(
        &mut self,
        floor: Option<&Stamp>,
        stamp: &Stamp,
        point: &log::PutPoint,
        changes: &mut Vec<Change>,
    ) {
        if floor >= Some(stamp) || point.values.len() != self.settings.dimension as usize * 4 {
            return;
        }
        let (slot, record) = self.record(&point.id);
        let before = visible(record);
        let merged = record.put(stamp, &point.values, &point.metadata, point.version);
        self.settle(slot, merged, before, changes);
    }

    pub(super) fn patch(
        &mut self,
        floor: Option<&Stamp>,
        stamp: &Stamp,
        patch: &log::Patch,
        changes: &mut Vec<Change>,
    ) {
        let fits = patch.values.is_empty() || patch.values.len() == self.settings.dimension as usize * 4;
        // A patch of nothing is none: it would leave a version behind, and no stamp to tell when it counts.
        let is_empty = patch.values.is_empty() && patch.metadata.is_empty();
        if floor >= Some(stamp) || !fits || is_empty {
            return;
        }
        let (slot, record) = self.record(&patch.id);
        let keys = patch.metadata.iter().map(|(key, value)| (key.as_str(), value.as_ref()));
        let before = visible(record);
        let merged = record.patch(stamp, &patch.values, keys, patch.version);
        self.settle(slot, merged, before, changes);
    }

    pub(super) fn delete(&mut self, stamp: &Stamp, id: &str, vectors: &dyn Vectors, changes: &mut Vec<Change>) {
        let incarnation = self.incarnation;
        let (slot, record) = self.record(id);
        let before = visible(record);
        let merged = record.delete(stamp, || latest(changes, slot).or_else(|| vectors.values(incarnation, slot)));
        self.settle(slot, merged, before, changes);
    }

    /// Deletes everything up to `stamp`.
    pub(super) fn clear(&mut self, stamp: &Stamp, vectors: &dyn Vectors, changes: &mut Vec<Change>) {
        for slot in 0..self.slots() {
            let Some(entry) = self.records.get_mut(slot) else { continue };
            let record = &mut entry.record;
            let before = visible(record);
            let merged =
                record.delete(stamp, || latest(changes, slot).or_else(|| vectors.values(self.incarnation, slot)));
            if !record.is_live() && record.is_bare() {
                // Had the deletion come first, the point would never have been heard of.
                record.version = 0;
            }
            self.settle(slot, merged, before, changes);
        }
    }

    /// Whether nothing is left that is later than `stamp`: no put, no patch, and no delete that a put may yet come before.
    pub(super) fn is_void(&self, stamp: &Stamp) -> bool {
        let void = |record: &Record| record.base().is_none() && record.is_bare() && record.deleted() <= Some(stamp);
        self.records.iter().all(|entry| void(&entry.record))
    }

    fn record(&mut self, id: &str) -> (Slot, &mut Record) {
        let slot = self.records.find_or_insert(id);
        (slot, &mut self.records.get_mut(slot).expect("it was just found").record)
    }

    fn settle(&mut self, slot: Slot, merged: Merged, before: Option<Bytes>, changes: &mut Vec<Change>) {
        self.generation += u64::from(merged.changed());
        if merged.metadata || merged.life.is_some() {
            let after = self.records.get(slot).and_then(|entry| visible(&entry.record));
            if before != after {
                changes.push(Change::Metadata { slot, before, after });
            }
        }
        match merged.life {
            Some(true) => self.live += 1,
            Some(false) => {
                self.live -= 1;
                changes.push(Change::Removed { slot });
            }
            None => {}
        }
        if let Some(values) = merged.values {
            changes.push(Change::Vector { slot, values });
        }
    }
}

/// A live record's metadata. A copy: a second handle to the record's own would cost it a counter for ever.
fn visible(record: &Record) -> Option<Bytes> {
    record.is_live().then(|| Bytes::copy_from_slice(record.metadata()))
}

/// The values that the index is about to get for a slot.
fn latest(changes: &[Change], slot: Slot) -> Option<Bytes> {
    changes.iter().rev().find_map(|change| match change {
        Change::Vector { slot: changed, values } if *changed == slot => Some(values.clone()),
        Change::Vector { .. } | Change::Removed { .. } | Change::Metadata { .. } => None,
    })
}
