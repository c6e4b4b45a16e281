//! Which slots a search may find: what a filter has come to.
//!
//! A compressed set tells how many there are and gives them in order, so that a search which may find few looks at few.
//! Where it holds much of the collection a plain set of bits stands beside it, for graphs ask about slots in any order.

use roaring::RoaringBitmap;

use super::bits::Bits;
use crate::engine::Slot;

/// From one slot in so many on there are plain bits, too: they then take no more than a few times the compressed set.
const DENSE: u64 = 64;

#[derive(Debug, Default, PartialEq)]
pub struct Admitted {
    slots: RoaringBitmap,
    len: usize,
    dense: Option<Bits>,
}

impl Admitted {
    pub fn new(slots: RoaringBitmap) -> Self {
        let dense = is_dense(&slots).then(|| Bits::from(&slots));
        Self { len: slots.len() as usize, slots, dense }
    }

    /// The same, where some slots are admitted now, and others are not.
    pub fn with(&self, changes: &[(Slot, bool)]) -> Self {
        let (mut slots, mut dense) = (self.slots.clone(), self.dense.clone());
        for (slot, is_admitted) in changes {
            if *is_admitted {
                slots.insert(*slot);
                dense.iter_mut().for_each(|bits| bits.insert(*slot));
            } else {
                slots.remove(*slot);
                dense.iter_mut().for_each(|bits| bits.remove(*slot));
            }
        }
        match dense {
            Some(bits) if is_dense(&slots) => Self { len: slots.len() as usize, slots, dense: Some(bits) },
            _ => Self::new(slots),
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    pub fn contains(&self, slot: Slot) -> bool {
        match &self.dense {
            Some(bits) => bits.contains(slot),
            None => self.slots.contains(slot),
        }
    }

    /// A bit for each of at most 64 slots, from the lowest up: whether it is admitted.
    #[inline]
    pub fn mask(&self, slots: impl ExactSizeIterator<Item = Slot> + DoubleEndedIterator) -> u64 {
        let slots = slots.rev();
        match &self.dense {
            Some(bits) => slots.fold(0, |mask, slot| mask << 1 | u64::from(bits.contains(slot))),
            None => slots.fold(0, |mask, slot| mask << 1 | u64::from(self.slots.contains(slot))),
        }
    }

    /// In ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        self.slots.iter()
    }

    /// Bytes in memory, about.
    pub fn bytes(&self) -> usize {
        self.slots.serialized_size() + self.dense.as_ref().map_or(0, Bits::bytes)
    }
}

fn is_dense(slots: &RoaringBitmap) -> bool {
    slots.len() * DENSE >= slots.max().map_or(0, |last| u64::from(last) + 1)
}

impl FromIterator<Slot> for Admitted {
    fn from_iter<I: IntoIterator<Item = Slot>>(slots: I) -> Self {
        Self::new(slots.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn dense_or_not_it_holds_what_was_put_in(
            slots in prop::collection::btree_set(prop_oneof![0u32..300, 0u32..200_000], 0..200),
            run in 0u32..1_000,
            changes in prop::collection::vec((prop_oneof![0u32..300, 0u32..200_000], any::<bool>()), 0..100),
        ) {
            let all: std::collections::BTreeSet<u32> = slots.iter().copied().chain(70_000..70_000 + run).collect();
            let admitted: Admitted = all.iter().copied().collect();
            let mut changed = all.clone();
            for (slot, is_admitted) in &changes {
                if *is_admitted { changed.insert(*slot); } else { changed.remove(slot); }
            }
            for (admitted, all) in [(admitted.with(&changes), changed), (admitted, all)] {
                prop_assert_eq!(admitted.len(), all.len());
                prop_assert_eq!(admitted.iter().collect::<Vec<_>>(), all.iter().copied().collect::<Vec<_>>());
                let changed = changes.iter().map(|(slot, _)| *slot);
                for slot in all.iter().flat_map(|slot| [slot.saturating_sub(1), *slot, slot + 1]).chain(changed) {
                    prop_assert_eq!(admitted.contains(slot), all.contains(&slot));
                }
            }
        }
    }
}
