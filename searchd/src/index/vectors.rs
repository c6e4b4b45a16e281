//! The file with a segment's vectors in full precision, mapped into memory.
//!
//! | bytes | what |
//! | --- | --- |
//! | 64 | header: magic and version, dimension, rows, longest norm, CRC-32 of what follows the values, form of the values (from version 3 on; floats before), CRC-32 of the header |
//! | rows × dimension × 4, 2 or 1 | values, f32, f16, i8 or u8: all of one file are of one [`Form`] |
//! | up to a multiple of 4 | 0 |
//! | rows × 4 | 1 / norm of each row, f32 |
//! | rows × 4 | the slot of each row, u32 |
//! | rows × 4 | CRC-32 of each row's values, u32 |
//!
//! All numbers are little-endian. Opening reads the header and the tables. Values are checked row by row: the first time that
//! one is looked at, and all of them once in the background; after that nobody checks any more. Of a file that is still on
//! its way ([`Arrival`]) the header and the tables are there; rows are brought before they are looked at.

mod header;
mod writer;

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use memmap2::Mmap;

use super::arrival::Arrival;
use super::values::{Form, Values};
use crate::engine::Slot;
use crate::graph::memory::LINE;
use crate::graph::{self, kernel};
use crate::search::stop::{Stop, Stopped};
pub use header::{HEADER, Header};
pub use writer::Writer;

/// Between two attempts to fetch a row that cannot be done without.
const PAUSE: Duration = Duration::from_millis(200);

/// The tables, by their order.
const INVERSE_NORMS: usize = 0;
const SLOTS: usize = 1;
const CHECKSUMS: usize = 2;

pub struct Vectors {
    map: Mmap,
    header: Header,
    /// All rows were checked and are sound.
    is_checked: AtomicBool,
    /// All rows were checked.
    is_reviewed: AtomicBool,
    /// The rows that are known to be sound, until all are checked.
    sound: Box<[AtomicU64]>,
    /// Rows may not be there yet.
    arrival: Option<Arc<Arrival>>,
}

impl Vectors {
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: segment files are written once, under the data directory's lock, and only ever unlinked.
        let map = unsafe { Mmap::map(&file)? };
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", path.display()));
        let header = Header::read(&map).ok_or_else(damaged)?;
        let tables = header.tables(map.len() as u64).ok_or_else(damaged)?;
        if crc32fast::hash(&map[tables.start as usize..]) != header.checksum {
            return Err(damaged());
        }
        let sound = (0..header.rows.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Ok(Self {
            map,
            header,
            is_checked: AtomicBool::new(false),
            is_reviewed: AtomicBool::new(false),
            sound,
            arrival: None,
        })
    }

    /// The same, with rows that are still on their way. The header and the tables are there.
    pub fn arriving(self, arrival: Arc<Arrival>) -> Self {
        Self { arrival: Some(arrival), ..self }
    }

    /// Whether all rows are there.
    pub fn is_there(&self) -> bool {
        self.arrival.as_ref().is_none_or(|arrival| arrival.is_whole())
    }

    /// Returns when these rows are there and sound; to be called before any is looked at. One that is damaged after all rows
    /// have come is not an error here: see [`Vectors::is_sound`].
    #[inline]
    pub fn bring(&self, rows: &[u32], stop: &Stop) -> Result<(), Stopped> {
        match self.arrival.as_ref().filter(|arrival| !arrival.is_whole()) {
            None => Ok(()),
            Some(arrival) => self.fetch(arrival, rows, stop),
        }
    }

    /// As [`Vectors::bring`], until it succeeds: for the few who cannot go on without, such as a delete that must know what it
    /// leaves.
    pub fn await_row(&self, row: u32) {
        while let Err(stopped) = self.bring(&[row], &Stop::default()) {
            tracing::error!(%stopped, "waiting for a vector");
            std::thread::sleep(PAUSE);
        }
    }

    #[cold]
    fn fetch(&self, arrival: &Arc<Arrival>, rows: &[u32], stop: &Stop) -> Result<(), Stopped> {
        arrival.bring(rows.iter().map(|row| self.header.row(*row)), stop)?;
        // What came in pieces is known to be right by its rows' checksums alone.
        if arrival.is_whole() || rows.iter().all(|row| self.is_sound(*row)) {
            Ok(())
        } else {
            Err(Stopped::Unavailable)
        }
    }

