//! Rows packed into a few bits for each coordinate, and distances estimated from them.
//!
//! A code is a step of a uniform grid around 0. Eight and four bits share one grid for all rows; with two bits, or one,
//! each row has its own step, chosen so that the estimate of an inner product is right on average (as in RaBitQ and its
//! extension to more bits). These are of what is left beside the axes of the space ([`super::axes`]), if it has some; the
//! coordinates along them come first in a row, a byte each.

use bytes::Bytes;

use super::axes::{Axes, MAX_AXES};
use super::kernel::{Kernel, Packed, Query, Width, prefetch};
use super::memory::{LINE, Lines};
use super::space::squared_length;

/// Steps of the best uniform grid for normal values, in standard deviations (Max 1960): 4, 2 and 1 bits.
const STEP_FOUR: f32 = 0.3352;
const STEP_TWO: f32 = 0.9957;
const STEP_ONE: f32 = 1.5958;
/// What a kernel reads of a row's coordinates along axes; where these are fewer, of what follows them as well, and makes nothing
/// of it.
const AXES_PLANE: usize = MAX_AXES;

/// The shape of packed rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    pub width: Width,
    pub dims: usize,
    /// Whether a row carries its squared length, which a search needs where lengths differ.
    pub lengths: bool,
    /// The step of the grid that all rows share; with two bits, in lengths of the row.
    pub step: f32,
    /// Coordinates along axes, and the step of their grid.
    pub axes: usize,
    pub axis_step: f32,
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
        let step = if step > 0.0 && step.is_finite() { step } else { 1.0 };
        Self { width, dims, lengths, step, axes: 0, axis_step: 0.0 }
    }

    /// The same, of points of a space with axes.
    pub(super) fn along(self, axes: &Axes) -> Self {
        Self { axes: axes.count(), axis_step: axes.step(), ..self }
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
        let bytes =
            self.axes + self.plane() + size_of::<f32>() * (usize::from(self.own_step()) + usize::from(self.lengths));
        match self.width {
            Width::One | Width::Two => bytes,
            Width::Four | Width::Eight => bytes.next_multiple_of(LINE),
        }
    }

    /// Whether rows are so coarse that coordinates along axes are worth their bytes.
    pub(super) fn has_axes(width: Width) -> bool {
        matches!(width, Width::One | Width::Two)
    }
}

