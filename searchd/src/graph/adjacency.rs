//! Who is whose neighbour.

use bytes::Bytes;

use super::kernel::prefetch;
use super::memory::{LINE, Lines as Buffer, Words};

/// Longest list of neighbours.
pub const MAX_DEGREE: usize = 128;

/// Bytes after the last list, so that a word can be read where an id of few bits begins.
const SPARE: usize = 8;

/// Room to unpack a list into.
pub type Room = [u32; MAX_DEGREE];

pub trait Neighbours: Sync {
    /// The neighbours of a row.
    fn neighbours<'a>(&'a self, row: u32, room: &'a mut Room) -> &'a [u32];
    /// Asks for the list to be brought near.
    fn prefetch(&self, row: u32);
}

/// Lists one after the other, each id in as many bits as the number of rows needs.
#[derive(Clone)]
pub struct Lists {
    /// Where each list begins, counted in ids; one more for the end of the last.
    starts: Words,
    bits: usize,
    ids: Bytes,
}

impl Lists {
    pub fn new<'a>(rows: usize, list: impl Fn(usize) -> Vec<u32> + 'a) -> Self {
        let bits = bits(rows);
        let mut starts = Vec::with_capacity(rows + 1);
        let mut ids: Vec<u8> = vec![];
        let (mut word, mut filled, mut count) = (0u64, 0, 0u32);
        for row in 0..rows {
            starts.push(count);
            for id in list(row) {
                word |= u64::from(id) << filled;
                filled += bits;
                count += 1;
                while filled >= 8 {
                    ids.push(word as u8);
                    word >>= 8;
                    filled -= 8;
                }
            }
        }
        starts.push(count);
        ids.push(word as u8);
        ids.extend([0; SPARE]);
        Self { starts: Words::copied(&starts), bits, ids: Buffer::from_bytes(&ids).into_shared() }
    }

    /// `None` if they are not the lists of `rows` rows. That the ids are of rows is for a checksum to say; one that is not
    /// ends a search by a panic.
    pub fn open(rows: usize, starts: Words, ids: Bytes) -> Option<Self> {
        let words = starts.get();
        let is_ordered = words.first() == Some(&0) && words.windows(2).all(|pair| pair[0] <= pair[1]);
        let fits = words.windows(2).all(|pair| (pair[1].saturating_sub(pair[0])) as usize <= MAX_DEGREE);
        let bits = bits(rows);
        let bytes = *words.last()? as usize * bits / 8 + 1 + SPARE;
        if words.len() != rows + 1 || !is_ordered || !fits || ids.len() != bytes {
            return None;
        }
        Some(Self { starts, bits, ids })
    }

    pub fn starts(&self) -> &[u32] {
        self.starts.get()
    }

    pub fn ids(&self) -> &[u8] {
        &self.ids
    }

    /// Where in the ids' bytes a row's list is, with what is read along with it.
    pub(super) fn bytes_of(&self, row: u32) -> std::ops::Range<usize> {
        let (start, end) = self.range(row);
        start * self.bits / 8..end * self.bits / 8 + SPARE
    }

    fn range(&self, row: u32) -> (usize, usize) {
        let starts = self.starts.get();
        (starts[row as usize] as usize, starts[row as usize + 1] as usize)
    }
}

/// Bits of an id.
fn bits(rows: usize) -> usize {
    (usize::BITS - rows.saturating_sub(1).leading_zeros()).max(1) as usize
}

impl Neighbours for Lists {
    #[inline(always)]
    fn neighbours<'a>(&'a self, row: u32, room: &'a mut Room) -> &'a [u32] {
        let (start, end) = self.range(row);
        let room = &mut room[..end - start];
        let first = start * self.bits;
        let bytes = &self.ids[first / 8..(end * self.bits) / 8 + SPARE];
        let mask = ((1u64 << self.bits) - 1) as u32;
        let mut bit = first % 8;
        for id in room.iter_mut() {
            let word = bytes[bit / 8..].first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
            *id = (word >> (bit % 8)) as u32 & mask;
            bit += self.bits;
        }
        room
    }

    #[inline(always)]
    fn prefetch(&self, row: u32) {
        let (start, end) = self.range(row);
        let (start, end) = (start * self.bits / 8, end * self.bits / 8);
        for offset in (start..end + 1).step_by(LINE) {
            prefetch(&self.ids, offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_come_back_as_they_were_put_in() {
        for rows in [1, 2, 3, 256, 257, 70_000] {
            let list = |row: usize| (0..row % 5).map(|i| ((row * 31 + i * 7_919) % rows) as u32).collect::<Vec<_>>();
            let lists = Lists::new(rows, list);
            let lists = Lists::open(rows, Words::copied(lists.starts()), Bytes::copy_from_slice(lists.ids()));
            let lists = lists.expect("they fit");
            let mut room = [0; MAX_DEGREE];
            for row in 0..rows {
                assert_eq!(lists.neighbours(row as u32, &mut room), list(row));
            }
        }
    }
}
