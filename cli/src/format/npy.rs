//! NumPy's array files: two dimensions, C order, numbers of f16, f32, f64, u8 or i8.
//! <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>

use std::io::{BufReader, BufWriter, Cursor, Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use fs_err as fs;

use super::sidecar::{self, Lines};
use super::{MAX_DIMENSION, Point, Sink, Source, to_le_bytes};

const MAGIC: &[u8] = b"\x93NUMPY";
const MAX_HEADER_BYTES: usize = 64 << 10;
/// Of what is written: room for any number of rows, and the data begins at a multiple of 64 bytes.
const HEADER_BYTES: usize = 128;

/// The type of the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scalar {
    F16,
    F32,
    F64,
    I8,
    U8,
}

impl Scalar {
    fn parse(descr: &str) -> Result<Self> {
        Ok(match descr {
            "<f2" => Self::F16,
            "<f4" => Self::F32,
            "<f8" => Self::F64,
            "|i1" => Self::I8,
            "|u1" => Self::U8,
            other => bail!("numbers of the type {other:?} are not read: f16, f32, f64 (little-endian), i8 and u8 are"),
        })
    }

    fn bytes(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
            Self::I8 | Self::U8 => 1,
        }
    }

    fn decode(self, row: &[u8]) -> Vec<f32> {
        match self {
            Self::F16 => row.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            Self::F32 => super::from_le_bytes(row),
            Self::F64 => row.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
            Self::I8 => row.iter().map(|b| f32::from(b.cast_signed())).collect(),
            Self::U8 => row.iter().map(|b| f32::from(*b)).collect(),
        }
    }
}

/// What the header says.
#[derive(Debug, PartialEq, Eq)]
struct Shape {
    scalar: Scalar,
    rows: u64,
    dimension: usize,
    data: u64,
}

impl Shape {
    fn read(reader: &mut impl Read) -> Result<Self> {
        let mut start = [0; 8];
        reader.read_exact(&mut start).context("this is no .npy file")?;
        if &start[..6] != MAGIC {
            bail!("this is no .npy file");
        }
        let (length, prefix) = match start[6] {
            1 => {
                let mut length = [0; 2];
                reader.read_exact(&mut length)?;
                (usize::from(u16::from_le_bytes(length)), 10)
            }
            2 | 3 => {
                let mut length = [0; 4];
                reader.read_exact(&mut length)?;
                (u32::from_le_bytes(length) as usize, 12)
            }
            other => bail!("version {other} of the .npy format is not known"),
        };
        if length > MAX_HEADER_BYTES {
            bail!("the header has {length} bytes");
        }
        let mut header = vec![0; length];
        reader.read_exact(&mut header).context("the header is cut off")?;
        let header = String::from_utf8(header).context("the header is no text")?;
        Self::parse(&header, (prefix + length) as u64).with_context(|| format!("the header {:?}", header.trim_end()))
    }

    /// A Python dictionary with just these three members:
    /// `{'descr': '<f4', 'fortran_order': False, 'shape': (60000, 784), }`.
    fn parse(header: &str, data: u64) -> Result<Self> {
        let member = |name: &str| {
            let rest = header.split_once(&format!("'{name}':")).map(|(_, rest)| rest.trim_start());
            rest.with_context(|| format!("it has no {name}"))
        };
        let descr = member("descr")?;
        let descr = descr.strip_prefix('\'').and_then(|rest| rest.split('\'').next());
        let scalar = Scalar::parse(descr.context("structures are not read")?)?;
        if !member("fortran_order")?.starts_with("False") {
            bail!("the array is in Fortran's order: save numpy.ascontiguousarray of it");
        }
        let shape = member("shape")?.strip_prefix('(').and_then(|rest| rest.split_once(')'));
        let sizes = shape.context("it has no shape")?.0.split(',').map(str::trim).filter(|size| !size.is_empty());
        let sizes = sizes.map(str::parse::<u64>).collect::<Result<Vec<_>, _>>().context("its shape is no numbers")?;
        let [rows, dimension] = sizes[..] else {
            bail!("the array has {} dimensions, not two: a row is a vector", sizes.len());
        };
        let dimension = usize::try_from(dimension).unwrap_or(usize::MAX);
        if dimension == 0 || dimension > MAX_DIMENSION {
            bail!("a row has {dimension} numbers, not 1 to {MAX_DIMENSION}");
        }
        Ok(Self { scalar, rows, dimension, data })
    }

    fn row_bytes(&self) -> usize {
        self.dimension * self.scalar.bytes()
    }
}

trait ReadSeek: Read + Seek + Send {}

impl<T: Read + Seek + Send> ReadSeek for T {}

pub(super) struct Reader {
    file: Box<dyn ReadSeek>,
    shape: Shape,
    /// The row to read next.
    row: u64,
    labels: Lines,
}

impl Reader {
    pub(super) fn open(path: &Path, labels: Lines) -> Result<Self> {
        let file = fs::File::open(path)?;
        let bytes = file.metadata()?.len();
        let reader = Box::new(BufReader::with_capacity(1 << 18, file));
        Self::new(reader, bytes, labels).with_context(|| path.display().to_string())
    }

    pub(super) fn embedded(npy: &'static [u8], labels: Lines) -> Result<Self> {
        Self::new(Box::new(Cursor::new(npy)), npy.len() as u64, labels)
    }

