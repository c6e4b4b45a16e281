//! A folder of described texts: `base.f16.npy` and `queries.f16.npy` (C order, little-endian), `metadata.jsonl.gz` with
//! one JSON object for each row of the base.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use async_compression::tokio::bufread::GzipDecoder;
use half::f16;
use serde_json::{Map, Value};
use tokio::io::AsyncReadExt;

pub(crate) struct Texts {
    pub(crate) dimension: usize,
    pub(crate) rows: Vec<Vec<f32>>,
    pub(crate) queries: Vec<Vec<f32>>,
    pub(crate) metadata: Vec<Map<String, Value>>,
}

impl Texts {
    pub(crate) async fn load(folder: &Path) -> Result<Self> {
        let rows = matrix(&folder.join("base.f16.npy"))?;
        let queries = matrix(&folder.join("queries.f16.npy"))?;
        let file = folder.join("metadata.jsonl.gz");
        let mut lines = String::new();
        GzipDecoder::new(&fs_err::read(&file)?[..]).read_to_string(&mut lines).await?;
        let metadata = lines.lines().map(serde_json::from_str).collect::<Result<Vec<_>, _>>()?;
        ensure!(metadata.len() == rows.len(), "{} has another number of lines than there are rows", file.display());
        let dimension = rows.first().map_or(0, Vec::len);
        Ok(Self { dimension, rows, queries, metadata })
    }
}

/// The rows of an f16 matrix in NumPy's format, version 1.
fn matrix(path: &Path) -> Result<Vec<Vec<f32>>> {
    let bytes = fs_err::read(path)?;
    ensure!(bytes.len() > 10 && bytes.starts_with(b"\x93NUMPY\x01"), "{} is no .npy file", path.display());
    let end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let head = std::str::from_utf8(bytes.get(10..end).context("a head")?)?;
    ensure!(head.contains("'<f2'") && head.contains("False"), "{} holds no rows of f16", path.display());
    let shape = head.split_once('(').and_then(|(_, rest)| rest.split_once(')')).context("a shape")?.0;
    let columns: usize = shape.split(',').nth(1).context("two dimensions")?.trim().parse()?;
    let values = bytes[end..].chunks_exact(2).map(|two| f16::from_le_bytes([two[0], two[1]]).to_f32());
    Ok(values.collect::<Vec<_>>().chunks_exact(columns).map(<[f32]>::to_vec).collect())
}
