//! Rows that lie one after the other, coordinate by coordinate: many sums from one run of bytes.
//!
//! A sum of products over codes of four bits is a look-up for each of them, and sixteen entries are what a register holds
//! (Quick ADC, André et al. 2015; LUT16, Guo et al. 2020): one shuffle looks up as many rows as there are bytes in it.

use super::Kernel;

/// Rows of a block, of which [`Kernel::scan`] sums all.
pub const BLOCK_ROWS: usize = 64;
/// Bytes of a subspace in a block, and of a table: its sixteen entries, twice.
pub const PLANE: usize = 32;
/// Highest entry of a table: two of them are one byte.
pub const MAX_ENTRY: u8 = 127;
/// Most subspaces: their sum is within 16 bits.
pub const MAX_SUBSPACES: usize = 256;
/// Points that lie side by side for [`Kernel::across`].
pub const SIDE: usize = 16;
/// Coordinates of a point that lie together there.
pub const GROUP: usize = 4;
/// Highest coordinate of such a point: products of two and a signed byte are within 16 bits.
pub const MAX_ACROSS: u8 = 127;

pub(super) type Scan = unsafe fn(&[u8], &[u8], u16, &mut [u16; BLOCK_ROWS]) -> u64;
pub(super) type Across = unsafe fn(&[u8], &[i8], &mut [i32]);

/// In which byte of a plane a row of a block is, and how far from its lowest bit: where shuffles and unpacking leave rows in order.
pub fn place(row: usize) -> (usize, usize) {
    let byte = (row & 7) | (row & 8) << 1 | (row & 16) >> 1;
    (byte, row / PLANE * 4)
}

impl Kernel {
    /// Sums the entries that a block's codes name, for each of its rows; returns a bit for each sum that is below the limit.
    ///
    /// # Panics
    /// If there are not as many tables as planes, they are not an even number, or too many.
    #[inline]
    pub fn scan(&self, block: &[u8], tables: &[u8], limit: u16, sums: &mut [u16; BLOCK_ROWS]) -> u64 {
        assert!(block.len() == tables.len() && block.len().is_multiple_of(2 * PLANE), "a table for each plane");
        assert!(block.len() <= MAX_SUBSPACES * PLANE, "sums are within 16 bits");
        // SAFETY: `of` hands a kernel out only where its instructions are present; both slices are of one length, which is
        // whole pairs of planes.
        unsafe { (self.scan)(block, tables, limit, sums) }
    }

    /// The sums of products of a query and of points that lie side by side: of a block of [`SIDE`] points the first
    /// [`GROUP`] coordinates of each, then the next.
    ///
    /// # Panics
    /// If the points are not whole blocks of as many coordinates as the query.
    #[inline]
    pub fn across(&self, points: &[u8], query: &[i8], sums: &mut [i32]) {
        assert!(query.len().is_multiple_of(GROUP) && sums.len().is_multiple_of(SIDE), "whole blocks");
        assert!(points.len() == sums.len() * query.len(), "as many coordinates as the query");
        // SAFETY: `of` hands a kernel out only where its instructions are present; shapes fit.
        unsafe { (self.across)(points, query, sums) }
    }
}

pub(super) fn scan(block: &[u8], tables: &[u8], limit: u16, sums: &mut [u16; BLOCK_ROWS]) -> u64 {
    sums.fill(0);
    for (plane, table) in block.chunks_exact(PLANE).zip(tables.chunks_exact(PLANE)) {
        for (row, sum) in sums.iter_mut().enumerate() {
            let (byte, shift) = place(row);
            *sum += u16::from(table[usize::from(plane[byte] >> shift & 15)]);
        }
    }
    sums.iter().enumerate().fold(0, |mask, (row, sum)| mask | u64::from(*sum < limit) << row)
}

pub(super) fn across(points: &[u8], query: &[i8], sums: &mut [i32]) {
    for (block, sums) in points.chunks_exact((SIDE * query.len()).max(1)).zip(sums.chunks_exact_mut(SIDE)) {
        sums.fill(0);
        for (group, query) in block.chunks_exact(SIDE * GROUP).zip(query.chunks_exact(GROUP)) {
            for (point, sum) in group.chunks_exact(GROUP).zip(sums.iter_mut()) {
                *sum += point.iter().zip(query).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum::<i32>();
            }
        }
    }
}
