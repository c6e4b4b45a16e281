//! Bytes that begin on a cache line: rows of codes are loaded and prefetched line by line.

use std::ops::Range;
use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use super::kernel;

/// Bytes of a cache line.
pub const LINE: usize = 64;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; LINE]);

/// A fixed number of bytes, aligned to [`LINE`] and filled up with zeros to a whole number of lines.
#[derive(Clone)]
pub struct Lines {
    lines: Vec<Line>,
    len: usize,
}

impl Lines {
    /// All zeros. Large buffers ask for huge pages: a graph search touches pages at random.
    pub fn zeroed(len: usize) -> Self {
        // One line more than needed, so that the load of a last, partial block stays inside.
        let mut lines = Vec::with_capacity(len.div_ceil(LINE) + 1);
        kernel::advise_huge_pages(&lines);
        lines.resize(len.div_ceil(LINE) + 1, Line([0; LINE]));
        Self { lines, len }
    }

    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut lines = Self::zeroed(bytes.len());
        lines.bytes_mut().copy_from_slice(bytes);
        lines
    }

    #[inline(always)]
    pub fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

/// Bytes that somebody else keeps, such as a mapped file.
pub type Shared = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Bytes of our own, or a part of those of somebody else.
#[derive(Clone)]
pub enum Region {
    Owned(Lines),
    Part(Shared, Range<usize>),
}

impl Region {
    pub fn copied(bytes: &[u8]) -> Self {
        Self::Owned(Lines::from_bytes(bytes))
    }

    #[inline(always)]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Owned(lines) => lines.bytes(),
            // What was there when the part was cut is taken to stay; a shorter answer gives an empty region.
            Self::Part(shared, range) => (**shared).as_ref().get(range.clone()).unwrap_or_default(),
        }
    }
}
