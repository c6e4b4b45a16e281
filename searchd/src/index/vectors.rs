//! The file with a segment's vectors in full precision, mapped into memory.
//!
//! | bytes | what |
//! | --- | --- |
//! | 64 | header: magic, dimension, rows, longest norm, CRC32 |
//! | rows × dimension × 4 | values, f32 |
//! | rows × 4 | 1 / norm of each row, f32 |
//! | rows × 4 | the slot of each row, u32 |
//!
//! All numbers are little-endian.

use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::path::Path;

use memmap2::Mmap;

use super::graph::Rows;
use super::score;
use crate::engine::Slot;

const MAGIC: [u8; 8] = *b"NFVEC\0\0\x01";
const HEADER: usize = 64;

pub struct Vectors {
    map: Mmap,
    dimension: usize,
    rows: usize,
    longest: f64,
}

/// Writes a file row by row.
pub struct Writer {
    file: BufWriter<File>,
    dimension: usize,
    inverse_norms: Vec<f32>,
    slots: Vec<Slot>,
    longest: f64,
}

impl Writer {
    pub fn create(path: &Path, dimension: usize) -> io::Result<Self> {
        let mut file = BufWriter::with_capacity(1024 * 1024, File::create(path)?);
        file.write_all(&[0; HEADER])?;
        Ok(Self { file, dimension, inverse_norms: Vec::new(), slots: Vec::new(), longest: 0.0 })
    }

    pub fn push(&mut self, slot: Slot, values: &[f32]) -> io::Result<()> {
        self.file.write_all(bytemuck::cast_slice(values))?;
        self.longest = self.longest.max(score::norm(values));
        self.inverse_norms.push(score::inverse_norm(values));
        self.slots.push(slot);
        Ok(())
    }

    /// The file is durable afterwards; its name is not yet.
    pub fn finish(mut self) -> io::Result<()> {
        self.file.write_all(bytemuck::cast_slice(&self.inverse_norms))?;
        self.file.write_all(bytemuck::cast_slice(&self.slots))?;
        self.file.flush()?;
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&MAGIC);
        header[8..16].copy_from_slice(&(self.dimension as u64).to_le_bytes());
        header[16..24].copy_from_slice(&(self.slots.len() as u64).to_le_bytes());
        header[24..32].copy_from_slice(&self.longest.to_le_bytes());
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
        let header = map.get(..HEADER).ok_or_else(damaged)?;
        let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        let crc = u32::from_le_bytes(header[HEADER - 4..].try_into().expect("four bytes"));
        if header[..8] != MAGIC || crc32fast::hash(&header[..HEADER - 4]) != crc {
            return Err(damaged());
        }
        let (dimension, rows, longest) = (number(8) as usize, number(16) as usize, f64::from_bits(number(24)));
        if rows.checked_mul((dimension + 2) * 4).and_then(|bytes| bytes.checked_add(HEADER)) != Some(map.len()) {
            return Err(damaged());
        }
        Ok(Self { map, dimension, rows, longest })
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

    pub fn file_bytes(&self) -> u64 {
        self.map.len() as u64
    }

    fn table<T: bytemuck::Pod>(&self, number: usize) -> &[T] {
        let start = HEADER + (self.dimension + number) * self.rows * 4;
        bytemuck::cast_slice(&self.map[start..start + self.rows * 4])
    }
}

impl Rows for Vectors {
    fn len(&self) -> usize {
        self.rows
    }

    fn row(&self, row: u32) -> &[f32] {
        let start = HEADER + row as usize * self.dimension * 4;
        bytemuck::cast_slice(&self.map[start..start + self.dimension * 4])
    }

    fn longest(&self) -> f64 {
        self.longest
    }
}
