//! A graph as bytes: one flat layout that is written once, used where it is, and checked before it is believed.
//!
//! All numbers are little endian; every section begins on a cache line, counted from the start.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..8 | `NFGRAPH` and the version of the layout: 2, or 3 where there are axes, or 4 where there are partitions |
//! | 8..12 | CRC-32 of bytes 12..128 |
//! | 12..16 | metric, width in bits, whether rows carry lengths, number of axes |
//! | 16..24 | dimension, number of entries |
//! | 24..32 | rows |
//! | 32..40 | seed of the rotation |
//! | 40..48 | step of the grid and length of the longest row, f32 |
//! | 48..96 | bytes of each section |
//! | 96..100 | CRC-32 of the table of checksums |
//! | 100..104 | step of the grid of coordinates along axes, f32 |
//! | 104..128 | bytes of the sections that partitions have, or 0 |
//! | 128.. | the sections centre and axes, entries, rows, list starts, lists, codes; of partitions tables, rows, codes |
//! | … | the table: CRC-32 of each [`BLOCK`] bytes of the sections and the gaps between them |

use std::ops::Range;
use std::sync::OnceLock;

use bytes::Bytes;

use super::adjacency::Lists;
use super::axes::Axes;
use super::checks::{BLOCK, Checks, sums};
use super::codes::{Codes, Shape};
use super::kernel::{Kernel, Width};
use super::memory::{LINE, Words};
use super::partitions::Partitions;
use super::space::Space;
use super::{Graph, MAX_DIMENSION, MAX_ROWS, Metric, Unchecked};

/// The name, without the version.
const NAME: [u8; 7] = *b"NFGRAPH";
/// Graphs without axes, as all were before: searchds of then read them, too.
const PLAIN: u8 = 2;
const WITH_AXES: u8 = 3;
/// Graphs with partitions, which have no axes.
const WITH_PARTITIONS: u8 = 4;
const HEADER: usize = 128;
/// Where the lengths of the sections are.
const LENGTHS: usize = 48;
const MORE_LENGTHS: usize = 104;
/// All, and those that are there without partitions.
const SECTIONS: usize = 9;
const FIRST_SECTIONS: usize = 6;
/// The sections that walks come to bit by bit.
const LISTS: usize = 4;
const CODES: usize = 5;
/// Of partitions.
const TABLES: usize = 6;
const LISTED: usize = 7;
const LISTED_CODES: usize = 8;

/// When what is opened is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// All of it, before anything else is done.
    AtOnce,
    /// Tables at once; lists and codes block by block, when a walk comes to them. For bytes that are mapped from a file.
    WhenTouched,
}

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

impl Graph {
    /// The graph as bytes for [`Graph::open`].
    pub fn to_bytes(&self) -> Vec<u8> {
        let axes = &self.space.axes;
        let middle = [&self.space.centre[..], axes.values()].concat();
        let partitions = self.partitions.as_ref();
        let tables = partitions.map(Partitions::tables).unwrap_or_default();
        let sections: [&[u8]; SECTIONS] = [
            bytemuck::cast_slice(&middle),
            bytemuck::cast_slice(&self.entries),
            bytemuck::cast_slice(self.rows.get()),
            bytemuck::cast_slice(self.lists.starts()),
            self.lists.ids(),
            self.codes.bytes(),
            bytemuck::cast_slice(&tables),
            bytemuck::cast_slice(partitions.map_or(&[], Partitions::rows)),
            partitions.map_or(&[], Partitions::codes),
        ];
        let shape = self.codes.shape;
        let mut bytes = vec![0; HEADER];
        bytes[..NAME.len()].copy_from_slice(&NAME);
        bytes[NAME.len()] = match (partitions, axes.count()) {
            (Some(_), _) => WITH_PARTITIONS,
            (None, 0) => PLAIN,
            (None, _) => WITH_AXES,
        };
        bytes[12] = self.space.metric as u8;
        bytes[13] = shape.width.bits() as u8;
        bytes[14] = u8::from(shape.lengths);
        bytes[15] = axes.count() as u8;
        put(&mut bytes, 16, &(self.space.dimension as u32).to_le_bytes());
        put(&mut bytes, 20, &(self.entries.len() as u32).to_le_bytes());
        put(&mut bytes, 24, &(self.len() as u64).to_le_bytes());
        put(&mut bytes, 32, &self.space.seed.to_le_bytes());
        put(&mut bytes, 40, &shape.step.to_le_bytes());
        put(&mut bytes, 44, &self.space.longest.to_le_bytes());
        put(&mut bytes, 100, &axes.step().to_le_bytes());
        for (i, section) in sections.iter().enumerate() {
            put(&mut bytes, length_at(i), &(section.len() as u64).to_le_bytes());
        }
        for section in sections {
            bytes.extend_from_slice(section);
            bytes.resize(bytes.len().next_multiple_of(LINE), 0);
        }
        let table: Vec<u8> = sums(&bytes[HEADER..]).flat_map(u32::to_le_bytes).collect();
        put(&mut bytes, 96, &crc32fast::hash(&table).to_le_bytes());
        let checksum = crc32fast::hash(&bytes[12..HEADER]);
        put(&mut bytes, 8, &checksum.to_le_bytes());
        bytes.extend(table);
        bytes
    }

