//! Data sets with their exact answers.

use std::path::Path;

use anyhow::{Context, Result};
use half::f16;
use nearfield_searchd::graph::{Metric, Rows};

/// Most queries of a data set that are asked.
const QUERIES: usize = 2_000;

/// A data set; rows and queries of cosine are of length one.
pub(crate) struct Data {
    pub metric: Metric,
    pub dimension: usize,
    pub base: Vec<f32>,
    pub halves: Vec<f16>,
    pub queries: Vec<f32>,
    pub nearest: Vec<i32>,
    /// Nearest rows listed for each query.
    pub truth: usize,
}

impl Data {
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let is_bytes = folder.join("base.u8.npy").exists();
        let (metric, kind) = if is_bytes { (Metric::Euclidean, "u8") } else { (Metric::Cosine, "f16") };
        let (dimension, mut base) = read_floats(&folder.join(format!("base.{kind}.npy")))?;
        let (_, mut queries) = read_floats(&folder.join(format!("queries.{kind}.npy")))?;
        queries.truncate(QUERIES * dimension);
        if metric == Metric::Cosine {
            for row in base.chunks_exact_mut(dimension).chain(queries.chunks_exact_mut(dimension)) {
                let length = row.iter().map(|value| value * value).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
                row.iter_mut().for_each(|value| *value /= length);
            }
        }
        let halves = base.iter().map(|value| f16::from_f32(*value)).collect();
        let (truth, _, nearest) = read_npy(&folder.join("gt_ids.i32.npy"))?;
        let nearest = nearest.chunks_exact(4).map(|id| i32::from_le_bytes([id[0], id[1], id[2], id[3]])).collect();
        Ok(Self { metric, dimension, base, halves, queries, nearest, truth })
    }
}

impl Rows for Data {
    fn len(&self) -> usize {
        self.base.len() / self.dimension
    }
    fn dimension(&self) -> usize {
        self.dimension
    }
    fn read(&self, row: u32, into: &mut [f32]) {
        into.copy_from_slice(&self.base[row as usize * self.dimension..][..self.dimension]);
    }
}

fn read_floats(path: &Path) -> Result<(usize, Vec<f32>)> {
    let (columns, header, bytes) = read_npy(path)?;
    let values = if header.contains("'<f2'") {
        bytes.chunks_exact(2).map(|half| f16::from_le_bytes([half[0], half[1]]).to_f32()).collect()
    } else {
        bytes.into_iter().map(f32::from).collect()
    };
    Ok((columns, values))
}

/// The columns, the header and the contents of a two-dimensional array.
fn read_npy(path: &Path) -> Result<(usize, String, Vec<u8>)> {
    let mut bytes = fs_err::read(path)?;
    let length = bytes.get(8..10).map_or(0, |length| usize::from(u16::from_le_bytes([length[0], length[1]])));
    let header = bytes.get(10..10 + length).context("header is cut off")?;
    let header = String::from_utf8_lossy(header).into_owned();
    let shape = header.split("'shape': (").nth(1).and_then(|rest| rest.split(')').next()).context("no shape")?;
    let columns = shape.split(',').nth(1).context("one column only")?.trim().parse()?;
    Ok((columns, header, bytes.split_off(10 + length)))
}
