//! From a compressed set to plain bits, by the form in which the former is written: what is dense there are the words themselves.
//! To go from bit to bit takes a hundred times as long, 0.2 ms for half of 64,000.
//!
//! The form is [RoaringFormatSpec](https://github.com/RoaringBitmap/RoaringFormatSpec): containers of 2¹⁶ slots each, all numbers little endian.

use roaring::RoaringBitmap;

use super::Bits;

/// Cookies without and with containers that are runs.
const PLAIN: u32 = 12_346;
const WITH_RUNS: u16 = 12_347;
/// With runs and fewer containers than these, where each begins is not written.
const WITHOUT_OFFSETS: usize = 4;
/// More slots than these stand as words.
const LISTED: usize = 4_096;
/// Words of a container.
const WORDS: usize = 1_024;

impl From<&RoaringBitmap> for Bits {
    fn from(slots: &RoaringBitmap) -> Self {
        let Some(last) = slots.max() else { return Self::default() };
        let mut written = Vec::with_capacity(slots.serialized_size());
        // Nothing fails that is written to memory.
        let is_written = slots.serialize_into(&mut written).is_ok();
        let mut bits = Self::with_capacity(last as usize + 1);
        if !is_written || bits.read(&written).is_none() {
            slots.iter().for_each(|slot| bits.insert(slot));
        }
        bits
    }
}

impl Bits {
    /// Adds what is written in `bytes`; none where that is in another form.
    fn read(&mut self, mut bytes: &[u8]) -> Option<()> {
        let (cookie, rest) = bytes.split_first_chunk().map(|(cookie, rest)| (u32::from_le_bytes(*cookie), rest))?;
        bytes = rest;
        let (count, runs) = if cookie == PLAIN {
            let (count, rest) = bytes.split_first_chunk()?;
            bytes = rest;
            (u32::from_le_bytes(*count) as usize, &[][..])
        } else if cookie as u16 == WITH_RUNS {
            let count = (cookie >> 16) as usize + 1;
            let (runs, rest) = bytes.split_at_checked(count.div_ceil(8))?;
            bytes = rest;
            (count, runs)
        } else {
            return None;
        };
        let (containers, mut bytes) = bytes.split_at_checked(count * 4)?;
        if runs.is_empty() || count >= WITHOUT_OFFSETS {
            bytes = bytes.split_at_checked(count * 4)?.1;
        }
        for (at, container) in containers.as_chunks::<4>().0.iter().enumerate() {
            let [key, least] = [[container[0], container[1]], [container[2], container[3]]].map(u16::from_le_bytes);
            let (first, slots) = (u32::from(key) << 16, usize::from(least) + 1);
            let is_runs = runs.get(at / 8).is_some_and(|runs| runs >> (at % 8) & 1 == 1);
            if is_runs {
                let (runs, rest) = bytes.split_first_chunk()?;
                let (runs, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*runs)) * 4)?;
                bytes = rest;
                for run in runs.as_chunks::<4>().0 {
                    let [start, more] =
                        [[run[0], run[1]], [run[2], run[3]]].map(|half| u32::from(u16::from_le_bytes(half)));
                    self.insert_range(first + start..=first + start + more);
                }
            } else if slots > LISTED {
                let (words, rest) = bytes.split_at_checked(WORDS * 8)?;
                bytes = rest;
                let into = self.words.iter_mut().skip(first as usize / 64);
                into.zip(words.as_chunks::<8>().0).for_each(|(word, bytes)| *word |= u64::from_le_bytes(*bytes));
            } else {
                let (listed, rest) = bytes.split_at_checked(slots * 2)?;
                bytes = rest;
                listed
                    .as_chunks::<2>()
                    .0
                    .iter()
                    .for_each(|low| self.insert(first + u32::from(u16::from_le_bytes(*low))));
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_compressed_set_of_any_form_is_read(
            sparse in prop::collection::vec(0u32..400_000, 0..50),
            runs in prop::collection::vec((0u32..300_000, 1u32..90_000), 0..4),
            every in prop::collection::vec((0u32..5, 2usize..9), 0..4),
            has_runs in any::<bool>(),
        ) {
            let mut slots: RoaringBitmap = sparse.into_iter().collect();
            for (start, length) in runs {
                slots.insert_range(start..start + length);
            }
            for (container, step) in every {
                slots.extend(((container << 16)..((container + 1) << 16)).step_by(step));
            }
            if has_runs {
                slots.optimize();
            }
            let mut written = Vec::new();
            slots.serialize_into(&mut written).unwrap();
            let mut bits = Bits::with_capacity(slots.max().map_or(0, |last| last as usize + 1));
            prop_assert!(bits.read(&written).is_some());
            let expected = slots.iter().fold(Bits::default(), |mut bits, slot| {
                bits.insert(slot);
                bits
            });
            prop_assert_eq!(&bits, &expected);
            prop_assert_eq!(&Bits::from(&slots), &expected);
            // Cut off, it is not believed.
            prop_assert!(slots.is_empty() || Bits::default().read(&written[..written.len() - 1]).is_none());
        }
    }
}
