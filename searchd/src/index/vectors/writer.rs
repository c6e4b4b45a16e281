//! Writing a file of vectors.

use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::path::Path;

use super::super::score;
use super::super::values::Form;
use super::header::{HEADER, Header};
use crate::engine::Slot;

/// Bytes that go to the system at once.
const BUFFER: usize = 1024 * 1024;

/// Writes a file row by row.
pub struct Writer {
    file: BufWriter<File>,
    header: Header,
    /// The row that is written.
    packed: Vec<u8>,
    inverse_norms: Vec<f32>,
    slots: Vec<Slot>,
    checksums: Vec<u32>,
}

impl Writer {
    /// Of rows that `form` holds to the last bit.
    pub fn create(path: &Path, dimension: usize, form: Form) -> io::Result<Self> {
        let mut file = BufWriter::with_capacity(BUFFER, File::create(path)?);
        file.write_all(&[0; HEADER])?;
        let header = Header { form, dimension, rows: 0, longest: 0.0, checksum: 0 };
        let (inverse_norms, slots, checksums) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { file, header, packed: Vec::new(), inverse_norms, slots, checksums })
    }

    pub fn push(&mut self, slot: Slot, values: &[f32]) -> io::Result<()> {
        self.packed.clear();
        if !self.header.form.pack(values, &mut self.packed) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a row is not of the form of the others"));
        }
        self.file.write_all(&self.packed)?;
        self.header.longest = self.header.longest.max(score::norm(values));
        self.inverse_norms.push(score::inverse_norm(values));
        self.slots.push(slot);
        self.checksums.push(crc32fast::hash(&self.packed));
        Ok(())
    }

    /// The file is durable afterwards; its name is not yet.
    pub fn finish(mut self) -> io::Result<()> {
        self.header.rows = self.slots.len();
        let gap = vec![0; self.header.gap()];
        let tables: [&[u8]; 4] = [
            &gap,
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
        self.header.checksum = hasher.finalize();
        let file = self.file.get_mut();
        file.rewind()?;
        file.write_all(&self.header.to_bytes())?;
        file.sync_all()
    }
}
