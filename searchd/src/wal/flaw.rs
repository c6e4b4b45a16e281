//! Telling a flipped bit from a torn write at the end of the log.
//!
//! Nothing after the last batch proves that it was durable, so a broken record there is taken for one that a crash tore
//! and is cut. But a crash leaves out sectors; it does not flip one bit of a record that is otherwise whole. CRC32 is
//! linear, so the difference between the stored and the computed sum tells which single bit, if any, explains it.

use super::record::{self, HEADER, MAX_PAYLOAD};

/// The reversed polynomial of CRC32 (ISO 3309), which `crc32fast` computes.
const POLYNOMIAL: u32 = 0xEDB8_8320;

/// Whether one flipped bit keeps the start of `bytes` from being record `number`.
pub(super) fn is_one_bit(bytes: &[u8], number: u64) -> bool {
    let Some(header) = bytes.get(..HEADER) else { return false };
    let length = u32::from_le_bytes(header[..4].try_into().expect("four bytes")) as usize;
    // The sum does not cover the length: each of its bits is tried.
    let is_record = |length: usize| {
        let whole = length <= MAX_PAYLOAD && HEADER + length <= bytes.len();
        whole && with_length(bytes, length).is_some_and(|bytes| is_numbered(&bytes, number))
    };
    if (0..u32::BITS).any(|bit| is_record(length ^ (1 << bit))) {
        return true;
    }
    let Some(record) = (length <= MAX_PAYLOAD).then(|| bytes.get(..HEADER + length)).flatten() else { return false };
    let stored = u32::from_le_bytes(record[4..8].try_into().expect("four bytes"));
    let difference = crc32fast::hash(&record[8..]) ^ stored;
    let mut repaired = record.to_vec();
    if difference.count_ones() == 1 {
        repaired[4..8].copy_from_slice(&(stored ^ difference).to_le_bytes());
    } else {
        let Some(from_end) = flipped(difference, (record.len() - 8) * 8) else { return false };
        let bit = (record.len() - 8) * 8 - 1 - from_end;
        repaired[8 + bit / 8] ^= 1 << (bit % 8);
    }
    is_numbered(&repaired, number)
}

/// How far from the end the bit is whose flipping changes the sum of `bits` bits by `difference`.
fn flipped(difference: u32, bits: usize) -> Option<usize> {
    let mut change = POLYNOMIAL;
    (0..bits).find(|_| {
        let found = change == difference;
        change = (change >> 1) ^ if change & 1 == 1 { POLYNOMIAL } else { 0 };
        found
    })
}

fn with_length(bytes: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut record = bytes.get(..HEADER + length)?.to_vec();
    record[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Some(record)
}

fn is_numbered(bytes: &[u8], number: u64) -> bool {
    record::decode(bytes).is_some_and(|record| record.number == number && record.durable < number)
}

#[cfg(test)]
mod tests {
    use nearfield_proto::log::v1::Entry;

    use super::*;

    fn sample() -> Vec<u8> {
        let mut bytes = Vec::new();
        let entry = Entry { origin: 9, sequence: 5, collection: "a collection".into(), ..Default::default() };
        record::encode(5, 4, &entry, &mut bytes);
        bytes
    }

    #[test]
    fn every_single_flipped_bit_is_seen() {
        let whole = sample();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            // What follows does not matter.
            bytes.extend_from_slice(&[3; 40]);
            assert!(is_one_bit(&bytes, 5), "bit {bit}");
            assert!(!is_one_bit(&bytes, 6));
        }
    }

    #[test]
    fn what_a_crash_leaves_is_not_taken_for_a_flipped_bit() {
        let whole = sample();
        for cut in 0..whole.len() {
            assert!(!is_one_bit(&whole[..cut], 5), "cut at {cut}");
            let mut zeroed = whole.clone();
            zeroed[cut..].fill(0);
            let lost = whole[cut..].iter().map(|byte| byte.count_ones()).sum::<u32>();
            assert!(lost <= 1 || !is_one_bit(&zeroed, 5), "zeros from {cut} on");
        }
    }
}