impl Width {
    /// The code in the middle of the grid is worth 0.
    fn middle(self) -> f32 {
        match self {
            Self::Eight => 128.0,
            Self::Four => 7.5,
            Self::Two => 1.5,
            Self::One => 0.5,
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
    /// Along the axes, and what one unit of that is worth.
    along: Query,
    along_unit: f32,
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
        let (query, along) = (Query::empty(self.plane, self.shape.width), Query::empty(AXES_PLANE, Width::Eight));
        PackedQuery { query, along, along_unit: 0.0, shape: self.shape, unit: 0.0 }
    }

    pub fn pack(&self, point: &[f32], into: &mut PackedQuery) {
        if into.shape != self.shape {
            *into = self.empty_query();
        }
        let (point, along) = point.split_at(self.shape.dims);
        into.unit = quantize(point, self.plane, &mut into.query);
        if self.shape.axes > 0 {
            into.along_unit = quantize(along, AXES_PLANE, &mut into.along);
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
        let (stride, axes) = (self.stride, self.shape.axes);
        if axes > 0 {
            let packed = Packed { data: &self.data, stride, offset: 0, plane: AXES_PLANE };
            kernel.dots(Width::Eight, packed, &query.along, ids, sums);
            let zero = Width::Eight.middle() * query.along.sum as f32;
            let factor = -2.0 * query.along_unit * self.shape.axis_step;
            for (distance, sum) in distances.iter_mut().zip(sums.iter()).take(ids.len()) {
                *distance = factor * (*sum as f32 - zero);
            }
        }
        let packed = Packed { data: &self.data, stride, offset: axes, plane: self.plane };
        kernel.dots(self.shape.width, packed, &query.query, ids, sums);
        let zero = self.shape.width.middle() * query.query.sum as f32;
        let factor = -2.0 * query.unit * self.shape.step;
        let own = self.shape.own_step();
        if !own && !self.shape.lengths {
            for (distance, sum) in distances.iter_mut().zip(sums.iter()).take(ids.len()) {
                *distance = factor * (*sum as f32 - zero);
            }
            return;
        }
        let (scale_at, length_at) = (axes + self.plane, self.length_at());
        for (i, id) in ids.iter().enumerate() {
            let row = &self.data[*id as usize * self.stride..][..self.stride];
            let scale = if own { float(row, scale_at) } else { 1.0 };
            let length = if self.shape.lengths { float(row, length_at) } else { 0.0 };
            let along = if axes > 0 { distances[i] } else { 0.0 };
            distances[i] = along + (length + scale * factor * (sums[i] as f32 - zero));
        }
    }

    fn length_at(&self) -> usize {
        self.shape.axes + self.plane + if self.shape.own_step() { size_of::<f32>() } else { 0 }
    }

    /// The squared length of a row, where rows carry it.
    #[inline]
    pub fn squared_length(&self, row: u32) -> f32 {
        float(&self.data[row as usize * self.stride..][..self.stride], self.length_at())
    }

    /// Reads of each line of these rows, one after the other.
    pub fn touch(&self, rows: std::ops::Range<u32>) {
        let bytes = &self.data[rows.start as usize * self.stride..rows.end as usize * self.stride];
        std::hint::black_box(bytes.iter().step_by(LINE).fold(0, |all, byte| all | *byte));
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

/// Puts numbers on a grid of bytes, and returns what one step of it is worth.
pub(super) fn quantize(point: &[f32], plane: usize, into: &mut Query) -> f32 {
    let highest = highest(point);
    let unit = if highest > 0.0 { highest / 127.0 } else { 1.0 };
    let inverse = 1.0 / unit;
    let Query { values, padded, sum } = into;
    *sum = 0;
    for (values, point) in values.chunks_exact_mut(*padded).zip(point.chunks(plane)) {
        for (to, value) in values.iter_mut().zip(point) {
            // Rounds by cutting a positive number.
            let rounded = (value * inverse + 128.5) as i32 - 128;
            *to = rounded as i8;
            *sum += rounded;
        }
    }
    unit
}

/// The largest absolute value, by lanes: one after the other they would wait for each other.
fn highest(values: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut highest = [0f32; LANES];
    let (blocks, rest) = values.as_chunks::<LANES>();
    let larger =
        |highest: &mut f32, value: &f32| *highest = if value.abs() > *highest { value.abs() } else { *highest };
    for block in blocks {
        highest.iter_mut().zip(block).for_each(|(highest, value)| larger(highest, value));
    }
    highest.iter_mut().zip(rest).for_each(|(highest, value)| larger(highest, value));
    highest.iter().fold(0f32, |highest, value| highest.max(*value))
}

/// The nearest whole number of what is from 0 to 255, ties to even: numbers of this size have no bits for less. Rounding by the
/// library is a call for each value where the processor is not known to have an instruction for it.
#[inline]
fn nearest(value: f32) -> (f32, u8) {
    const WHOLE: f32 = (1 << 23) as f32;
    let shifted = value + WHOLE;
    (shifted - WHOLE, shifted.to_bits() as u8)
}

fn encode(shape: &Shape, point: &[f32], bytes: &mut [u8]) {
    let (point, along) = point.split_at(shape.dims);
    let plane = shape.plane();
    let bits = shape.width.bits();
    let highest = ((1u32 << bits) - 1) as f32;
    let middle = shape.width.middle();
    let length = squared_length(point).sqrt();
    let step = if shape.own_step() { shape.step * length } else { shape.step };
    let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
    bytes.fill(0);
    let (first, bytes) = bytes.split_at_mut(shape.axes);
    let on_axes = if shape.axis_step > 0.0 { 1.0 / shape.axis_step } else { 0.0 };
    for (byte, value) in first.iter_mut().zip(along) {
        *byte = nearest((value * on_axes + Width::Eight.middle()).clamp(0.0, 255.0)).1;
    }
    let mut aligned = 0f32;
    for (place, values) in point.chunks(plane.max(1)).enumerate() {
        for (byte, value) in bytes.iter_mut().zip(values) {
            let (code, low) = nearest((value * inverse + middle).clamp(0.0, highest));
            aligned += (code - middle) * value;
            *byte |= low << (place * bits);
        }
    }
    let mut at = plane;
    if shape.own_step() {
        // ⟨row, decoded⟩ = |row|² makes the estimate right on average over directions of the query.
        let scale = if aligned > 0.0 { length * length / aligned } else { 0.0 };
        bytes[at..at + 4].copy_from_slice(&(scale / shape.step).to_le_bytes());
        at += 4;
    }
    if shape.lengths {
        let whole = length * length + squared_length(along);
        bytes[at..at + 4].copy_from_slice(&whole.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_rounds_as_the_library_does() {
        for value in (0..=255 * 64).map(|part| part as f32 / 64.0).chain([0.499_999_97, 254.999_98]) {
            let rounded = value.round_ties_even();
            assert_eq!(nearest(value), (rounded, rounded as u8), "{value}");
        }
    }
}
