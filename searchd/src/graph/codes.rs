//! Rows packed into a few bits for each coordinate, and distances estimated from them.
//!
//! A code is a step of a uniform grid around 0. Eight and four bits share one grid for all rows; with two bits, or one,
//! each row has its own step, chosen so that the estimate of an inner product is right on average (as in RaBitQ and its
//! extension to more bits).

use bytes::Bytes;

use super::kernel::{Kernel, Packed, Query, Width, prefetch};
use super::memory::{LINE, Lines};
use super::space::squared_length;

/// Steps of the best uniform grid for normal values, in standard deviations (Max 1960): 4, 2 and 1 bits.
const STEP_FOUR: f32 = 0.3352;
const STEP_TWO: f32 = 0.9957;
const STEP_ONE: f32 = 1.5958;

/// The shape of packed rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    pub width: Width,
    pub dims: usize,
    /// Whether a row carries its squared length, which a search needs where lengths differ.
    pub lengths: bool,
    /// The step of the grid that all rows share; with two bits, in lengths of the row.
    pub step: f32,
}

impl Shape {
    /// `spread`: the standard deviation of coordinates; `highest`: the largest one that must not be cut off.
    pub fn fit(width: Width, dims: usize, lengths: bool, spread: f32, highest: f32) -> Self {
        let step = match width {
            Width::Eight => highest / 127.0,
            Width::Four if lengths => STEP_FOUR / (dims as f32).sqrt(),
            Width::Four => spread * STEP_FOUR,
            Width::Two => STEP_TWO / (dims as f32).sqrt(),
            Width::One => STEP_ONE / (dims as f32).sqrt(),
        };
        Self { width, dims, lengths, step: if step > 0.0 && step.is_finite() { step } else { 1.0 } }
    }

    /// Bytes of a plane: see [`Packed`].
    pub fn plane(&self) -> usize {
        let planes = 8 / self.width.bits();
        self.dims.div_ceil(planes).next_multiple_of(16)
    }

    /// Whether each row has a step of its own, a part of its length.
    pub(super) fn own_step(&self) -> bool {
        match self.width {
            Width::One | Width::Two => true,
            Width::Four => self.lengths,
            Width::Eight => false,
        }
    }

    /// Bytes from one row to the next. Wide codes begin on a cache line; narrow ones are for the least memory.
    pub fn stride(&self) -> usize {
        let bytes = self.plane() + size_of::<f32>() * (usize::from(self.own_step()) + usize::from(self.lengths));
        match self.width {
            Width::One | Width::Two => bytes,
            Width::Four | Width::Eight => bytes.next_multiple_of(LINE),
        }
    }

    /// The code in the middle of the grid is worth 0.
    fn middle(&self) -> f32 {
        match self.width {
            Width::Eight => 128.0,
            Width::Four => 7.5,
            Width::Two => 1.5,
            Width::One => 0.5,
        }
    }
}

#[derive(Clone)]
pub struct Codes {
    pub shape: Shape,
    stride: usize,
    plane: usize,
    len: usize,
    data: Bytes,
}

/// A query as the kernels take it.
pub struct PackedQuery {
    query: Query,
    /// Of the codes it is compared with.
    shape: Shape,
    /// What one unit of `query` is worth.
    unit: f32,
}

impl Codes {
    /// `None` if the bytes are not `len` rows.
    pub fn open(shape: Shape, len: usize, data: Bytes) -> Option<Self> {
        let (stride, plane) = (shape.stride(), shape.plane());
        (stride.checked_mul(len) == Some(data.len())).then_some(Self { shape, stride, plane, len, data })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.data
    }

