//! The file with a collection's records, made to be opened quickly: ids and records in blocks that are taken apart when
//! they are looked at, and tables of what a start needs of all of them.
//!
//! | what | how |
//! | --- | --- |
//! | blocks of [`BLOCK`] slots | the ids, then the records, each with its length before it |
//! | 8 bytes a slot | its row in a segment: part and row, or [`NOWHERE`] |
//! | 8 bytes a block | where it begins, and where the last one ends |
//! | tail | [`format::Tail`], and its length in 4 bytes |
//!
//! Numbers are little-endian. The manifest has the BLAKE3 of it all.

use std::collections::HashMap;
use std::fs::File;
use std::hash::RandomState;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use prost::Message;
use rayon::prelude::*;

use super::{Error, format};
use crate::engine::Slot;
use crate::engine::record::Record;
use crate::engine::records::{self, BLOCK, Blocks, Entry, Records};
use crate::engine::stamp::{Site, Sites, Stamp};
use crate::graph::memory::Lines;
use crate::index::Row;

/// The row of a slot that is in no segment.
const NOWHERE: [u32; 2] = [u32::MAX; 2];
/// Larger files are read by several threads.
const LARGE: u64 = 16 << 20;
/// Larger ones are hashed by several, too.
const HASHED_AT_ONCE: usize = 256 << 10;

/// Puts records into the form of the file, slot by slot.
pub(super) struct Writer {
    /// The block that is being filled.
    ids: Vec<u8>,
    records: Vec<u8>,
    /// Whole blocks that were not taken yet.
    blocks: Vec<u8>,
    starts: Vec<u64>,
    rows: Vec<[u32; 2]>,
    sites: HashMap<Arc<Site>, u32>,
    tail: format::Tail,
}

impl Writer {
    pub(super) fn new() -> Self {
        Self {
            ids: Vec::new(),
            records: Vec::new(),
            blocks: Vec::new(),
            starts: vec![0],
            rows: Vec::new(),
            sites: HashMap::new(),
            tail: format::Tail::default(),
        }
    }

    /// The next slot's record: `row` in a segment, or else its `values`, if it has any.
    pub(super) fn push(&mut self, id: &str, record: &Record, row: Option<Row>, values: Bytes) {
        if !values.is_empty() {
            self.tail.waiting.push(self.tail.slots);
        }
        self.tail.slots += 1;
        self.tail.live += u64::from(record.is_live());
        self.rows.push(row.map_or(NOWHERE, |row| [row.part, row.row]));
        let message = self.message(record, values);
        prost::encode_length_delimiter(id.len(), &mut self.ids).expect("a vector grows");
        self.ids.extend_from_slice(id.as_bytes());
        message.encode_length_delimited(&mut self.records).expect("a vector grows");
        if (self.tail.slots as usize).is_multiple_of(BLOCK) {
            self.end_block();
        }
    }

    fn end_block(&mut self) {
        let start = self.starts.last().map_or(0, |start| start + (self.ids.len() + self.records.len()) as u64);
        self.starts.push(start);
        self.blocks.append(&mut self.ids);
        self.blocks.append(&mut self.records);
    }

    /// Bytes that can be taken.
    pub(super) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// What comes next in the file.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.blocks)
    }

    /// The rest of the file.
    pub(super) fn finish(mut self) -> Vec<u8> {
        if !(self.tail.slots as usize).is_multiple_of(BLOCK) {
            self.end_block();
        }
        let mut sites: Vec<_> = std::mem::take(&mut self.sites).into_iter().collect();
        sites.sort_by_key(|(_, number)| *number);
        let site = |site: &Site| format::Site { region: site.region.to_string(), writer: site.writer };
        self.tail.sites = sites.iter().map(|(known, _)| site(known)).collect();
        let mut rest = self.blocks;
        rest.extend(self.rows.iter().flatten().flat_map(|number| number.to_le_bytes()));
        rest.extend(self.starts.iter().flat_map(|start| start.to_le_bytes()));
        let tail = self.tail.encode_to_vec();
        rest.extend(&tail);
        rest.extend((tail.len() as u32).to_le_bytes());
        rest
    }

    fn message(&mut self, record: &Record, values: Bytes) -> format::Record {
        let vector = record.vector().filter(|vector| Some(*vector) != record.base());
        format::Record {
            version: record.version,
            base: record.base().map(|stamp| self.stamp(stamp)),
            deleted: record.deleted().map(|stamp| self.stamp(stamp)),
            vector: vector.map(|stamp| self.stamp(stamp)),
            waiting: record.waiting().cloned(),
            metadata: record.stored_metadata(),
            patches: record
                .patches()
                .map(|(key, stamp, removed)| format::Patch {
                    key: key.to_owned(),
                    stamp: Some(self.stamp(stamp)),
                    removed,
                })
                .collect(),
            values,
        }
    }

    fn stamp(&mut self, stamp: &Stamp) -> format::Stamp {
        let next = self.sites.len() as u32;
        let site = match self.sites.get(&stamp.site) {
            Some(site) => *site,
            None => *self.sites.entry(stamp.site.clone()).or_insert(next),
        };
        format::Stamp { physical: stamp.physical, logical: stamp.logical, site }
    }
}

