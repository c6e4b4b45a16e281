//! One record of the log: a fixed header, then an [`Entry`] in protobuf.
//!
//! | bytes | what |
//! | --- | --- |
//! | 4 | length of the payload |
//! | 4 | CRC32 of everything after this field |
//! | 8 | the record's number |
//! | 8 | the last record known durable when this one was written |
//! | … | payload |
//!
//! All numbers are little-endian. The fourth field tells a torn tail from damage: a record that is broken although a
//! later one says that it was durable was not torn by a crash.

use nearfield_proto::log::v1::Entry;
use prost::Message;

pub(super) const HEADER: usize = 24;
/// Largest payload. A request of the largest message size makes an entry that is smaller.
pub(super) const MAX_PAYLOAD: usize = 64 * 1024 * 1024;

#[derive(Debug, PartialEq)]
pub(super) struct Record {
    pub number: u64,
    pub durable: u64,
    pub entry: Entry,
    /// Header and payload.
    pub bytes: usize,
}

pub(super) fn encode(number: u64, durable: u64, entry: &Entry, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER]);
    entry.encode(out).expect("a vector grows as it must");
    let length = (out.len() - start - HEADER) as u32;
    let record = &mut out[start..];
    record[..4].copy_from_slice(&length.to_le_bytes());
    record[8..16].copy_from_slice(&number.to_le_bytes());
    record[16..24].copy_from_slice(&durable.to_le_bytes());
    let crc = crc32fast::hash(&record[8..]);
    record[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// The record at the start of `bytes`, when a whole one that is as it was written is there.
pub(super) fn decode(bytes: &[u8]) -> Option<Record> {
    let (number, durable, payload) = frame(bytes)?;
    let entry = Entry::decode(payload).ok()?;
    Some(Record { number, durable, entry, bytes: HEADER + payload.len() })
}

/// Bytes of the record at the start of `bytes`, header and payload, by what its header says.
pub(super) fn length(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_le_bytes(bytes.get(..4)?.try_into().expect("four bytes")) as usize;
    (length <= MAX_PAYLOAD).then_some(HEADER + length)
}

/// Looks for a whole record, somewhere in `bytes`, that proves that record `number` was durable.
pub(super) fn proves_durable(bytes: &[u8], number: u64) -> bool {
    let later = number..number.saturating_add(MAX_LOOKAHEAD);
    (0..bytes.len().saturating_sub(HEADER)).any(|at| {
        let candidate = &bytes[at..];
        let plausible = later.contains(&read_u64(&candidate[8..16])) && read_u64(&candidate[16..24]) >= number;
        plausible && frame(candidate).is_some()
    })
}

fn frame(bytes: &[u8]) -> Option<(u64, u64, &[u8])> {
    let header = bytes.get(..HEADER)?;
    let length = u32::from_le_bytes(header[..4].try_into().expect("four bytes")) as usize;
    if length > MAX_PAYLOAD {
        return None;
    }
    let record = bytes.get(..HEADER + length)?;
    let crc = u32::from_le_bytes(record[4..8].try_into().expect("four bytes"));
    if crc32fast::hash(&record[8..]) != crc {
        return None;
    }
    Some((read_u64(&record[8..16]), read_u64(&record[16..24]), &record[HEADER..]))
}

fn read_u64(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

/// No file holds more records than that.
const MAX_LOOKAHEAD: u64 = 1 << 24;

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(number: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        let entry = Entry { origin: 9, sequence: number, collection: "c".into(), ..Default::default() };
        encode(number, number - 1, &entry, &mut bytes);
        bytes
    }

    #[test]
    fn a_record_comes_back_and_no_flipped_bit_goes_unseen() {
        let bytes = sample(5);
        let record = decode(&bytes).unwrap();
        assert_eq!((record.number, record.durable, record.bytes), (5, 4, bytes.len()));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged).is_none(), "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_none(), "cut at {cut}");
        }
    }

    #[test]
    fn a_later_record_proves_that_an_earlier_one_was_durable() {
        let tail = [vec![7; 33], sample(6)].concat();
        assert!(proves_durable(&tail, 5));
        assert!(!proves_durable(&tail, 6));
        assert!(!proves_durable(&tail[..tail.len() - 1], 5));
    }
}
