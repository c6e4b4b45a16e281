//! Fashion-MNIST (MIT licence): 60,000 images to store and 10,000 to ask with, 28 × 28 pixels each.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use async_compression::tokio::bufread::GzipDecoder;
use tokio::io::AsyncReadExt;

pub(crate) const DIMENSION: usize = 28 * 28;
const MAGIC_OF_IMAGES: u32 = 2051;

pub(crate) struct FashionMnist {
    /// `DIMENSION` bytes an image.
    pub(crate) stored: Vec<u8>,
    pub(crate) queries: Vec<u8>,
}

impl FashionMnist {
    pub(crate) async fn load(folder: &Path, points: usize) -> Result<Self> {
        let mut stored = images(&folder.join("train-images-idx3-ubyte.gz")).await?;
        stored.truncate(points * DIMENSION);
        let queries = images(&folder.join("t10k-images-idx3-ubyte.gz")).await?;
        Ok(Self { stored, queries })
    }

    pub(crate) fn points(&self) -> usize {
        self.stored.len() / DIMENSION
    }

    pub(crate) fn point(&self, i: usize) -> &[u8] {
        &self.stored[i * DIMENSION..(i + 1) * DIMENSION]
    }

    /// Query `i`, beginning anew past the last.
    pub(crate) fn query(&self, i: usize) -> &[u8] {
        let i = i % (self.queries.len() / DIMENSION);
        &self.queries[i * DIMENSION..(i + 1) * DIMENSION]
    }

    pub(crate) fn query_values(&self, i: usize) -> Vec<f32> {
        self.query(i).iter().map(|p| f32::from(*p)).collect()
    }
}

/// The pixels of an IDX file.
async fn images(path: &Path) -> Result<Vec<u8>> {
    let compressed = fs_err::read(path).with_context(
        || "Fashion-MNIST is needed: apt-get install dataset-fashion-mnist, or --data FOLDER with its four IDX files",
    )?;
    let mut bytes = Vec::new();
    GzipDecoder::new(&compressed[..]).read_to_end(&mut bytes).await?;
    ensure!(bytes.len() > 16, "{} is too short", path.display());
    let number = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let (count, rows, columns) = (number(4) as usize, number(8) as usize, number(12) as usize);
    ensure!(number(0) == MAGIC_OF_IMAGES && rows * columns == DIMENSION, "{} holds no such images", path.display());
    ensure!(bytes.len() == 16 + count * DIMENSION, "{} is cut off", path.display());
    Ok(bytes.split_off(16))
}