/// What a file has.
pub(super) struct Opened {
    pub(super) records: Records,
    /// How many of them live.
    pub(super) live: u64,
    /// Of each slot, in a segment.
    pub(super) rows: Vec<Option<Row>>,
    /// Little-endian f32s of the slots that are in none.
    pub(super) waiting: Vec<(Slot, Bytes)>,
}

/// Opens a file, or a part of one, that hashes to what is `expected`.
pub(super) fn open(
    path: &Path,
    part: Option<format::Part>,
    expected: &[u8],
    sites: &Mutex<Sites>,
) -> Result<Opened, Error> {
    let bytes = read(path, part).map_err(|source| match source.kind() {
        io::ErrorKind::UnexpectedEof => Error::Damaged(path.into()),
        _ => Error::Io { doing: "reading", path: path.into(), source },
    })?;
    let mut hasher = blake3::Hasher::new();
    if bytes.len() > HASHED_AT_ONCE {
        hasher.update_rayon(&bytes);
    } else {
        hasher.update(&bytes);
    }
    let is_whole = hasher.finalize().as_bytes() == expected;
    is_whole.then(|| take_apart(bytes, sites)).flatten().ok_or_else(|| Error::Damaged(path.into()))
}

fn read(path: &Path, part: Option<format::Part>) -> io::Result<Bytes> {
    let file = File::open(path)?;
    let whole = file.metadata()?.len();
    let format::Part { start, bytes } = part.unwrap_or(format::Part { start: 0, bytes: whole });
    if start.checked_add(bytes).is_none_or(|end| end > whole) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if bytes >= LARGE {
        return Ok(Lines::read(&file, start, bytes as usize)?.into_shared());
    }
    let mut read = vec![0; bytes as usize];
    file.read_exact_at(&mut read, start)?;
    Ok(read.into())
}

/// None when it is not what a writer writes.
fn take_apart(bytes: Bytes, sites: &Mutex<Sites>) -> Option<Opened> {
    let (rest, length) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
    let length = u32::from_le_bytes(length.try_into().ok()?) as usize;
    let (rest, tail) = rest.split_at_checked(rest.len().checked_sub(length)?)?;
    let tail = format::Tail::decode(tail).ok()?;
    let slots = tail.slots as usize;
    let (rest, starts) = rest.split_at_checked(rest.len().checked_sub((slots.div_ceil(BLOCK) + 1) * 8)?)?;
    let (rest, rows) = rest.split_at_checked(rest.len().checked_sub(slots * 8)?)?;
    let starts: Vec<usize> = starts.chunks_exact(8).map(|start| long(start) as usize).collect();
    let is_sane = starts.first() == Some(&0) && starts.is_sorted() && starts.last() == Some(&rest.len());
    if !is_sane {
        return None;
    }
    let known = tail.sites.iter().map(|site| sites.lock().site(&site.region, site.writer)).collect();
    let rows = rows.chunks_exact(8).map(|row| row_of(long(row))).collect();
    let stored = Stored { bytes: bytes.slice(..rest.len()), starts, slots, sites: known };
    let hasher = RandomState::new();
    let hashes = stored.hashes(&hasher)?;
    let waiting = stored.waiting(&tail.waiting)?;
    Some(Opened { records: Records::stored(Arc::new(stored), hasher, &hashes), live: tail.live, rows, waiting })
}

