//! The files that points come from and go to: `.jsonl`, `.npy`, `.fvecs` and `.parquet`.
//!
//! A [`Source`] reads one point after the other and a [`Sink`] writes them, so that memory does not grow with the file.

mod fvecs;
mod jsonl;
mod npy;
mod parquet;
mod sidecar;

use std::path::Path;

use anyhow::{Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, de};
use serde_json::value::RawValue;

pub use jsonl::parse as parse_line;
pub use parquet::Columns;

/// The dimensions that the product takes; a file that claims more is not what it seems.
pub const MAX_DIMENSION: usize = 4096;

/// A point as it stands in a file.
#[derive(Debug)]
pub struct Point {
    pub id: String,
    pub values: Vec<f32>,
    /// A JSON object, in its own text.
    pub metadata: Option<Box<RawValue>>,
    pub version: Option<u64>,
}

/// Reads points, in the order of the file.
pub trait Source: Send {
    /// The next point; None behind the last.
    fn next(&mut self) -> Result<Option<Point>>;

    /// Passes over the next `points` without looking at them.
    fn skip(&mut self, points: u64) -> Result<()>;

    /// Numbers a vector; None for a file without a point.
    fn dimension(&self) -> Option<usize>;

    /// How many points there are, or about.
    fn total(&self) -> Option<u64>;

    /// Where the point that was read last stands, for a person: `line 17`, `row 16`.
    fn place(&self) -> String;
}

/// Writes points.
pub trait Sink: Send {
    fn write(&mut self, point: &Point) -> Result<()>;

    /// Writes what is left. Without this the file is not whole.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// What a person may say about a file besides its name.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Hints {
    /// Ids and metadata for an .npy or .fvecs file, a line each: {"id":"a","metadata":{…}}. The default is FILE with the
    /// ending .jsonl, where there is one; without it a point's id is the number of its row
    #[arg(long)]
    pub metadata: Option<std::path::PathBuf>,
    #[command(flatten)]
    pub columns: Columns,
}

/// Opens a file by the ending of its name.
pub fn open(path: &Path, hints: &Hints) -> Result<Box<dyn Source>> {
    if !path.is_file() {
        bail!("there is no file {}", path.display());
    }
    Ok(match ending(path) {
        "jsonl" | "ndjson" => Box::new(jsonl::Reader::open(path)?),
        "npy" => Box::new(npy::Reader::open(path, sidecar::Lines::beside(path, hints.metadata.as_deref())?)?),
        "fvecs" => Box::new(fvecs::Reader::open(path, sidecar::Lines::beside(path, hints.metadata.as_deref())?)?),
        "parquet" => Box::new(parquet::Reader::open(path, &hints.columns)?),
        other => return unknown(other),
    })
}

/// An .npy file that is in memory, with its lines of ids and metadata.
pub fn embedded(npy: &'static [u8], lines: &'static [u8]) -> Result<Box<dyn Source>> {
    Ok(Box::new(npy::Reader::embedded(npy, sidecar::Lines::embedded(lines))?))
}

/// Creates a file by the ending of its name. `.npy` and `.fvecs` get their ids and metadata in a `.jsonl` beside.
pub fn create(path: &Path) -> Result<Box<dyn Sink>> {
    Ok(match ending(path) {
        "jsonl" | "ndjson" => Box::new(jsonl::Writer::create(path)?),
        "npy" => Box::new(npy::Writer::create(path)?),
        "fvecs" => Box::new(fvecs::Writer::create(path)?),
        "parquet" => Box::new(parquet::Writer::create(path)?),
        other => return unknown(other),
    })
}

/// JSON lines to standard output.
pub fn stdout() -> Box<dyn Sink> {
    Box::new(jsonl::Writer::new(std::io::stdout()))
}

fn ending(path: &Path) -> &str {
    path.extension().and_then(|ending| ending.to_str()).unwrap_or_default()
}

fn unknown<T>(ending: &str) -> Result<T> {
    bail!("a name that ends with .jsonl, .npy, .fvecs or .parquet is expected, not with {ending:?}")
}

/// A vector in JSON: an array of numbers, or base64 of little-endian f32.
struct Values(Vec<f32>);

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Values;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an array of numbers, or base64 of little-endian f32")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut numbers: A) -> Result<Values, A::Error> {
                let mut values = Vec::with_capacity(numbers.size_hint().unwrap_or(0));
                while let Some(value) = numbers.next_element()? {
                    values.push(value);
                }
                Ok(Values(values))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Values, E> {
                let bytes = STANDARD.decode(text).map_err(E::custom)?;
                if bytes.len() % 4 != 0 {
                    return Err(E::custom(format!("{} bytes are no whole number of f32", bytes.len())));
                }
                Ok(Values(from_le_bytes(&bytes)))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// Little-endian f32; a remainder of under four bytes is left out.
fn from_le_bytes(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn to_le_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The exact text of a vector for JSON: base64 of little-endian f32.
pub fn to_base64(values: &[f32]) -> String {
    STANDARD.encode(to_le_bytes(values))
}
