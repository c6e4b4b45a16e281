//! What a file of vectors begins with.

use std::ops::Range;

use super::super::values::Form;

/// The name, without the version.
const NAME: [u8; 7] = *b"NFVEC\0\0";
/// Files of floats, as all were before there were other forms: searchds of then read them, too.
const FLOATS: u8 = 2;
/// Files that say which form their values have.
const FORMS: u8 = 3;
pub const HEADER: usize = 64;
/// Numbers of a row that are kept in tables.
const TABLES: usize = 3;
/// What tables begin on a multiple of.
const ALIGNED: usize = size_of::<u32>();

pub struct Header {
    pub(super) form: Form,
    pub(super) dimension: usize,
    pub(super) rows: usize,
    /// The largest Euclidean norm of a row.
    pub(super) longest: f64,
    /// CRC-32 of all that comes after the values.
    pub(super) checksum: u32,
}

impl Header {
    /// None if it is not one.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let header = bytes.get(..HEADER)?;
        let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
        if header[..NAME.len()] != NAME || crc32fast::hash(&header[..HEADER - 4]) != word(HEADER - 4) {
            return None;
        }
        let form = match header[NAME.len()] {
            FLOATS => Form::Floats,
            FORMS => Form::from_number(word(36))?,
            _ => return None,
        };
        let longest = f64::from_bits(number(24));
        Some(Self { form, dimension: number(8) as usize, rows: number(16) as usize, longest, checksum: word(32) })
    }

    pub(super) fn to_bytes(&self) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[..NAME.len()].copy_from_slice(&NAME);
        header[NAME.len()] = if self.form == Form::Floats { FLOATS } else { FORMS };
        header[8..16].copy_from_slice(&(self.dimension as u64).to_le_bytes());
        header[16..24].copy_from_slice(&(self.rows as u64).to_le_bytes());
        header[24..32].copy_from_slice(&self.longest.to_le_bytes());
        header[32..36].copy_from_slice(&self.checksum.to_le_bytes());
        header[36..40].copy_from_slice(&(self.form as u32).to_le_bytes());
        let checksum = crc32fast::hash(&header[..HEADER - 4]);
        header[HEADER - 4..].copy_from_slice(&checksum.to_le_bytes());
        header
    }

    /// Bytes of a row's values.
    pub(super) fn row_bytes(&self) -> usize {
        self.dimension * self.form.bytes()
    }

    /// Where in the file a row's values are.
    #[inline]
    pub(super) fn row(&self, row: u32) -> Range<usize> {
        let start = HEADER + row as usize * self.row_bytes();
        start..start + self.row_bytes()
    }

    /// Zeros between the values and the tables.
    pub(super) fn gap(&self) -> usize {
        let values = self.rows * self.row_bytes();
        values.next_multiple_of(ALIGNED) - values
    }

    /// Where the table of this number is.
    pub(super) fn table(&self, number: usize) -> Range<usize> {
        let bytes = self.rows * ALIGNED;
        let start = HEADER + self.rows * self.row_bytes() + self.gap() + number * bytes;
        start..start + bytes
    }

    /// Where the tables of a file of so many bytes are, and the gap before them. None if it has another length.
    pub fn tables(&self, bytes: u64) -> Option<Range<u64>> {
        let values = self.rows.checked_mul(self.dimension.checked_mul(self.form.bytes())?)?;
        let start = values.checked_add(HEADER)?;
        let end = values.checked_next_multiple_of(ALIGNED)?.checked_add(self.rows.checked_mul(TABLES * ALIGNED)?)?;
        (end.checked_add(HEADER)? as u64 == bytes).then_some(start as u64..bytes)
    }
}