    /// As [`Vectors::open`], of a file that was written just now.
    pub fn open_fresh(path: &Path) -> io::Result<Self> {
        let vectors = Self::open(path)?;
        let (is_checked, is_reviewed) = (AtomicBool::new(true), AtomicBool::new(true));
        Ok(Self { sound: Box::default(), is_checked, is_reviewed, ..vectors })
    }

    pub fn len(&self) -> usize {
        self.header.rows
    }

    pub fn is_empty(&self) -> bool {
        self.header.rows == 0
    }

    /// How the values are kept.
    pub fn form(&self) -> Form {
        self.header.form
    }

    /// Bytes of a row's values.
    pub fn row_bytes(&self) -> usize {
        self.header.row_bytes()
    }

    #[inline]
    pub fn row(&self, row: u32) -> Values<'_> {
        Values::of(self.header.form, self.bytes(row))
    }

    #[inline]
    fn bytes(&self, row: u32) -> &[u8] {
        &self.map[self.header.row(row)]
    }

    /// Whether the row's values are those that were written.
    #[inline]
    pub fn is_sound(&self, row: u32) -> bool {
        self.is_checked.load(Ordering::Relaxed) || self.check(row)
    }

    fn check(&self, row: u32) -> bool {
        let (word, bit) = (&self.sound[row as usize / 64], 1 << (row % 64));
        if word.load(Ordering::Relaxed) & bit != 0 {
            return true;
        }
        let is_sound = crc32fast::hash(self.bytes(row)) == self.table::<u32>(CHECKSUMS)[row as usize];
        if is_sound {
            word.fetch_or(bit, Ordering::Relaxed);
        }
        is_sound
    }

    /// Whether [`Vectors::check_all`] has nothing to add.
    pub fn is_reviewed(&self) -> bool {
        self.is_reviewed.load(Ordering::Relaxed)
    }

    /// All rows were checked, and some are damaged.
    pub fn is_damaged(&self) -> bool {
        self.is_reviewed() && !self.is_checked.load(Ordering::Relaxed)
    }

    /// Checks all rows, and returns those that are damaged.
    pub fn check_all(&self) -> Vec<u32> {
        let damaged: Vec<u32> = (0..self.header.rows as u32).filter(|row| !self.is_sound(*row)).collect();
        self.is_checked.store(damaged.is_empty(), Ordering::Relaxed);
        self.is_reviewed.store(true, Ordering::Relaxed);
        damaged
    }

    /// Asks for a row that is compared soon.
    #[inline]
    pub fn prefetch(&self, row: u32) {
        let values = self.header.row(row);
        // The file is mapped to the beginning of a page, so lines are where they are in the file.
        for line in (values.start / LINE * LINE..values.end).step_by(LINE) {
            kernel::prefetch(&self.map, line);
        }
        for table in [INVERSE_NORMS, SLOTS] {
            kernel::prefetch(&self.map, self.header.table(table).start + row as usize * size_of::<u32>());
        }
    }

    /// The largest Euclidean norm of a row.
    pub fn longest(&self) -> f64 {
        self.header.longest
    }

    pub fn inverse_norm(&self, row: u32) -> f32 {
        self.table::<f32>(INVERSE_NORMS)[row as usize]
    }

    pub fn slot(&self, row: u32) -> Slot {
        self.slots()[row as usize]
    }

    pub fn slots(&self) -> &[Slot] {
        self.table(SLOTS)
    }

    /// Bytes in memory for as long as the vectors are open; the mapped file comes and goes.
    pub fn memory_bytes(&self) -> u64 {
        (self.sound.len() * 8) as u64
    }

    pub fn file_bytes(&self) -> u64 {
        self.map.len() as u64
    }

    fn table<T: bytemuck::Pod>(&self, number: usize) -> &[T] {
        bytemuck::cast_slice(&self.map[self.header.table(number)])
    }
}

impl graph::Rows for Vectors {
    fn len(&self) -> usize {
        self.header.rows
    }

    fn dimension(&self) -> usize {
        self.header.dimension
    }

    fn read(&self, row: u32, into: &mut [f32]) {
        self.row(row).read(into);
    }
}
