//! A graph as bytes: one flat layout that is written once, mapped, and checked before it is believed.
//!
//! All numbers are little endian; every section begins on a cache line, counted from the start of the file.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..8 | `NFGRAPH` and the version of the layout, 1 |
//! | 8..12 | CRC-32 of bytes 12..128 |
//! | 12..16 | metric, width in bits, whether rows carry lengths, 0 |
//! | 16..24 | dimension, number of entries |
//! | 24..32 | rows |
//! | 32..40 | seed of the rotation |
//! | 40..48 | step of the grid and length of the longest row, f32 |
//! | 48..112 | for the sections centre, entries, rows, list starts: bytes, CRC-32, 0 (8 + 4 + 4) |
//! | 112..128 | 0 |
//! | 128..192 | the same for the sections lists, codes; 0; CRC-32 of bytes 128..188 |
//! | 192.. | the sections, in this order |

use bytes::Bytes;

use super::adjacency::Lists;
use super::codes::{Codes, Shape};
use super::kernel::{Kernel, Width};
use super::memory::{LINE, Words};
use super::space::Space;
use super::{Graph, MAX_DIMENSION, MAX_ROWS, Metric};

const MAGIC: [u8; 8] = *b"NFGRAPH\x01";
const HEADER: usize = 192;
const SECTIONS: usize = 6;

