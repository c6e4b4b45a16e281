//! How often each of very many keys was asked for of late, about: a count-min sketch (Cormode and Muthukrishnan 2005) whose
//! counters are halved each time that they have counted for long enough, so that what was hot once does not stay so.

use crate::Key;

const ROWS: usize = 4;
/// A key has a counter of a row to itself where entries are of this size.
const ENTRY_BYTES: u64 = 1024;
const WIDTHS: std::ops::RangeInclusive<u64> = 256..=16_384;
/// How many are counted for each counter of a row, until all are halved.
const PERIOD: usize = 10;

pub(super) struct Sketch {
    /// Row by row.
    counters: Box<[u8]>,
    width: usize,
    counted: usize,
}

impl Sketch {
    /// For keys of entries of `bytes` in all.
    pub(super) fn new(bytes: u64) -> Self {
        let width = (bytes / ENTRY_BYTES).clamp(*WIDTHS.start(), *WIDTHS.end()).next_power_of_two() as usize;
        Self { counters: vec![0; width * ROWS].into(), width, counted: 0 }
    }

    /// A key is a hash already: each row takes other bytes of it.
    fn places(&self, key: &Key) -> [usize; ROWS] {
        let bytes = key.as_bytes();
        std::array::from_fn(|row| {
            let at = 4 * row;
            let hash = u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
            row * self.width + (hash as usize & (self.width - 1))
        })
    }

    pub(super) fn frequency(&self, key: &Key) -> u8 {
        self.places(key).map(|place| self.counters[place]).into_iter().min().unwrap_or_default()
    }

    /// Only the least of a key's counters grow: the others count other keys too.
    pub(super) fn add(&mut self, key: &Key) {
        let places = self.places(key);
        let least = self.frequency(key);
        for place in places {
            if self.counters[place] == least {
                self.counters[place] = least.saturating_add(1);
            }
        }
        self.counted += 1;
        if self.counted >= self.width * PERIOD {
            self.counters.iter_mut().for_each(|counter| *counter /= 2);
            self.counted /= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Audience;

    fn key(i: usize) -> Key {
        Key::embed(Audience { tenant: None, scope: "vectors:read" }, "c", &i.to_string())
    }

    #[test]
    fn what_is_asked_for_often_counts_more_and_fades() {
        let mut sketch = Sketch::new(1 << 20);
        (0..20).for_each(|_| sketch.add(&key(0)));
        sketch.add(&key(1));
        assert_eq!((sketch.frequency(&key(0)), sketch.frequency(&key(1)), sketch.frequency(&key(2))), (20, 1, 0));
        (0..sketch.width * PERIOD).for_each(|i| sketch.add(&key(2 + i % 7)));
        assert!((10..20).contains(&sketch.frequency(&key(0))), "{}", sketch.frequency(&key(0)));
    }

    #[test]
    fn counters_do_not_wrap() {
        let mut sketch = Sketch::new(1 << 20);
        (0..1000).for_each(|_| sketch.add(&key(0)));
        assert_eq!(sketch.frequency(&key(0)), u8::MAX);
    }
}
