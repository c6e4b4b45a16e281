//! The arithmetic under the search: sums of products of packed codes and a query of bytes.
//!
//! The walk's sums are of integers, so every instruction set gives the same to the last bit and what a walk finds depends
//! on the data only. The set is chosen once, at run time. This file and those under it are the only ones with `unsafe`.

pub mod lists;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use half::f16;

use super::memory::LINE;

/// An instruction set that the kernels are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Portable,
    Avx2,
    /// AVX-512 with the byte dot products (VNNI).
    Avx512,
}

impl Level {
    /// The fastest that this machine runs.
    pub fn detect() -> Self {
        [Self::Avx512, Self::Avx2].into_iter().find(|level| level.is_available()).unwrap_or(Self::Portable)
    }

    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }
}

/// Bits of one coordinate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Width {
    One,
    Two,
    Four,
    Eight,
}

impl Width {
    pub const ALL: [Self; 4] = [Self::One, Self::Two, Self::Four, Self::Eight];

    pub fn bits(self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Four => 4,
            Self::Eight => 8,
        }
    }
}

/// Rows of packed codes, seen by a kernel.
///
/// A row holds `plane` bytes at `offset`: byte `j` carries, from its low bits up, the coordinates `j`, `j + plane`, …
#[derive(Clone, Copy)]
pub struct Packed<'a> {
    pub data: &'a [u8],
    pub stride: usize,
    pub offset: usize,
    pub plane: usize,
}

/// A query that a kernel reads: coordinate `p * plane + j` is at `p * padded + j`, where `padded` is `plane` rounded up
/// to a line, and the gaps are 0.
pub struct Query {
    pub values: Vec<i8>,
    pub padded: usize,
    pub sum: i32,
}

impl Query {
    /// All zeros, with room for what a kernel reads.
    pub fn empty(plane: usize, width: Width) -> Self {
        let padded = plane.next_multiple_of(LINE);
        Self { values: vec![0; padded * (8 / width.bits())], padded, sum: 0 }
    }
}

/// How full a sorted array of candidates is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filled {
    pub len: usize,
    /// `len` stays at or below it.
    pub capacity: usize,
    /// The lowest place where something was put, if lower than it was.
    pub lowest: usize,
}

/// Words after the capacity of a pool that a kernel may overwrite.
pub const POOL_SPARE: usize = 9;

