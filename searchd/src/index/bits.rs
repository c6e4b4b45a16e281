//! Sets of small numbers: which slots a filter admits, which rows are dead.

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

    pub fn contains(&self, bit: u32) -> bool {
        self.words.get(bit as usize / 64).is_some_and(|word| word & (1 << (bit % 64)) != 0)
    }

    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().enumerate().flat_map(|(i, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                (rest != 0).then(|| {
                    let bit = rest.trailing_zeros();
                    rest &= rest - 1;
                    i as u32 * 64 + bit
                })
            })
        })
    }

    pub fn bytes(&self) -> usize {
        self.words.len() * 8
    }
}

impl FromIterator<u32> for Bits {
    fn from_iter<I: IntoIterator<Item = u32>>(bits: I) -> Self {
        let mut set = Self::default();
        bits.into_iter().for_each(|bit| set.insert(bit));
        set
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

    pub fn len(&self) -> usize {
        self.count.load(Ordering::Acquire) as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_gives_back_what_was_put_in() {
        let set: Bits = [0, 63, 64, 200].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 63, 64, 200]);
        assert_eq!(set.len(), 4);
        assert!(set.contains(64) && !set.contains(65) && !set.contains(100_000));
    }

    #[test]
    fn a_row_dies_once() {
        let dead = Tombstones::new(100);
        dead.insert(99);
        dead.insert(99);
        assert_eq!((dead.len(), dead.contains(99), dead.contains(98)), (1, true, false));
    }
}
