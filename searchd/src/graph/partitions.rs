//! Partitions of a graph's rows, for few dimensions: what a walk saves in distances it pays for there in cache misses.
//!
//! Rows near one centre are a list of codes of four bits for two coordinates of what each differs from the centre by, sixty-four
//! rows to a block, which one shuffle a subspace sums ([`super::kernel::lists`]). A search sums those of the nearest lists, and
//! compares the best by the graph's own codes ([`scan`]). Every row is in two lists whose centres lie on different sides of
//! it (SOAR, Sun et al. 2023): a query to which it looks far by one sees it by the other.
//!
//! Walks under filters, and graphs that grow from this one, go by the neighbours as ever.

mod centres;
mod codebook;
mod learn;
pub(super) mod scan;
mod search;

use bytes::Bytes;

use super::Metric;
use super::kernel::lists::{BLOCK_ROWS, PLANE};
use super::memory::Words;
use centres::Centres;
use codebook::Codebook;

/// Most dimensions for which lists are worth their bytes, a good half for each of these. Graphs of so few have no axes.
const MAX_DIMS: usize = 80;
/// With fewer rows a walk is as fast.
const MIN_ROWS: usize = 20_000;
/// What stands for no row, behind the last of a list.
const NOBODY: u32 = u32::MAX;
/// Words in front of the tables: centres, and the step of their grid.
const HEAD: usize = 2;

#[derive(Clone)]
pub(super) struct Partitions {
    centres: Centres,
    codebook: Codebook,
    /// Where each list begins, in blocks; one more for the end of the last.
    starts: Vec<u32>,
    /// The rows of the blocks.
    rows: Words,
    codes: Bytes,
}

impl Partitions {
    /// Whether so many rows of so many dimensions are worth partitions. Sums are of inner products, so rows that differ by their
    /// lengths, too, are not.
    pub(super) fn are_worth(metric: Metric, dims: usize, rows: usize) -> bool {
        metric != Metric::Euclidean && dims <= MAX_DIMS && rows >= MIN_ROWS
    }

    /// None if they are not what [`Partitions::tables`], [`Partitions::rows`] and [`Partitions::codes`] gave. That the rows are
    /// of the graph is for a checksum to say; one that is not ends a search by a panic.
    pub(super) fn open(dims: usize, tables: &Words, rows: Words, codes: Bytes) -> Option<Self> {
        let (head, tables) = tables.get().split_at_checked(HEAD)?;
        let count = head[0] as usize;
        let (codebook, tables) = tables.split_at_checked(Codebook::len(dims))?;
        let codebook: Vec<f32> = codebook.iter().map(|word| f32::from_bits(*word)).collect();
        let (starts, centres) = tables.split_at_checked(count.checked_add(1)?)?;
        let centres = Centres::open(dims, count, f32::from_bits(head[1]), bytemuck::cast_slice(centres))?;
        let codebook = Codebook::open(&codebook, dims)?;
        let is_ordered = starts[0] == 0 && starts.is_sorted();
        let blocks = *starts.last()? as usize;
        let fits = rows.get().len() == blocks * BLOCK_ROWS && codes.len() == blocks * Codebook::planes(dims) * PLANE;
        (count > 0 && is_ordered && fits).then(|| Self { centres, codebook, starts: starts.to_vec(), rows, codes })
    }

    /// All but the lists, as words.
    pub(super) fn tables(&self) -> Vec<u32> {
        let mut tables = vec![self.centres.count() as u32, self.centres.step().to_bits()];
        tables.extend(self.codebook.values().iter().map(|value| value.to_bits()));
        tables.extend(&self.starts);
        tables.extend(self.centres.bytes().as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)));
        tables
    }

    pub(super) fn rows(&self) -> &[u32] {
        self.rows.get()
    }

    pub(super) fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// Bytes that searches read.
    pub(super) fn bytes(&self) -> usize {
        let words = self.starts.len() + self.codebook.values().len() + self.rows.get().len();
        self.codes.len() + self.centres.bytes().len() + words * size_of::<u32>()
    }
}
