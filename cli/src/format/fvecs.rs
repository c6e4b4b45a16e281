//! The vectors of the TEXMEX corpora: each an i32 that says how many, and as many f32, little-endian.
//! <http://corpus-texmex.irisa.fr/>

use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use fs_err as fs;

use super::sidecar::{self, Lines};
use super::{MAX_DIMENSION, Point, Sink, Source, from_le_bytes, to_le_bytes};

pub(super) struct Reader {
    file: BufReader<fs::File>,
    dimension: Option<usize>,
    rows: u64,
    /// The row to read next.
    row: u64,
    labels: Lines,
}

impl Reader {
    pub(super) fn open(path: &Path, labels: Lines) -> Result<Self> {
        let file = fs::File::open(path)?;
        let bytes = file.metadata()?.len();
        let mut file = BufReader::with_capacity(1 << 18, file);
        if bytes == 0 {
            return Ok(Self { file, dimension: None, rows: 0, row: 0, labels });
        }
        let dimension = read_dimension(&mut file).with_context(|| path.display().to_string())?;
        file.rewind()?;
        let row = row_bytes(dimension);
        if !bytes.is_multiple_of(row) {
            bail!("{}: {bytes} bytes are no whole number of vectors of {dimension} numbers", path.display());
        }
        Ok(Self { file, dimension: Some(dimension), rows: bytes / row, row: 0, labels })
    }
}

fn row_bytes(dimension: usize) -> u64 {
    4 + 4 * dimension as u64
}

fn read_dimension(file: &mut impl Read) -> Result<usize> {
    let mut bytes = [0; 4];
    file.read_exact(&mut bytes).context("this is no .fvecs file")?;
    let dimension = i32::from_le_bytes(bytes);
    match usize::try_from(dimension) {
        Ok(dimension @ 1..=MAX_DIMENSION) => Ok(dimension),
        _ => bail!("a vector of {dimension} numbers, not 1 to {MAX_DIMENSION}: this is no .fvecs file"),
    }
}

impl Source for Reader {
    fn next(&mut self) -> Result<Option<Point>> {
        let Some(dimension) = self.dimension.filter(|_| self.row < self.rows) else {
            self.labels.expect_end(self.rows)?;
            return Ok(None);
        };
        let here = read_dimension(&mut self.file).with_context(|| format!("row {}", self.row))?;
        if here != dimension {
            bail!("row {} has {here} numbers, those before it {dimension}", self.row);
        }
        let mut row = vec![0; 4 * dimension];
        self.file.read_exact(&mut row)?;
        let (id, metadata) = self.labels.next(self.row)?;
        self.row += 1;
        Ok(Some(Point { id, values: from_le_bytes(&row), metadata, version: None }))
    }

    fn skip(&mut self, points: u64) -> Result<()> {
        self.row = self.row.saturating_add(points).min(self.rows);
        self.file.seek(SeekFrom::Start(self.row * self.dimension.map_or(0, row_bytes)))?;
        self.labels.skip(points)
    }

    fn dimension(&self) -> Option<usize> {
        self.dimension
    }

    fn total(&self) -> Option<u64> {
        Some(self.rows)
    }

    fn place(&self) -> String {
        format!("row {}", self.row.saturating_sub(1))
    }
}

/// Vectors, with ids and metadata in the `.jsonl` beside.
pub(super) struct Writer {
    file: BufWriter<fs::File>,
    labels: sidecar::Writer,
}

impl Writer {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file = BufWriter::with_capacity(1 << 18, fs::File::create(path)?);
        Ok(Self { file, labels: sidecar::Writer::beside(path)? })
    }
}

impl Sink for Writer {
    fn write(&mut self, point: &Point) -> Result<()> {
        let dimension = i32::try_from(point.values.len()).context("too many numbers")?;
        self.file.write_all(&dimension.to_le_bytes())?;
        self.file.write_all(&to_le_bytes(&point.values))?;
        self.labels.write(point)
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.file.flush()?;
        self.labels.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(bytes: &[u8]) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.fvecs");
        fs::write(&path, bytes).expect("it is written");
        let outcome = Reader::open(&path, Lines::embedded(b"{}\n{}\n")).and_then(|mut reader| {
            while reader.next()?.is_some() {}
            Ok(())
        });
        format!("{:#}", outcome.expect_err("a wrong file"))
    }

    #[test]
    fn what_is_no_fvecs_file_is_refused() {
        assert!(error(b"ab").contains("no .fvecs"));
        assert!(error(&[0; 8]).contains("0 numbers"));
        assert!(error(&[1, 0, 0, 0, 0, 0, 0]).contains("no whole number"));
        let two = [&1i32.to_le_bytes()[..], &[0; 4], &2i32.to_le_bytes(), &[0; 4]].concat();
        assert!(error(&two).contains("row 1 has 2 numbers"));
    }
}