type Offer = unsafe fn(&mut [u64], &mut Filled, &[u32], &[f32]);
type Halves = unsafe fn(&[f16], &[f32]) -> f32;
type Butterflies = unsafe fn(&mut [f32], usize);
type Inner = unsafe fn(&[f32], &[f32]) -> f32;
type Add = unsafe fn(&mut [f32], f32, &[f32]);
type Dots = unsafe fn(Packed<'_>, &Query, &[u32], &mut [i32]);

/// The kernels of one instruction set.
#[derive(Clone, Copy)]
pub struct Kernel {
    level: Level,
    eight: Dots,
    four: Dots,
    two: Dots,
    one: Dots,
    offer: Offer,
    butterflies: Butterflies,
    inner: Inner,
    add: Add,
    dot: Halves,
    squared_distance: Halves,
    scan: lists::Scan,
    across: lists::Across,
}

impl Kernel {
    pub fn detect() -> Self {
        Self::of(Level::detect())
    }

    /// The kernels of `level`, or the portable ones where this machine doesn't have it.
    pub fn of(level: Level) -> Self {
        match level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 if level.is_available() => Self {
                level,
                eight: x86::avx512::eight,
                four: x86::avx512::four,
                two: x86::avx512::two,
                one: x86::avx512::one,
                offer: x86::avx512::offer,
                butterflies: x86::avx512::butterflies,
                inner: x86::avx512::inner,
                add: x86::avx512::add,
                dot: x86::avx512::dot,
                squared_distance: x86::avx512::squared_distance,
                scan: x86::lists::scan_avx512,
                across: x86::lists::across_avx512,
            },
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 if level.is_available() => Self {
                level,
                eight: x86::avx2::eight,
                four: x86::avx2::four,
                two: x86::avx2::two,
                one: x86::avx2::one,
                offer: portable::offer,
                butterflies: x86::avx2::butterflies,
                inner: x86::avx2::inner,
                add: x86::avx2::add,
                dot: x86::avx2::dot,
                squared_distance: x86::avx2::squared_distance,
                scan: x86::lists::scan_avx2,
                across: x86::lists::across_avx2,
            },
            _ => Self {
                level: Level::Portable,
                eight: portable::eight,
                four: portable::four,
                two: portable::two,
                one: portable::one,
                offer: portable::offer,
                butterflies: portable::butterflies,
                inner: portable::inner,
                add: portable::add,
                dot: portable::dot,
                squared_distance: portable::squared_distance,
                scan: lists::scan,
                across: lists::across,
            },
        }
    }

    pub fn level(&self) -> Level {
        self.level
    }

    /// Sets `sums[i]` to the sum of products of the query and the row `ids[i]`.
    ///
    /// # Panics
    /// If an id is past the rows, or the shapes don't fit.
    #[inline]
    pub fn dots(&self, width: Width, rows: Packed<'_>, query: &Query, ids: &[u32], sums: &mut [i32]) {
        let count = rows.data.len() / rows.stride;
        assert!(ids.iter().fold(true, |fits, id| fits & ((*id as usize) < count)), "ids are of rows");
        assert!(sums.len() >= ids.len() && rows.offset + rows.plane <= rows.stride, "shapes fit");
        // Kernels read rows in steps of 16 bytes and queries in whole lines.
        assert!(rows.plane.is_multiple_of(16) && query.padded.is_multiple_of(LINE), "steps fit");
        assert!(rows.plane <= query.padded && query.padded * (8 / width.bits()) <= query.values.len(), "query fits");
        let dots = match width {
            Width::Eight => self.eight,
            Width::Four => self.four,
            Width::Two => self.two,
            Width::One => self.one,
        };
        // SAFETY: `of` hands a kernel out only where its instructions are present; it reads `plane` bytes of each named
        // row, which are inside `data`, and `padded` bytes of each plane of the query, and writes `ids.len()` sums.
        unsafe { dots(rows, query, ids, sums) }
    }

    /// The inner product of a row in half precision and a query. Unlike the integer sums it depends on the instruction
    /// set, in the last bits.
    ///
    /// # Panics
    /// If they are not of one length.
    #[inline]
    pub fn dot(&self, row: &[f16], query: &[f32]) -> f32 {
        assert_eq!(row.len(), query.len(), "one length");
        // SAFETY: `of` hands a kernel out only where its instructions are present; lengths are equal.
        unsafe { (self.dot)(row, query) }
    }

    /// The squared distance of a row in half precision and a query; see [`Kernel::dot`].
    ///
    /// # Panics
    /// If they are not of one length.
    #[inline]
    pub fn squared_distance(&self, row: &[f16], query: &[f32]) -> f32 {
        assert_eq!(row.len(), query.len(), "one length");
        // SAFETY: as for `dot`.
        unsafe { (self.squared_distance)(row, query) }
    }

    /// The Walsh–Hadamard transform without its stages below `lowest`, in place and not scaled. Both lengths are powers
    /// of two. Adds and subtracts in one order on every machine.
    pub fn butterflies(&self, values: &mut [f32], lowest: usize) {
        // SAFETY: `of` hands a kernel out only where its instructions are present; it is safe code otherwise.
        unsafe { (self.butterflies)(values, lowest) }
    }

    /// The inner product, summed in one order on every machine.
    ///
    /// # Panics
    /// If they are not of one length.
    #[inline]
    pub fn inner(&self, left: &[f32], right: &[f32]) -> f32 {
        assert_eq!(left.len(), right.len(), "one length");
        // SAFETY: `of` hands a kernel out only where its instructions are present; it is safe code otherwise.
        unsafe { (self.inner)(left, right) }
    }

    /// Adds so many times the values, the same on every machine.
    ///
    /// # Panics
    /// If they are not of one length.
    #[inline]
    pub fn add(&self, sums: &mut [f32], times: f32, values: &[f32]) {
        assert_eq!(sums.len(), values.len(), "one length");
        // SAFETY: as for `inner`.
        unsafe { (self.add)(sums, times, values) }
    }

    /// Puts those candidates in their places in the sorted `pool` that are better than its worst; all while it is not
    /// full.
    ///
    /// # Panics
    /// If the pool is shorter than its capacity and [`POOL_SPARE`].
    #[inline(always)]
    pub fn offer(&self, pool: &mut [u64], filled: &mut Filled, rows: &[u32], distances: &[f32]) {
        assert!(filled.capacity + POOL_SPARE <= pool.len() && filled.len <= filled.capacity, "the pool has its room");
        assert!(rows.len() == distances.len(), "a distance for each row");
        // SAFETY: `of` hands a kernel out only where its instructions are present; it writes below the capacity and the
        // spare words.
        unsafe { (self.offer)(pool, filled, rows, distances) }
    }
}

/// A distance and a row in one word that sorts by distance, then by row; its lowest bit is free.
#[inline(always)]
pub fn candidate(distance: f32, row: u32) -> u64 {
    let bits = distance.to_bits();
    // Turns the order of floats into that of integers: negative ones are flipped, positive ones set above them.
    let key = bits ^ (((bits as i32 >> 31) as u32) | 0x8000_0000);
    (u64::from(key) << 32) | (u64::from(row) << 1)
}

/// Asks for the line that `offset` is on.
#[inline(always)]
pub fn prefetch(data: &[u8], offset: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch of any address is harmless; it never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(data.as_ptr().wrapping_add(offset).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (data, offset);
}