    fn new(mut file: Box<dyn ReadSeek>, bytes: u64, labels: Lines) -> Result<Self> {
        let shape = Shape::read(&mut file)?;
        let needed = shape.rows.checked_mul(shape.row_bytes() as u64).and_then(|data| data.checked_add(shape.data));
        if needed.is_none_or(|needed| bytes < needed) {
            bail!("the file has {bytes} bytes, too few for {} rows of {} numbers", shape.rows, shape.dimension);
        }
        Ok(Self { file, shape, row: 0, labels })
    }
}

impl Source for Reader {
    fn next(&mut self) -> Result<Option<Point>> {
        if self.row >= self.shape.rows {
            self.labels.expect_end(self.shape.rows)?;
            return Ok(None);
        }
        let mut row = vec![0; self.shape.row_bytes()];
        self.file.read_exact(&mut row)?;
        let (id, metadata) = self.labels.next(self.row)?;
        self.row += 1;
        Ok(Some(Point { id, values: self.shape.scalar.decode(&row), metadata, version: None }))
    }

    fn skip(&mut self, points: u64) -> Result<()> {
        self.row = self.row.saturating_add(points).min(self.shape.rows);
        self.file.seek(SeekFrom::Start(self.shape.data + self.row * self.shape.row_bytes() as u64))?;
        self.labels.skip(points)
    }

    fn dimension(&self) -> Option<usize> {
        Some(self.shape.dimension)
    }

    fn total(&self) -> Option<u64> {
        Some(self.shape.rows)
    }

    fn place(&self) -> String {
        format!("row {}", self.row.saturating_sub(1))
    }
}

/// f32, with ids and metadata in the `.jsonl` beside.
pub(super) struct Writer {
    array: BufWriter<fs::File>,
    labels: sidecar::Writer,
    rows: u64,
    dimension: Option<usize>,
}

impl Writer {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let mut array = BufWriter::with_capacity(1 << 18, fs::File::create(path)?);
        // The number of rows is known at the end; the header is written then.
        array.write_all(&[0; HEADER_BYTES])?;
        Ok(Self { array, labels: sidecar::Writer::beside(path)?, rows: 0, dimension: None })
    }

    fn header(&self) -> Vec<u8> {
        let dimension = self.dimension.unwrap_or(0);
        let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {dimension}), }}", self.rows);
        let length = HEADER_BYTES - 10;
        let mut header = [MAGIC, &[1, 0], &(length as u16).to_le_bytes()].concat();
        header.extend(format!("{text:<width$}\n", width = length - 1).bytes());
        header
    }
}

impl Sink for Writer {
    fn write(&mut self, point: &Point) -> Result<()> {
        let dimension = *self.dimension.get_or_insert(point.values.len());
        if dimension != point.values.len() {
            bail!("the point {:?} has {} numbers, those before it {dimension}", point.id, point.values.len());
        }
        self.rows += 1;
        self.array.write_all(&to_le_bytes(&point.values))?;
        self.labels.write(point)
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        let header = self.header();
        self.array.seek(SeekFrom::Start(0))?;
        self.array.write_all(&header)?;
        self.array.flush()?;
        self.labels.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(header: &str) -> Result<Shape> {
        Shape::parse(header, 128)
    }

    #[test]
    fn headers_as_numpy_writes_them() {
        let shape = parse("{'descr': '<f4', 'fortran_order': False, 'shape': (60000, 784), }   \n").expect("a header");
        assert_eq!(shape, Shape { scalar: Scalar::F32, rows: 60000, dimension: 784, data: 128 });
        for (wrong, says) in [
            ("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }", "Fortran"),
            ("{'descr': '>f4', 'fortran_order': False, 'shape': (2, 3), }", ">f4"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", "1 dimensions"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 0), }", "0 numbers"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 99999999999), }", "99999999999"),
            ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2, 3), }", "structures"),
            ("{'fortran_order': False, 'shape': (2, 3), }", "no descr"),
        ] {
            let error = parse(wrong).expect_err(wrong).to_string();
            assert!(error.contains(says), "{wrong}: {error}");
        }
    }

    #[test]
    fn every_scalar_becomes_f32() {
        let f16 = half::f16::from_f32(-1.5).to_le_bytes();
        assert_eq!(Scalar::F16.decode(&f16), [-1.5]);
        assert_eq!(Scalar::F64.decode(&0.1f64.to_le_bytes()), [0.1f32]);
        assert_eq!(Scalar::I8.decode(&[0xff, 0x7f]), [-1.0, 127.0]);
        assert_eq!(Scalar::U8.decode(&[0, 255]), [0.0, 255.0]);
    }

    #[test]
    fn a_file_that_is_cut_off_is_refused_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.npy");
        let mut writer = Box::new(Writer::create(&path).expect("it is created"));
        let point = Point { id: "a".to_owned(), values: vec![1.0, 2.0], metadata: None, version: None };
        writer.write(&point).expect("it is written");
        writer.finish().expect("it is whole");
        let whole = fs::read(&path).expect("it is there");
        fs::write(&path, &whole[..whole.len() - 1]).expect("it is written");
        let error = Reader::open(&path, Lines::embedded(b"")).err().expect("one byte is missing");
        assert!(format!("{error:#}").contains("too few for 1 rows"), "{error:#}");
    }
}
