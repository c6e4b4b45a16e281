//! The k best hits seen so far, in the one order that every answer has: by score, then by id.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::Row;
use crate::engine::Slot;

/// A candidate with its final score turned so that higher is better for every metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    pub rank: f32,
    pub slot: Slot,
    pub row: Row,
}

/// Compares the ids of two slots.
pub type ById<'a> = &'a dyn Fn(Slot, Slot) -> Ordering;

pub struct Nearest<'a> {
    k: usize,
    heap: BinaryHeap<Worst<'a>>,
    by_id: ById<'a>,
}

/// Orders the heap so that the worst hit is on top. Ids are compared only between equal scores, for that takes a look
/// into the record table.
struct Worst<'a>(Hit, ById<'a>);

impl<'a> Nearest<'a> {
    pub fn new(k: usize, by_id: ById<'a>) -> Self {
        Self { k, heap: BinaryHeap::with_capacity((k + 1).min(1_024)), by_id }
    }

    pub fn push(&mut self, hit: Hit) {
        if self.heap.len() < self.k {
            self.heap.push(Worst(hit, self.by_id));
            return;
        }
        let Some(mut worst) = self.heap.peek_mut() else { return };
        let hit = Worst(hit, self.by_id);
        if hit < *worst {
            *worst = hit;
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.heap.clear();
    }

    /// Below this rank nothing gets in.
    pub fn threshold(&self) -> f32 {
        if self.heap.len() < self.k {
            f32::NEG_INFINITY
        } else {
            self.heap.peek().map_or(f32::NEG_INFINITY, |w| w.0.rank)
        }
    }

    /// Forgets some.
    pub fn forget(&mut self, is_forgotten: impl Fn(&Hit) -> bool) {
        self.heap.retain(|worst| !is_forgotten(&worst.0));
    }

    /// Those that are in.
    pub fn hits(&self) -> impl Iterator<Item = &Hit> {
        self.heap.iter().map(|worst| &worst.0)
    }

    pub fn len(&self) -> usize {
        self.heap.len()
    }

    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Best first.
    pub fn into_sorted(self) -> Vec<Hit> {
        self.heap.into_sorted_vec().into_iter().map(|worst| worst.0).collect()
    }
}

impl Ord for Worst<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_rank = other.0.rank.total_cmp(&self.0.rank);
        by_rank.then_with(|| {
            if self.0.slot == other.0.slot { Ordering::Equal } else { (self.1)(self.0.slot, other.0.slot) }
        })
    }
}

impl PartialOrd for Worst<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Worst<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Worst<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_stay_and_ties_go_to_the_lower_id() {
        let by_id = |a: Slot, b: Slot| b.cmp(&a);
        let mut nearest = Nearest::new(3, &by_id);
        for (slot, rank) in [(1, 0.5), (2, 0.9), (3, 0.5), (4, 0.5), (5, 0.1)] {
            nearest.push(Hit { rank, slot, row: Row { part: 0, row: slot } });
        }
        let slots: Vec<_> = nearest.into_sorted().iter().map(|hit| hit.slot).collect();
        assert_eq!(slots, [2, 4, 3]);
    }
}
