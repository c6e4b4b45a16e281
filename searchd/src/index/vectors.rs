//! The file with a segment's vectors in full precision, mapped into memory.
//!
//! | bytes | what |
//! | --- | --- |
//! | 64 | header: magic, dimension, rows, longest norm, CRC-32 of the tables, CRC-32 of the header |
//! | rows × dimension × 4 | values, f32 |
//! | rows × 4 | 1 / norm of each row, f32 |
//! | rows × 4 | the slot of each row, u32 |
//! | rows × 4 | CRC-32 of each row's values, u32 |
//!
//! All numbers are little-endian. Opening reads the header and the tables. Values are checked row by row: the first time that
//! one is looked at, and all of them once in the background; after that nobody checks any more. Of a file that is still on
//! its way ([`Arrival`]) the header and the tables are there; rows are brought before they are looked at.

use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use memmap2::Mmap;

use super::arrival::Arrival;
use super::score;
use crate::engine::Slot;
use crate::graph::{self, kernel};
use crate::search::stop::{Stop, Stopped};

const MAGIC: [u8; 8] = *b"NFVEC\0\0\x02";
pub const HEADER: usize = 64;
/// Between two attempts to fetch a row that cannot be done without.
const PAUSE: Duration = Duration::from_millis(200);
/// Numbers of a row that are kept in tables.
const TABLES: usize = 3;

pub struct Vectors {
    map: Mmap,
    dimension: usize,
    rows: usize,
    longest: f64,
    /// All rows were checked and are sound.
    is_checked: AtomicBool,
    /// All rows were checked.
    is_reviewed: AtomicBool,
    /// The rows that are known to be sound, until all are checked.
    sound: Box<[AtomicU64]>,
    /// Rows may not be there yet.
    arrival: Option<Arc<Arrival>>,
}

/// Writes a file row by row.
pub struct Writer {
    file: BufWriter<File>,
    dimension: usize,
    inverse_norms: Vec<f32>,
    slots: Vec<Slot>,
    checksums: Vec<u32>,
    longest: f64,
}

impl Writer {
    pub fn create(path: &Path, dimension: usize) -> io::Result<Self> {
        let mut file = BufWriter::with_capacity(1024 * 1024, File::create(path)?);
        file.write_all(&[0; HEADER])?;
        let (inverse_norms, slots, checksums) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { file, dimension, inverse_norms, slots, checksums, longest: 0.0 })
    }

    pub fn push(&mut self, slot: Slot, values: &[f32]) -> io::Result<()> {
        self.file.write_all(bytemuck::cast_slice(values))?;
        self.longest = self.longest.max(score::norm(values));
        self.inverse_norms.push(score::inverse_norm(values));
        self.slots.push(slot);
        self.checksums.push(crc32fast::hash(bytemuck::cast_slice(values)));
        Ok(())
    }

    /// The file is durable afterwards; its name is not yet.
    pub fn finish(mut self) -> io::Result<()> {
        let tables: [&[u8]; 3] = [
            bytemuck::cast_slice(&self.inverse_norms),
            bytemuck::cast_slice(&self.slots),
            bytemuck::cast_slice(&self.checksums),
        ];
        let mut hasher = crc32fast::Hasher::new();
        for table in tables {
            self.file.write_all(table)?;
            hasher.update(table);
        }
        self.file.flush()?;
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&MAGIC);
        header[8..16].copy_from_slice(&(self.dimension as u64).to_le_bytes());
        header[16..24].copy_from_slice(&(self.slots.len() as u64).to_le_bytes());
        header[24..32].copy_from_slice(&self.longest.to_le_bytes());
        header[32..36].copy_from_slice(&hasher.finalize().to_le_bytes());
        let crc = crc32fast::hash(&header[..HEADER - 4]);
        header[HEADER - 4..].copy_from_slice(&crc.to_le_bytes());
        let file = self.file.get_mut();
        file.rewind()?;
        file.write_all(&header)?;
        file.sync_all()
    }
}

