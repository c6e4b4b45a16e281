//! Sets of small numbers: which slots a filter admits, which rows are dead.

mod of_roaring;

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};

/// A set of slots.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bits {
    words: Vec<u64>,
}

impl Bits {
    pub fn with_capacity(bits: usize) -> Self {
        Self { words: vec![0; bits.div_ceil(64)] }
    }

    pub fn insert(&mut self, bit: u32) {
        let word = bit as usize / 64;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (bit % 64);
    }

    pub fn remove(&mut self, bit: u32) {
        if let Some(word) = self.words.get_mut(bit as usize / 64) {
            *word &= !(1 << (bit % 64));
        }
    }

    pub fn contains(&self, bit: u32) -> bool {
        self.words.get(bit as usize / 64).is_some_and(|word| word & (1 << (bit % 64)) != 0)
    }

    pub fn insert_range(&mut self, bits: RangeInclusive<u32>) {
        let (first, last) = (*bits.start() as usize, *bits.end() as usize);
        if last / 64 >= self.words.len() {
            self.words.resize(last / 64 + 1, 0);
        }
        let (from, to) = (u64::MAX << (first % 64), u64::MAX >> (63 - last % 64));
        if first / 64 == last / 64 {
            self.words[first / 64] |= from & to;
            return;
        }
        self.words[first / 64] |= from;
        self.words[first / 64 + 1..last / 64].fill(u64::MAX);
        self.words[last / 64] |= to;
    }

    pub fn bytes(&self) -> usize {
        self.words.len() * 8
    }
}

/// Of words, from the lowest 64 up.
impl FromIterator<u64> for Bits {
    fn from_iter<I: IntoIterator<Item = u64>>(words: I) -> Self {
        Self { words: words.into_iter().collect() }
    }
}

/// A set of rows that only grows, written by one thread while others read.
#[derive(Debug)]
pub struct Tombstones {
    words: Box<[AtomicU64]>,
    count: AtomicU64,
}

impl Tombstones {
    pub fn new(rows: usize) -> Self {
        Self { words: (0..rows.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(), count: AtomicU64::new(0) }
    }

    pub fn insert(&self, row: u32) {
        let bit = 1 << (row % 64);
        let before = self.words[row as usize / 64].fetch_or(bit, Ordering::AcqRel);
        self.count.fetch_add(u64::from(before & bit == 0), Ordering::AcqRel);
    }

    pub fn contains(&self, row: u32) -> bool {
        self.words[row as usize / 64].load(Ordering::Acquire) & (1 << (row % 64)) != 0
    }

    /// A bit for each of 64 rows, from the lowest up.
    pub fn word(&self, block: usize) -> u64 {
        self.words[block].load(Ordering::Acquire)
    }

    pub fn len(&self) -> usize {
        self.count.load(Ordering::Acquire) as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn bytes(&self) -> usize {
        self.words.len() * 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in() {
        let mut set = Bits::with_capacity(10);
        set.insert(200);
        set.insert(199);
        set.remove(199);
        set.remove(1_000_000);
        for range in [0..=0, 62..=65, 130..=130, 250..=400] {
            set.insert_range(range);
        }
        let held: Vec<u32> = (0..1_000).filter(|bit| set.contains(*bit)).collect();
        let expected = [0, 62, 63, 64, 65, 130, 200].into_iter().chain(250..=400);
        assert_eq!(held, expected.collect::<Vec<_>>());
    }

    #[test]
    fn a_row_dies_once() {
        let dead = Tombstones::new(100);
        dead.insert(99);
        dead.insert(99);
        assert_eq!((dead.len(), dead.contains(99), dead.contains(98)), (1, true, false));
    }
}
