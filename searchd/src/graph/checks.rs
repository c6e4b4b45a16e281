//! Checksums of a graph's bytes, block by block, for one that is searched before all of it was looked at.
//!
//! A block is checked the first time that a walk comes to it; one that is not what was written ends the walk, and the graph
//! is not to be searched any more.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;

use super::memory::Words;

/// Bytes that share a checksum: what a walk reads of a place costs a quarter of a microsecond to check.
pub(super) const BLOCK: usize = 4096;

/// What every block of `bytes` hashes to.
pub(super) fn sums(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes.chunks(BLOCK).map(crc32fast::hash)
}

pub(super) struct Checks {
    bytes: Bytes,
    sums: Words,
    /// A bit for each block that is known to be sound.
    sound: Box<[AtomicU64]>,
    is_damaged: AtomicBool,
}

impl Checks {
    /// Of bytes of which nothing is believed yet. None if there are not as many sums as blocks.
    pub(super) fn new(bytes: Bytes, sums: Words) -> Option<Self> {
        let blocks = bytes.len().div_ceil(BLOCK);
        let sound = (0..blocks.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        (sums.get().len() == blocks).then_some(Self { bytes, sums, sound, is_damaged: AtomicBool::new(false) })
    }

    /// Whether these bytes are what was written.
    #[inline]
    pub(super) fn pass(&self, bytes: Range<usize>) -> bool {
        (bytes.start / BLOCK..bytes.end.div_ceil(BLOCK)).all(|block| {
            let (word, bit) = (&self.sound[block / 64], 1 << (block % 64));
            word.load(Ordering::Relaxed) & bit != 0 || self.check(block)
        })
    }

    #[cold]
    fn check(&self, block: usize) -> bool {
        let bytes = &self.bytes[block * BLOCK..self.bytes.len().min((block + 1) * BLOCK)];
        let is_sound = crc32fast::hash(bytes) == self.sums.get()[block];
        if is_sound {
            self.sound[block / 64].fetch_or(1 << (block % 64), Ordering::Relaxed);
        } else {
            self.is_damaged.store(true, Ordering::Relaxed);
        }
        is_sound
    }

    /// A block was found that is not what was written.
    pub(super) fn have_failed(&self) -> bool {
        self.is_damaged.load(Ordering::Relaxed)
    }

    pub(super) fn all(&self) -> Range<usize> {
        0..self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_believed_once_it_was_checked_and_damage_stays_known() {
        let mut bytes: Vec<u8> = (0..BLOCK * 2 + 9).map(|i| (i % 251) as u8).collect();
        let sums: Vec<u32> = sums(&bytes).collect();
        bytes[BLOCK + 5] ^= 1;
        let checks = Checks::new(bytes.into(), Words::copied(&sums)).unwrap();
        for _ in 0..2 {
            assert!(checks.pass(0..BLOCK) && checks.pass(BLOCK * 2..BLOCK * 2 + 9) && checks.pass(7..7));
        }
        assert!(!checks.have_failed());
        assert!(!checks.pass(BLOCK - 1..BLOCK + 1) && !checks.pass(checks.all()) && checks.have_failed());
        assert!(Checks::new(Bytes::new(), Words::copied(&sums)).is_none());
    }
}