    /// Where in the bytes a row is.
    #[inline]
    pub(super) fn bytes_of(&self, row: u32) -> std::ops::Range<usize> {
        let start = row as usize * self.stride;
        start..start + self.stride
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Packs a point for each row, in order.
    pub fn fill(shape: Shape, len: usize, mut point: impl FnMut(usize, &mut Vec<f32>)) -> Self {
        let mut lines = Lines::zeroed(shape.stride() * len);
        let mut values = vec![];
        for (row, bytes) in lines.bytes_mut().chunks_exact_mut(shape.stride()).enumerate() {
            point(row, &mut values);
            encode(&shape, &values, bytes);
        }
        Self { shape, stride: shape.stride(), plane: shape.plane(), len, data: lines.into_shared() }
    }

    pub fn empty_query(&self) -> PackedQuery {
        PackedQuery { query: Query::empty(self.plane, self.shape.width), shape: self.shape, unit: 0.0 }
    }

    pub fn pack(&self, point: &[f32], into: &mut PackedQuery) {
        if into.shape != self.shape {
            *into = self.empty_query();
        }
        let highest = point.iter().fold(0f32, |highest, value| highest.max(value.abs()));
        let unit = if highest > 0.0 { highest / 127.0 } else { 1.0 };
        into.unit = unit;
        let inverse = 1.0 / unit;
        let Query { values, padded, sum } = &mut into.query;
        *sum = 0;
        for (values, point) in values.chunks_exact_mut(*padded).zip(point.chunks(self.plane)) {
            for (to, value) in values.iter_mut().zip(point) {
                // Rounds by cutting a positive number.
                let rounded = (value * inverse + 128.5) as i32 - 128;
                *to = rounded as i8;
                *sum += rounded;
            }
        }
    }

    /// A row as a query, for eight-bit codes.
    pub fn pack_row(&self, row: u32, into: &mut PackedQuery) {
        debug_assert_eq!(self.shape.width, Width::Eight, "only bytes turn into bytes");
        let codes = &self.data[row as usize * self.stride..][..self.shape.dims];
        into.unit = self.shape.step;
        into.query.values.iter_mut().zip(codes).for_each(|(value, code)| *value = (code ^ 0x80) as i8);
        into.query.sum = codes.iter().map(|code| i32::from(*code) - 128).sum();
    }

    /// The estimated squared distances of `ids` from the query, less the query's squared length. Without lengths in the
    /// rows, less the row's as well.
    #[inline]
    pub fn distances(&self, kernel: Kernel, query: &PackedQuery, ids: &[u32], sums: &mut [i32], distances: &mut [f32]) {
        let packed = Packed { data: &self.data, stride: self.stride, plane: self.plane };
        kernel.dots(self.shape.width, packed, &query.query, ids, sums);
        let zero = self.shape.middle() * query.query.sum as f32;
        let factor = -2.0 * query.unit * self.shape.step;
        let own = self.shape.own_step();
        if !own && !self.shape.lengths {
            for (distance, sum) in distances.iter_mut().zip(sums.iter()).take(ids.len()) {
                *distance = factor * (*sum as f32 - zero);
            }
            return;
        }
        let length_at = self.plane + if own { size_of::<f32>() } else { 0 };
        for (i, id) in ids.iter().enumerate() {
            let row = &self.data[*id as usize * self.stride..][..self.stride];
            let scale = if own { float(row, self.plane) } else { 1.0 };
            let length = if self.shape.lengths { float(row, length_at) } else { 0.0 };
            distances[i] = length + scale * factor * (sums[i] as f32 - zero);
        }
    }

    /// The squared length of a row, where rows carry it.
    #[inline]
    pub fn squared_length(&self, row: u32) -> f32 {
        let at = self.plane + if self.shape.own_step() { size_of::<f32>() } else { 0 };
        float(&self.data[row as usize * self.stride..][..self.stride], at)
    }

    #[inline(always)]
    pub fn prefetch(&self, row: u32) {
        let start = row as usize * self.stride;
        let mut offset = 0;
        while offset < self.stride {
            prefetch(&self.data, start + offset);
            offset += LINE;
        }
    }
}

fn float(row: &[u8], at: usize) -> f32 {
    f32::from_le_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]])
}

fn encode(shape: &Shape, point: &[f32], bytes: &mut [u8]) {
    let plane = shape.plane();
    let bits = shape.width.bits();
    let highest = ((1u32 << bits) - 1) as f32;
    let middle = shape.middle();
    let length = squared_length(point).sqrt();
    let step = if shape.own_step() { shape.step * length } else { shape.step };
    let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
    bytes.fill(0);
    let mut aligned = 0f32;
    for (i, value) in point.iter().enumerate() {
        let code = (value * inverse + middle).clamp(0.0, highest).round_ties_even();
        aligned += (code - middle) * value;
        bytes[i % plane] |= (code as u8) << (i / plane * bits);
    }
    let mut at = plane;
    if shape.own_step() {
        // ⟨row, decoded⟩ = |row|² makes the estimate right on average over directions of the query.
        let scale = if aligned > 0.0 { length * length / aligned } else { 0.0 };
        bytes[at..at + 4].copy_from_slice(&(scale / shape.step).to_le_bytes());
        at += 4;
    }
    if shape.lengths {
        bytes[at..at + 4].copy_from_slice(&(length * length).to_le_bytes());
    }
}