fn long(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

fn row_of(word: u64) -> Option<Row> {
    let row = [word as u32, (word >> 32) as u32];
    (row != NOWHERE).then_some(Row { part: row[0], row: row[1] })
}

/// A file's blocks, in memory until all of them were taken apart.
struct Stored {
    bytes: Bytes,
    starts: Vec<usize>,
    slots: usize,
    sites: Vec<Arc<Site>>,
}

impl Stored {
    fn slots(&self, block: usize) -> Range<usize> {
        block * BLOCK..self.slots.min((block + 1) * BLOCK)
    }

    fn block(&self, block: usize) -> Bytes {
        self.bytes.slice(self.starts[block]..self.starts[block + 1])
    }

    /// Of all ids, which are looked at on all cores. None when one is no text.
    fn hashes(&self, hasher: &RandomState) -> Option<Vec<u32>> {
        let mut hashes = vec![0; self.slots];
        let blocks = hashes.par_chunks_mut(BLOCK).enumerate().with_min_len(LEAST_BLOCKS);
        let are_texts = blocks.map(|(block, hashes)| {
            let mut bytes = &self.bytes[self.starts[block]..self.starts[block + 1]];
            hashes.iter_mut().try_for_each(|into| {
                *into = records::hash(hasher, id(&mut bytes)?);
                Some(())
            })
        });
        are_texts.collect::<Option<()>>().map(|()| hashes)
    }

    /// The ids and records of a block.
    fn entries(&self, block: usize) -> Option<Vec<(&str, format::Record)>> {
        let whole = self.block(block);
        let mut bytes = &self.bytes[self.starts[block]..self.starts[block + 1]];
        let ids: Vec<&str> = self.slots(block).map(|_| id(&mut bytes)).collect::<Option<_>>()?;
        let mut records = whole.slice(whole.len() - bytes.len()..);
        let entries = ids.into_iter().map(|id| Some((id, format::Record::decode_length_delimited(&mut records).ok()?)));
        entries.collect()
    }

    /// The values of these slots, which are in order.
    fn waiting(&self, slots: &[Slot]) -> Option<Vec<(Slot, Bytes)>> {
        let mut found = Vec::with_capacity(slots.len());
        for slots in slots.chunk_by(|a, b| *a as usize / BLOCK == *b as usize / BLOCK) {
            let block = *slots.first()? as usize / BLOCK;
            let entries = (block + 1 < self.starts.len()).then(|| self.entries(block)).flatten()?;
            for slot in slots {
                found.push((*slot, entries.get(*slot as usize % BLOCK)?.1.values.clone()));
            }
        }
        Some(found)
    }

    fn stamp(&self, stamp: &format::Stamp) -> Stamp {
        let site = self.sites.get(stamp.site as usize).cloned().expect("the writer numbered the sites that it met");
        Stamp { physical: stamp.physical, logical: stamp.logical, site }
    }

    fn record(&self, message: &format::Record) -> Record {
        let stamp = |stamp: &Option<format::Stamp>| stamp.as_ref().map(|stamp| self.stamp(stamp));
        let base = stamp(&message.base);
        let vector = stamp(&message.vector).or_else(|| base.clone());
        let patches = message
            .patches
            .iter()
            .filter_map(|patch| Some((patch.key.as_str().into(), (self.stamp(patch.stamp.as_ref()?), patch.removed))))
            .collect();
        // Copies of their own: the file must not stay in memory for them.
        let metadata = Bytes::copy_from_slice(&message.metadata);
        let waiting = message.waiting.as_deref().map(Bytes::copy_from_slice);
        Record::restore(message.version, [base, stamp(&message.deleted), vector], waiting, metadata, patches)
    }
}

impl Blocks for Stored {
    fn read(&self, block: usize) -> Box<[Entry]> {
        let entries = self.entries(block).expect("a file whose hash is right is what a writer wrote");
        entries.into_iter().map(|(id, message)| Entry { id: id.into(), record: self.record(&message) }).collect()
    }
}

/// Takes the next id off.
fn id<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let length = prost::decode_length_delimiter(&mut *bytes).ok()?;
    let id = bytes.get(..length)?;
    bytes.advance(length);
    std::str::from_utf8(id).ok()
}

