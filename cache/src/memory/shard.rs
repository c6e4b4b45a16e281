//! A part of the memory with a lock of its own: its entries, so that one can be drawn by lot, and how often each key was
//! asked for of late, whether there is an entry or not.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::sketch::Sketch;
use crate::{Entry, Key};

/// What it takes to make an answer at least: the way to the origin and back.
const LEAST_COST: Duration = Duration::from_micros(100);

pub(super) struct Slot {
    pub(super) key: Key,
    pub(super) entry: Arc<Entry>,
    pub(super) weight: u64,
}

pub(super) struct Shard {
    slots: Vec<Slot>,
    places: HashMap<Key, usize>,
    sketch: Sketch,
}

impl Shard {
    /// For about `bytes` of entries.
    pub(super) fn new(bytes: u64) -> Self {
        Self { slots: Vec::new(), places: HashMap::new(), sketch: Sketch::new(bytes) }
    }

    pub(super) fn asked_for(&mut self, key: &Key) {
        self.sketch.add(key);
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<Entry>> {
        self.places.get(key).map(|place| Arc::clone(&self.slots[*place].entry))
    }

    pub(super) fn weight(&self, key: &Key) -> Option<u64> {
        self.places.get(key).map(|place| self.slots[*place].weight)
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn slot(&self, number: usize) -> Option<&Slot> {
        self.slots.get(number)
    }

    /// The weight of the one that was there.
    pub(super) fn put(&mut self, slot: Slot) -> Option<u64> {
        if let Some(place) = self.places.get(&slot.key) {
            return Some(std::mem::replace(&mut self.slots[*place], slot).weight);
        }
        self.places.insert(slot.key, self.slots.len());
        self.slots.push(slot);
        None
    }

    /// The weight of the one that was there.
    pub(super) fn remove(&mut self, key: &Key) -> Option<u64> {
        let place = self.places.remove(key)?;
        let removed = self.slots.swap_remove(place);
        if let Some(moved) = self.slots.get(place) {
            self.places.insert(moved.key, place);
        }
        Some(removed.weight)
    }

    /// Microseconds of origin that `entry` is expected to save, by how often its key was asked for of late.
    pub(super) fn saves(&self, key: &Key, entry: &Entry) -> u64 {
        let cost = u64::try_from(entry.cost.max(LEAST_COST).as_micros()).unwrap_or(u64::MAX);
        cost.saturating_mul(u64::from(self.sketch.frequency(key).max(1)))
    }
}
