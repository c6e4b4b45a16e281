//! JSON lines: `{"id":"a","values":[…],"metadata":{…}}` each, the vector as numbers or as base64. What `nearfield export`
//! and `GET /api/v1/export` write is read back; members of other names are passed over.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use fs_err as fs;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Point, Sink, Source, Values};

/// A vector of the largest dimension and the largest metadata fit several times over.
pub(super) const MAX_LINE_BYTES: u64 = 1 << 20;

#[derive(Deserialize)]
struct Line {
    id: String,
    values: Values,
    metadata: Option<Box<RawValue>>,
    version: Option<u64>,
}

/// Parses one line.
pub fn parse(line: &[u8]) -> Result<Point> {
    let Line { id, values, metadata, version } = serde_json::from_slice(line)?;
    Ok(Point { id, values: values.0, metadata, version })
}

/// Lines of bounded length, without blank ones.
pub(super) struct Lines<R> {
    reader: R,
    line: Vec<u8>,
    /// Of the last line, from 1.
    pub(super) number: u64,
    /// Up to the end of the last line.
    bytes: u64,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, line: Vec::new(), number: 0, bytes: 0 }
    }

    pub(super) fn next(&mut self) -> Result<Option<&[u8]>> {
        loop {
            self.line.clear();
            let mut bounded = std::io::Read::take(&mut self.reader, MAX_LINE_BYTES);
            let read = bounded.read_until(b'\n', &mut self.line)? as u64;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            self.bytes += read;
            if read == MAX_LINE_BYTES && !self.line.ends_with(b"\n") {
                bail!("line {} is longer than {MAX_LINE_BYTES} bytes", self.number);
            }
            if !self.line.trim_ascii().is_empty() {
                return Ok(Some(self.line.trim_ascii()));
            }
        }
    }
}

pub(super) struct Reader {
    lines: Lines<BufReader<fs::File>>,
    /// The first point, read ahead for its dimension.
    first: Option<Point>,
    dimension: Option<usize>,
    points: u64,
    size: u64,
}

impl Reader {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = fs::File::open(path)?;
        let size = file.metadata()?.len();
        let lines = Lines::new(BufReader::with_capacity(1 << 18, file));
        let mut reader = Self { lines, first: None, dimension: None, points: 0, size };
        reader.first = reader.read()?;
        reader.dimension = reader.first.as_ref().map(|point| point.values.len());
        Ok(reader)
    }

    fn read(&mut self) -> Result<Option<Point>> {
        let Some(line) = self.lines.next()? else { return Ok(None) };
        let point = parse(line);
        self.points += 1;
        point.with_context(|| self.place()).map(Some)
    }
}

impl Source for Reader {
    fn next(&mut self) -> Result<Option<Point>> {
        match self.first.take() {
            Some(first) => Ok(Some(first)),
            None => self.read(),
        }
    }

    fn skip(&mut self, points: u64) -> Result<()> {
        for _ in 0..points {
            if self.first.take().is_none() {
                self.lines.next()?;
                self.points += 1;
            }
        }
        Ok(())
    }

    fn dimension(&self) -> Option<usize> {
        self.dimension
    }

    /// From the length of the lines so far.
    fn total(&self) -> Option<u64> {
        let share = self.lines.bytes as f64 / self.size as f64;
        (self.points > 0).then(|| (self.points as f64 / share).round() as u64)
    }

    fn place(&self) -> String {
        format!("line {}", self.lines.number)
    }
}

pub(super) struct Writer<W: Write> {
    out: BufWriter<W>,
}

impl Writer<fs::File> {
    pub(super) fn create(path: &Path) -> Result<Self> {
        Ok(Self::new(fs::File::create(path)?))
    }
}

impl<W: Write> Writer<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out: BufWriter::with_capacity(1 << 18, out) }
    }
}

impl<W: Write + Send> Sink for Writer<W> {
    fn write(&mut self, point: &Point) -> Result<()> {
        #[derive(Serialize)]
        struct Line<'a> {
            id: &'a str,
            values: &'a [f32],
            #[serde(skip_serializing_if = "Option::is_none")]
            metadata: Option<&'a RawValue>,
            #[serde(skip_serializing_if = "Option::is_none")]
            version: Option<u64>,
        }

        let line =
            Line { id: &point.id, values: &point.values, metadata: point.metadata.as_deref(), version: point.version };
        serde_json::to_writer(&mut self.out, &line)?;
        Ok(self.out.write_all(b"\n")?)
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        Ok(self.out.flush()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_is_numbers_or_base64() {
        let numbers = parse(br#"{"id":"a","values":[1,-0.5,3e-2]}"#).expect("numbers");
        let base64 =
            parse(br#"{"id":"a","values":"AACAPwAAAL+PwvU8","metadata":{"n":12345678901234567890}}"#).expect("base64");
        assert_eq!(numbers.values, base64.values);
        assert_eq!(base64.metadata.expect("it is there").get(), r#"{"n":12345678901234567890}"#);
        for wrong in [r#"{"id":"a"}"#, r#"{"values":[1]}"#, r#"{"id":"a","values":"AAA="}"#, r#"{"id":"a","values":7}"#]
        {
            parse(wrong.as_bytes()).expect_err(wrong);
        }
    }

    #[test]
    fn an_error_says_which_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.jsonl");
        fs::write(&path, "{\"id\":\"a\",\"values\":[1]}\n\n  \n{\"id\":\"b\",\"values\":[1,}\n")
            .expect("it is written");
        let mut reader = Reader::open(&path).expect("the first line is good");
        assert_eq!(reader.dimension(), Some(1));
        assert_eq!(reader.next().expect("good").expect("there").id, "a");
        let error = reader.next().expect_err("the comma");
        assert!(error.to_string().contains("line 4"), "{error}");
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_fills_the_memory() {
        let endless = BufReader::new(std::io::repeat(b'x'));
        let error = Lines::new(endless).next().expect_err("too long");
        assert!(error.to_string().contains("line 1"), "{error}");
    }
}