/// Blocks whose ids a thread hashes at the least: some hundred microseconds' work.
const LEAST_BLOCKS: usize = 512;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Kept {
        id: String,
        record: Record,
        row: Option<Row>,
        values: Bytes,
    }

    fn stamps() -> impl Strategy<Value = Stamp> {
        (any::<u64>(), 0..9u32, "[a-c]", 0..3u64).prop_map(|(physical, logical, region, writer)| Stamp {
            physical,
            logical,
            site: Arc::new(Site { region: region.into(), writer }),
        })
    }

    fn some_bytes() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), 1..9).prop_map(Bytes::from)
    }

    fn kept() -> impl Strategy<Value = Kept> {
        let stamp = || prop::option::of(stamps());
        let patches = prop::collection::btree_map("[a-d]", (stamps(), any::<bool>()), 0..3);
        let record = (0..5u64, stamp(), stamp(), stamp(), prop::option::of(some_bytes()), some_bytes(), patches);
        let record = record.prop_map(|(version, base, deleted, vector, waiting, metadata, patches)| {
            let patches: BTreeMap<Box<str>, _> =
                patches.into_iter().map(|(key, patch)| (key.as_str().into(), patch)).collect();
            let vector = vector.or_else(|| base.clone());
            Record::restore(version, [base, deleted, vector], waiting, metadata, patches)
        });
        let place = prop_oneof![
            (0..9u32, any::<u32>()).prop_map(|(part, row)| (Some(Row { part, row }), Bytes::new())),
            some_bytes().prop_map(|values| (None, values)),
            Just((None, Bytes::new())),
        ];
        (record, place).prop_map(|(record, (row, values))| Kept { id: String::new(), record, row, values })
    }

    fn write(path: &Path, all: &[Kept]) -> blake3::Hash {
        let (mut writer, mut bytes) = (Writer::new(), Vec::new());
        for (i, kept) in all.iter().enumerate() {
            writer.push(&kept.id, &kept.record, kept.row, kept.values.clone());
            if i % 20 == 0 {
                bytes.extend(writer.take());
            }
        }
        bytes.extend(writer.finish());
        std::fs::write(path, &bytes).unwrap();
        blake3::hash(&bytes)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_was_written_comes_back_and_damage_does_not(
            mut all in prop::collection::vec(kept(), 0..120),
            at in any::<prop::sample::Index>(),
        ) {
            for (i, kept) in all.iter_mut().enumerate() {
                kept.id = format!("{}-{i}", "ä".repeat(i % 4));
            }
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("records");
            let hash = write(&path, &all);
            let sites = Mutex::default();
            let opened = open(&path, None, hash.as_bytes(), &sites).unwrap();
            prop_assert_eq!(opened.records.len(), all.len());
            prop_assert_eq!(opened.live, all.iter().filter(|kept| kept.record.is_live()).count() as u64);
            let waiting: BTreeMap<Slot, Bytes> = opened.waiting.into_iter().collect();
            for (slot, kept) in all.iter().enumerate() {
                let values = waiting.get(&(slot as Slot)).cloned().unwrap_or_default();
                let entry = opened.records.get(slot as Slot).unwrap();
                let (id, record) = (entry.id.to_string(), Record::clone(&entry.record));
                prop_assert_eq!(&Kept { id, record, row: opened.rows[slot], values }, kept);
                prop_assert_eq!(opened.records.find(&kept.id), Some(slot as Slot));
            }
            let mut bytes = std::fs::read(&path).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 16;
            std::fs::write(&path, &bytes).unwrap();
            prop_assert!(matches!(open(&path, None, hash.as_bytes(), &sites), Err(Error::Damaged(_))));
            // Even with a hash that fits, what is no such file is an error and nothing worse.
            bytes.truncate(at);
            std::fs::write(&path, &bytes).unwrap();
            prop_assert!(open(&path, None, blake3::hash(&bytes).as_bytes(), &sites).is_err());
        }
    }
}
