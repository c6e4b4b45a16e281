//! Ids and metadata for formats that hold numbers only: a `.jsonl` whose line i belongs to row i.
//!
//! `{"id":"a","metadata":{…}}`, either of them optional. A line without `metadata` is metadata itself, without its `id`.

use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use fs_err as fs;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

use super::{Point, jsonl};

pub(super) struct Lines {
    lines: Option<jsonl::Lines<Box<dyn BufRead + Send>>>,
    name: PathBuf,
}

/// What a line says; a row without one is known by its number.
pub(super) type Label = (String, Option<Box<RawValue>>);

impl Lines {
    /// The file that is `named`, or the one beside `array` with the ending .jsonl, or none.
    pub(super) fn beside(array: &Path, named: Option<&Path>) -> Result<Self> {
        let default = array.with_extension("jsonl");
        let path = match named {
            Some(named) => named,
            None if default.is_file() => &default,
            None => return Ok(Self { lines: None, name: default }),
        };
        let reader: Box<dyn BufRead + Send> = Box::new(BufReader::with_capacity(1 << 18, fs::File::open(path)?));
        Ok(Self { lines: Some(jsonl::Lines::new(reader)), name: path.to_owned() })
    }

    pub(super) fn embedded(lines: &'static [u8]) -> Self {
        let reader: Box<dyn BufRead + Send> = Box::new(BufReader::new(lines.take(u64::MAX)));
        Self { lines: Some(jsonl::Lines::new(reader)), name: PathBuf::from("the embedded lines") }
    }

    /// The label of `row`, which must be the next.
    pub(super) fn next(&mut self, row: u64) -> Result<Label> {
        let Some(lines) = &mut self.lines else { return Ok((row.to_string(), None)) };
        let Some(line) = lines.next()? else {
            bail!("{} ends before row {row}: it must have one line for each row", self.name.display());
        };
        let mut object: Map<String, Value> = serde_json::from_slice(line)
            .with_context(|| format!("line {} of {}", lines.number, self.name.display()))?;
        let id = match object.shift_remove("id") {
            Some(Value::String(id)) => id,
            Some(Value::Number(id)) => id.to_string(),
            Some(other) => bail!("line {} of {}: the id {other} is no text", lines.number, self.name.display()),
            None => row.to_string(),
        };
        let metadata = match object.shift_remove("metadata") {
            Some(metadata) => Some(metadata).filter(|metadata| !metadata.is_null()),
            None => Some(Value::Object(object)).filter(|rest| rest.as_object().is_some_and(|rest| !rest.is_empty())),
        };
        Ok((id, metadata.map(|metadata| to_raw_value(&metadata)).transpose()?))
    }

    pub(super) fn skip(&mut self, rows: u64) -> Result<()> {
        if let Some(lines) = &mut self.lines {
            for _ in 0..rows {
                lines.next()?;
            }
        }
        Ok(())
    }

    /// There must be no line left behind the last row.
    pub(super) fn expect_end(&mut self, rows: u64) -> Result<()> {
        let left = self.lines.as_mut().map(jsonl::Lines::next).transpose()?.flatten().is_some();
        if left {
            bail!("{} has more lines than the {rows} rows", self.name.display());
        }
        Ok(())
    }
}

/// Writes what [`Lines`] reads.
pub(super) struct Writer {
    file: BufWriter<fs::File>,
}

impl Writer {
    pub(super) fn beside(array: &Path) -> Result<Self> {
        Ok(Self { file: BufWriter::with_capacity(1 << 18, fs::File::create(array.with_extension("jsonl"))?) })
    }

    pub(super) fn write(&mut self, point: &Point) -> Result<()> {
        #[derive(serde::Serialize)]
        struct Line<'a> {
            id: &'a str,
            metadata: Option<&'a RawValue>,
            #[serde(skip_serializing_if = "Option::is_none")]
            version: Option<u64>,
        }

        let line = Line { id: &point.id, metadata: point.metadata.as_deref(), version: point.version };
        serde_json::to_writer(&mut self.file, &line)?;
        Ok(self.file.write_all(b"\n")?)
    }

    pub(super) fn finish(mut self) -> Result<()> {
        Ok(self.file.flush()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(lines: &'static str) -> Vec<(String, Option<String>)> {
        let mut sidecar = Lines::embedded(lines.as_bytes());
        let rows = 0..lines.lines().count() as u64;
        let label = |row| sidecar.next(row).expect("a label");
        rows.map(label).map(|(id, metadata)| (id, metadata.map(|m| m.get().to_owned()))).collect()
    }

    #[test]
    fn a_line_has_an_id_or_metadata_or_is_metadata() {
        let lines =
            "{\"id\":\"a\",\"metadata\":{\"x\":1}}\n{\"id\":\"b\"}\n{\"x\":1,\"y\":[2]}\n{\"id\":7,\"x\":1}\n{}";
        let text = |text: &str| Some(text.to_owned());
        let expected = [
            ("a".to_owned(), text("{\"x\":1}")),
            ("b".to_owned(), None),
            ("2".to_owned(), text("{\"x\":1,\"y\":[2]}")),
            ("7".to_owned(), text("{\"x\":1}")),
            ("4".to_owned(), None),
        ];
        assert_eq!(labels(lines), expected);
    }

    #[test]
    fn lines_and_rows_must_be_as_many() {
        let mut sidecar = Lines::embedded(b"{}\n{}\n");
        sidecar.next(0).expect("the first");
        sidecar.expect_end(1).expect_err("one line too many");
        sidecar.next(2).expect_err("one line too few");
    }
}