    /// The graph in `bytes`, which it goes on reading: all large sections stay where they are.
    pub fn open(bytes: Bytes, check: Check) -> Result<Self, OpenError> {
        let header = Header::read(&bytes)?;
        let (sections, end) = header.sections()?;
        if bytes.len() != end + (end - HEADER).div_ceil(BLOCK) * size_of::<u32>() {
            return Err(OpenError::Length);
        }
        if crc32fast::hash(&bytes[end..]) != header.table {
            return Err(OpenError::Checksum("table of checksums"));
        }
        let table = Words::open(bytes.slice(end..)).ok_or(OpenError::Length)?;
        let checks = Checks::new(bytes.slice(HEADER..end), table).ok_or(OpenError::Length)?;
        let first = match check {
            Check::AtOnce => checks.all(),
            Check::WhenTouched => 0..sections[LISTS].start,
        };
        if !checks.pass(first) || !checks.pass(sections[TABLES].clone()) {
            return Err(OpenError::Checksum("a section"));
        }
        let unchecked = (check == Check::WhenTouched).then(|| Unchecked {
            checks,
            lists: sections[LISTS].start,
            codes: sections[CODES].start,
            partitions: [sections[LISTED].start, sections[LISTED_CODES].start],
        });
        let part = |i: usize| bytes.slice(HEADER + sections[i].start..HEADER + sections[i].end);
        header.graph(part, unchecked)
    }
}

struct Header {
    metric: Metric,
    dimension: usize,
    entries: usize,
    rows: usize,
    seed: u64,
    longest: f32,
    shape: Shape,
    has_partitions: bool,
    /// Bytes of each section.
    lengths: [u64; SECTIONS],
    /// Checksum of the table.
    table: u32,
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Self, OpenError> {
        let version = match bytes.get(..8).and_then(|magic| magic.strip_prefix(&NAME)) {
            Some([version @ (PLAIN | WITH_AXES | WITH_PARTITIONS)]) => *version,
            _ => return Err(OpenError::Magic),
        };
        if bytes.len() < HEADER {
            return Err(OpenError::Length);
        }
        if word(bytes, 8) != crc32fast::hash(&bytes[12..HEADER]) {
            return Err(OpenError::Checksum("header"));
        }
        let metrics = [Metric::Cosine, Metric::Dot, Metric::Euclidean];
        let metric = metrics.into_iter().find(|metric| *metric as u8 == bytes[12]);
        let width = Width::ALL.into_iter().find(|width| width.bits() == usize::from(bytes[13]));
        let (step, longest) = (f32::from_bits(word(bytes, 40)), f32::from_bits(word(bytes, 44)));
        let dimension = word(bytes, 16) as usize;
        let rows = long(bytes, 24);
        let (Some(metric), Some(width)) = (metric, width) else { return Err(OpenError::Content("header")) };
        fits(rows <= MAX_ROWS as u64 && (1..MAX_DIMENSION).contains(&dimension), "header")?;
        let axes = usize::from(bytes[15]);
        fits((version == WITH_AXES) == (axes > 0), "header")?;
        fits(step.is_finite() && step > 0.0 && longest.is_finite(), "header")?;
        Ok(Self {
            metric,
            dimension,
            entries: word(bytes, 20) as usize,
            rows: rows as usize,
            seed: long(bytes, 32),
            longest,
            shape: Shape {
                width,
                dims: 0,
                lengths: bytes[14] == 1,
                step,
                axes,
                axis_step: f32::from_bits(word(bytes, 100)),
            },
            has_partitions: version == WITH_PARTITIONS,
            lengths: std::array::from_fn(|i| long(bytes, length_at(i))),
            table: word(bytes, 96),
        })
    }