impl Vectors {
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: segment files are written once, under the data directory's lock, and only ever unlinked.
        let map = unsafe { Mmap::map(&file)? };
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", path.display()));
        let header = Header::read(&map).ok_or_else(damaged)?;
        let Header { dimension, rows, longest, .. } = header;
        let tables = header.tables(map.len() as u64).ok_or_else(damaged)?;
        if crc32fast::hash(&map[tables.start as usize..]) != header.checksum {
            return Err(damaged());
        }
        let sound = (0..rows.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Ok(Self {
            map,
            dimension,
            rows,
            longest,
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
        let bytes = self.dimension * 4;
        let start = |row: &u32| HEADER + *row as usize * bytes;
        arrival.bring(rows.iter().map(|row| start(row)..start(row) + bytes), stop)?;
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
        self.rows
    }

    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    pub fn row(&self, row: u32) -> &[f32] {
        let start = HEADER + row as usize * self.dimension * 4;
        bytemuck::cast_slice(&self.map[start..start + self.dimension * 4])
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
        let is_sound = crc32fast::hash(bytemuck::cast_slice(self.row(row))) == self.table::<u32>(2)[row as usize];
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
        let damaged: Vec<u32> = (0..self.rows as u32).filter(|row| !self.is_sound(*row)).collect();
        self.is_checked.store(damaged.is_empty(), Ordering::Relaxed);
        self.is_reviewed.store(true, Ordering::Relaxed);
        damaged
    }

    /// Asks for a row that is compared soon.
    #[inline]
    pub fn prefetch(&self, row: u32) {
        let start = HEADER + row as usize * self.dimension * 4;
        for offset in (0..self.dimension * 4).step_by(graph::memory::LINE) {
            kernel::prefetch(&self.map, start + offset);
        }
    }

    /// The largest Euclidean norm of a row.
    pub fn longest(&self) -> f64 {
        self.longest
    }

    pub fn inverse_norm(&self, row: u32) -> f32 {
        self.table::<f32>(0)[row as usize]
    }

    pub fn slot(&self, row: u32) -> Slot {
        self.slots()[row as usize]
    }

    pub fn slots(&self) -> &[Slot] {
        self.table(1)
    }

    /// Bytes in memory for as long as the vectors are open; the mapped file comes and goes.
    pub fn memory_bytes(&self) -> u64 {
        (self.sound.len() * 8) as u64
    }

    pub fn file_bytes(&self) -> u64 {
        self.map.len() as u64
    }

    fn table<T: bytemuck::Pod>(&self, number: usize) -> &[T] {
        let start = HEADER + (self.dimension + number) * self.rows * 4;
        bytemuck::cast_slice(&self.map[start..start + self.rows * 4])
    }
}

/// What a file begins with.
pub struct Header {
    dimension: usize,
    rows: usize,
    longest: f64,
    checksum: u32,
}

impl Header {
    /// None if it is not one.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let header = bytes.get(..HEADER)?;
        let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
        let is_whole = header[..8] == MAGIC && crc32fast::hash(&header[..HEADER - 4]) == word(HEADER - 4);
        is_whole.then(|| Self {
            dimension: number(8) as usize,
            rows: number(16) as usize,
            longest: f64::from_bits(number(24)),
            checksum: word(32),
        })
    }

    /// Where the tables of a file of so many bytes are. None if it has another length.
    pub fn tables(&self, bytes: u64) -> Option<Range<u64>> {
        let values = self.rows.checked_mul(self.dimension.checked_mul(4)?)?.checked_add(HEADER)?;
        let end = self.rows.checked_mul(TABLES * 4)?.checked_add(values)?;
        (end as u64 == bytes).then_some(values as u64..bytes)
    }
}

impl graph::Rows for Vectors {
    fn len(&self) -> usize {
        self.rows
    }

    fn dimension(&self) -> usize {
        self.dimension
    }

    fn read(&self, row: u32, into: &mut [f32]) {
        into.copy_from_slice(self.row(row));
    }
}
