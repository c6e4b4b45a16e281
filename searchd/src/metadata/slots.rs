//! The slots under one value: most values stand in one record or a few, some in many.
//!
//! Thousands of values with one slot each are the common case (names, ids, times), so one slot costs nothing beside the
//! map's own entry, a few cost four bytes each, and many are a compressed set.

use roaring::RoaringBitmap;

use crate::engine::Slot;

/// Up to this many are a plain list. A compressed set of slots that lie far apart takes more.
const FEW: usize = 64;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Slots {
    One(Slot),
    /// Ascending.
    Few(Box<[Slot]>),
    Many(Box<RoaringBitmap>),
}

impl Slots {
    pub(super) fn insert(&mut self, slot: Slot) {
        match self {
            Self::One(only) if *only == slot => {}
            Self::One(only) => *self = Self::Few(Box::new([(*only).min(slot), (*only).max(slot)])),
            Self::Few(few) => {
                let Err(at) = few.binary_search(&slot) else { return };
                if few.len() == FEW {
                    let mut many = RoaringBitmap::from_sorted_iter(few.iter().copied()).unwrap_or_default();
                    many.insert(slot);
                    *self = Self::Many(Box::new(many));
                    return;
                }
                let mut more = Vec::with_capacity(few.len() + 1);
                more.extend_from_slice(&few[..at]);
                more.push(slot);
                more.extend_from_slice(&few[at..]);
                *few = more.into();
            }
            Self::Many(many) => {
                many.insert(slot);
            }
        }
    }

    /// False when nothing is left: the value is to be forgotten.
    pub(super) fn remove(&mut self, slot: Slot) -> bool {
        match self {
            Self::One(only) => return *only != slot,
            Self::Few(few) => {
                if few.binary_search(&slot).is_err() {
                    return true;
                }
                let rest: Vec<Slot> = few.iter().copied().filter(|kept| *kept != slot).collect();
                *self = if let [only] = rest[..] { Self::One(only) } else { Self::Few(rest.into()) };
            }
            Self::Many(many) => {
                many.remove(slot);
                // Half of what makes a list a set, so that one slot that comes and goes does not turn it over each time.
                if many.len() <= FEW as u64 / 2 {
                    *self = Self::Few(many.iter().collect());
                }
            }
        }
        true
    }

    pub(super) fn add_to(&self, set: &mut Union) {
        match self {
            Self::One(only) => set.singles.push(*only),
            Self::Few(few) => set.singles.extend_from_slice(few),
            Self::Many(many) => set.many |= &**many,
        }
    }

    pub(super) fn to_bitmap(&self) -> RoaringBitmap {
        match self {
            Self::One(only) => RoaringBitmap::from_iter([*only]),
            Self::Few(few) => few.iter().copied().collect(),
            Self::Many(many) => RoaringBitmap::clone(many),
        }
    }
}

/// Adds one slot to a set of its own.
pub(super) fn insert(place: &mut Option<Slots>, slot: Slot) {
    match place {
        Some(slots) => slots.insert(slot),
        None => *place = Some(Slots::One(slot)),
    }
}

pub(super) fn remove(place: &mut Option<Slots>, slot: Slot) {
    if place.as_mut().is_some_and(|slots| !slots.remove(slot)) {
        *place = None;
    }
}

/// The slots of many values: single ones are gathered and sorted once, for a set takes each of them at a cost.
#[derive(Default)]
pub(super) struct Union {
    singles: Vec<Slot>,
    many: RoaringBitmap,
}

impl Union {
    pub(super) fn finish(mut self) -> RoaringBitmap {
        let end = self.singles.iter().max().map_or(0, |last| *last as usize + 1);
        let singles = if self.singles.len() > SORTED && self.singles.len() * SPARSE > end {
            let mut bytes = vec![0u8; end.div_ceil(8)];
            for slot in self.singles {
                bytes[slot as usize / 8] |= 1 << (slot % 8);
            }
            RoaringBitmap::from_lsb0_bytes(0, &bytes)
        } else {
            self.singles.sort_unstable();
            self.singles.dedup();
            RoaringBitmap::from_sorted_iter(self.singles).unwrap_or_default()
        };
        if self.many.is_empty() { singles } else { self.many | singles }
    }
}

/// Up to this many are sorted, however close they lie.
const SORTED: usize = 1_024;
/// Fewer than one slot in so many are sorted, however many they are.
const SPARSE: usize = 256;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn slots_are_a_set_whatever_their_number(
            changes in prop::collection::vec((prop_oneof![0u32..20, 0u32..100_000], prop::bool::weighted(0.7)), 0..400),
        ) {
            let (mut place, mut expected) = (None, BTreeSet::new());
            for (slot, adds) in changes {
                if adds {
                    insert(&mut place, slot);
                    expected.insert(slot);
                } else {
                    remove(&mut place, slot);
                    expected.remove(&slot);
                }
                let held = place.as_ref().map(Slots::to_bitmap).unwrap_or_default();
                prop_assert!(held.iter().eq(expected.iter().copied()));
                let mut union = Union::default();
                place.iter().for_each(|slots: &Slots| slots.add_to(&mut union));
                prop_assert_eq!(union.finish(), held);
            }
        }

        #[test]
        fn a_union_holds_each_slot_once(slots in prop::collection::vec(0u32..30_000, 0..3_000)) {
            let union = Union { singles: slots.clone(), many: [1, 2, 70_000].into_iter().collect() };
            let expected: BTreeSet<u32> = slots.into_iter().chain([1, 2, 70_000]).collect();
            prop_assert!(union.finish().iter().eq(expected));
        }
    }
}