    /// Where the sections are, counted from the end of the header, and where the table begins, from the start of it.
    fn sections(&self) -> Result<(Vec<Range<usize>>, usize), OpenError> {
        let mut start = 0usize;
        let mut sections = Vec::with_capacity(SECTIONS);
        for length in self.lengths {
            let length = usize::try_from(length).map_err(|_| OpenError::Length)?;
            let end = start.checked_add(length).filter(|end| *end <= MAX_BYTES).ok_or(OpenError::Length)?;
            sections.push(start..end);
            start = end.next_multiple_of(LINE);
        }
        Ok((sections, HEADER + start))
    }

    /// The graph of these sections.
    fn graph(self, part: impl Fn(usize) -> Bytes, unchecked: Option<Unchecked>) -> Result<Graph, OpenError> {
        let words = |i: usize, name| Words::open(part(i)).ok_or(OpenError::Content(name));
        let mut centre: Vec<f32> = words(0, "centre")?.get().iter().map(|word| f32::from_bits(*word)).collect();
        let dims = Space::coordinates(self.metric, self.dimension);
        let axes = centre.split_off(dims.min(centre.len()));
        let axes = Axes::open(axes, dims, self.shape.axis_step).ok_or(OpenError::Content("axes"))?;
        fits(axes.count() == self.shape.axes, "axes")?;
        let (entries, rows) = (words(1, "entries")?.get().to_vec(), words(2, "row table")?);
        let kernel = Kernel::detect();
        let mut space = Space::new(self.metric, self.dimension, self.longest, centre, self.seed, kernel);
        space.axes = axes;
        let is_space = space.centre.len() == dims && space.centre.iter().all(|value| value.is_finite());
        fits(is_space, "centre")?;
        let are_rows = |rows: &[u32]| rows.iter().all(|row| (*row as usize) < self.rows);
        fits(rows.get().len() == self.rows && are_rows(rows.get()), "row table")?;
        let has_entries = entries.len() == self.entries && (self.rows == 0) == entries.is_empty();
        fits(has_entries && are_rows(&entries), "entries")?;
        let lists = Lists::open(self.rows, words(3, "list table")?, part(LISTS)).ok_or(OpenError::Content("lists"))?;
        let shape = Shape { dims, ..self.shape };
        let codes = Codes::open(shape, self.rows, part(CODES)).ok_or(OpenError::Content("codes"))?;
        let partitions = if self.has_partitions {
            let listed = words(LISTED, "rows of partitions")?;
            let tables = words(TABLES, "tables of partitions")?;
            let opened = Partitions::open(dims, &tables, listed, part(LISTED_CODES));
            Some(opened.ok_or(OpenError::Content("partitions"))?)
        } else {
            fits(self.lengths[TABLES..].iter().all(|length| *length == 0), "header")?;
            None
        };
        let places = OnceLock::new();
        Ok(Graph { space, codes, lists, rows, places, entries, partitions, kernel, unchecked, inherited: 0 })
    }
}

/// More than any section has: keeps sums of lengths within 64 bits.
const MAX_BYTES: usize = 1 << 48;

fn fits(holds: bool, name: &'static str) -> Result<(), OpenError> {
    if holds { Ok(()) } else { Err(OpenError::Content(name)) }
}

/// Where the header has the length of a section.
fn length_at(section: usize) -> usize {
    if section < FIRST_SECTIONS { LENGTHS + section * 8 } else { MORE_LENGTHS + (section - FIRST_SECTIONS) * 8 }
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