/// Why bytes are not a graph.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("not a graph, or of another version")]
    Magic,
    #[error("graph is cut off or too long")]
    Length,
    #[error("{0} of the graph is damaged")]
    Checksum(&'static str),
    #[error("{0} of the graph makes no sense")]
    Content(&'static str),
}

const NAMES: [&str; SECTIONS] = ["centre", "entries", "row table", "list table", "lists", "codes"];

impl Graph {
    /// The graph as bytes for [`Graph::open`].
    pub fn to_bytes(&self) -> Vec<u8> {
        let sections: [&[u8]; SECTIONS] = [
            bytemuck::cast_slice(&self.space.centre),
            bytemuck::cast_slice(&self.entries),
            bytemuck::cast_slice(self.rows.get()),
            bytemuck::cast_slice(self.lists.starts()),
            self.lists.ids(),
            self.codes.bytes(),
        ];
        let shape = self.codes.shape;
        let mut bytes = vec![0; HEADER];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[12] = self.space.metric as u8;
        bytes[13] = shape.width.bits() as u8;
        bytes[14] = u8::from(shape.lengths);
        put(&mut bytes, 16, &(self.space.dimension as u32).to_le_bytes());
        put(&mut bytes, 20, &(self.entries.len() as u32).to_le_bytes());
        put(&mut bytes, 24, &(self.len() as u64).to_le_bytes());
        put(&mut bytes, 32, &self.space.seed.to_le_bytes());
        put(&mut bytes, 40, &shape.step.to_le_bytes());
        put(&mut bytes, 44, &self.space.longest.to_le_bytes());
        for (section, at) in sections.iter().zip(DESCRIPTIONS) {
            put(&mut bytes, at, &(section.len() as u64).to_le_bytes());
            put(&mut bytes, at + 8, &crc32fast::hash(section).to_le_bytes());
        }
        let (first, second) = (crc32fast::hash(&bytes[12..128]), crc32fast::hash(&bytes[128..188]));
        put(&mut bytes, 8, &first.to_le_bytes());
        put(&mut bytes, 188, &second.to_le_bytes());
        for section in sections {
            bytes.extend_from_slice(section);
            bytes.resize(bytes.len().next_multiple_of(LINE), 0);
        }
        bytes
    }

    /// The graph in `bytes`, which it goes on reading: all large sections stay where they are. Reads all of them once, to
    /// check them.
    pub fn open(bytes: Bytes) -> Result<Self, OpenError> {
        let header = Header::read(&bytes)?;
        let sections = header.sections(&bytes)?;
        let part = |i: usize| bytes.slice(sections[i].clone());
        let words = |i: usize, name| Words::open(part(i)).ok_or(OpenError::Content(name));
        let centre: Vec<f32> = words(0, "centre")?.get().iter().map(|word| f32::from_bits(*word)).collect();
        let (entries, rows) = (words(1, "entries")?.get().to_vec(), words(2, "row table")?);

        let kernel = Kernel::detect();
        let Header { metric, dimension, seed, longest, shape, .. } = header;
        let space = Space::new(metric, dimension, longest, centre, seed, kernel);
        let is_space = space.centre.len() == space.dims() && space.centre.iter().all(|value| value.is_finite());
        check(is_space, "centre")?;
        let are_rows = |rows: &[u32]| rows.iter().all(|row| (*row as usize) < header.rows);
        check(rows.get().len() == header.rows && are_rows(rows.get()), "row table")?;
        let has_entries = entries.len() == header.entries && (header.rows == 0) == entries.is_empty();
        check(has_entries && are_rows(&entries), "entries")?;
        let lists = Lists::open(header.rows, words(3, "list table")?, part(4)).ok_or(OpenError::Content("lists"))?;
        let shape = Shape { dims: space.dims(), ..shape };
        let codes = Codes::open(shape, header.rows, part(5)).ok_or(OpenError::Content("codes"))?;
        Ok(Self { space, codes, lists, rows, entries, kernel })
    }
}

/// Where the length and checksum of each section are.
const DESCRIPTIONS: [usize; SECTIONS] = [48, 64, 80, 96, 128, 144];

struct Header {
    metric: Metric,
    dimension: usize,
    entries: usize,
    rows: usize,
    seed: u64,
    longest: f32,
    shape: Shape,
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Self, OpenError> {
        if bytes.get(..8) != Some(&MAGIC) {
            return Err(OpenError::Magic);
        }
        if bytes.len() < HEADER {
            return Err(OpenError::Length);
        }
        let is_whole =
            word(bytes, 8) == crc32fast::hash(&bytes[12..128]) && word(bytes, 188) == crc32fast::hash(&bytes[128..188]);
        if !is_whole {
            return Err(OpenError::Checksum("header"));
        }
        let metrics = [Metric::Cosine, Metric::Dot, Metric::Euclidean];
        let metric = metrics.into_iter().find(|metric| *metric as u8 == bytes[12]);
        let width = Width::ALL.into_iter().find(|width| width.bits() == usize::from(bytes[13]));
        let (step, longest) = (f32::from_bits(word(bytes, 40)), f32::from_bits(word(bytes, 44)));
        let dimension = word(bytes, 16) as usize;
        let rows = long(bytes, 24);
        check(rows <= MAX_ROWS as u64 && (1..MAX_DIMENSION).contains(&dimension), "header")?;
        check(step.is_finite() && step > 0.0 && longest.is_finite(), "header")?;
        let (Some(metric), Some(width)) = (metric, width) else { return Err(OpenError::Content("header")) };
        Ok(Self {
            metric,
            dimension,
            entries: word(bytes, 20) as usize,
            rows: rows as usize,
            seed: long(bytes, 32),
            longest,
            shape: Shape { width, dims: 0, lengths: bytes[14] == 1, step },
        })
    }

    /// Where the sections are, after their checksums.
    fn sections(&self, bytes: &[u8]) -> Result<Vec<std::ops::Range<usize>>, OpenError> {
        let mut start = HEADER;
        let mut sections = vec![];
        for (at, name) in DESCRIPTIONS.into_iter().zip(NAMES) {
            let len = usize::try_from(long(bytes, at)).map_err(|_| OpenError::Length)?;
            let end = start.checked_add(len).ok_or(OpenError::Length)?;
            let section = bytes.get(start..end).ok_or(OpenError::Length)?;
            if crc32fast::hash(section) != word(bytes, at + 8) {
                return Err(OpenError::Checksum(name));
            }
            sections.push(start..end);
            start = end.next_multiple_of(LINE);
            if bytes.get(end..start).is_none_or(|padding| padding.iter().any(|byte| *byte != 0)) {
                return Err(OpenError::Length);
            }
        }
        if start == bytes.len() { Ok(sections) } else { Err(OpenError::Length) }
    }
}

fn check(holds: bool, name: &'static str) -> Result<(), OpenError> {
    if holds { Ok(()) } else { Err(OpenError::Content(name)) }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at)) | u64::from(word(bytes, at + 4)) << 32
}
