//! The arithmetic of exact scores: inner products and squared distances of a query and a row, in whatever form that is kept.
//!
//! One body, compiled for what x86-64 machines have today and chosen at run time. Sums run over a fixed number of lanes,
//! so the result depends on the vectors and the instruction set only, never on where in memory they are, nor on the form:
//! values become the floats that they are, and go the same way from there.

use half::f16;

use super::values::Values;

/// How a query is compared with values of one form. Both functions take slices of equal length.
#[derive(Clone, Copy)]
struct Pair<T: 'static> {
    dot: fn(&[f32], &[T]) -> f32,
    squared_distance: fn(&[f32], &[T]) -> f32,
}

/// How the scores of all metrics are computed.
#[derive(Clone, Copy)]
pub struct Kernel {
    floats: Pair<f32>,
    halves: Pair<f16>,
    signed: Pair<i8>,
    unsigned: Pair<u8>,
}

/// The kernels of one module.
macro_rules! kernel {
    ($module:ident) => {
        Kernel {
            floats: Pair { dot: $module::floats::dot, squared_distance: $module::floats::squared_distance },
            halves: Pair { dot: $module::halves::dot, squared_distance: $module::halves::squared_distance },
            signed: Pair { dot: $module::signed::dot, squared_distance: $module::signed::squared_distance },
            unsigned: Pair { dot: $module::unsigned::dot, squared_distance: $module::unsigned::squared_distance },
        }
    };
}

impl Kernel {
    /// The fastest that this machine runs.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let is_avx2 =
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
            if is_avx2 && is_x86_feature_detected!("avx512f") {
                return kernel!(avx512);
            }
            if is_avx2 {
                return kernel!(avx2);
            }
        }
        kernel!(portable)
    }

    /// The inner product. Both are of one length.
    #[inline]
    pub fn dot(&self, query: &[f32], row: Values<'_>) -> f32 {
        match row {
            Values::Floats(row) => (self.floats.dot)(query, row),
            Values::Halves(row) => (self.halves.dot)(query, row),
            Values::Signed(row) => (self.signed.dot)(query, row),
            Values::Unsigned(row) => (self.unsigned.dot)(query, row),
        }
    }

    /// The squared Euclidean distance. Both are of one length.
    #[inline]
    pub fn squared_distance(&self, query: &[f32], row: Values<'_>) -> f32 {
        match row {
            Values::Floats(row) => (self.floats.squared_distance)(query, row),
            Values::Halves(row) => (self.halves.squared_distance)(query, row),
            Values::Signed(row) => (self.signed.squared_distance)(query, row),
            Values::Unsigned(row) => (self.unsigned.squared_distance)(query, row),
        }
    }
}

/// Lanes of one accumulator, and accumulators: enough to keep two multiply-adds of 512 bits under way.
const LANES: usize = 16;
const ROWS: usize = 4;
/// Values of one step of every lane.
const BLOCK: usize = LANES * ROWS;

/// One step of every lane.
macro_rules! block {
    ($sums:ident, $left:expr, $right:expr, |$a:ident, $b:ident, $sum:ident| $step:expr) => {
        for row in 0..ROWS {
            for lane in 0..LANES {
                let ($a, $b) = ($left[row * LANES + lane], f32::from($right[row * LANES + lane]));
                let $sum = $sums[row][lane];
                $sums[row][lane] = $step;
            }
        }
    };
}

/// `$widen` makes numbers that `f32::from` takes of a block.
macro_rules! accumulate {
    ($left:expr, $right:expr, $zero:expr, $widen:path, |$a:ident, $b:ident, $sum:ident| $step:expr) => {{
        let (left, right) = ($left, $right);
        let mut sums = [[0f32; LANES]; ROWS];
        let (left_blocks, left_rest) = left.as_chunks::<BLOCK>();
        let (right_blocks, right_rest) = right.as_chunks::<BLOCK>();
        for (left, right) in left_blocks.iter().zip(right_blocks) {
            let right = $widen(right);
            block!(sums, left, right, |$a, $b, $sum| $step);
        }
        let rest = left_rest.len().min(right_rest.len());
        if rest > 0 {
            // Filled up with zeros, which add nothing: so all lanes are always the same ones, and stay in registers.
            let (mut left_end, mut right_end) = ([0f32; BLOCK], [$zero; BLOCK]);
            left_end[..rest].copy_from_slice(&left_rest[..rest]);
            right_end[..rest].copy_from_slice(&right_rest[..rest]);
            let right_end = $widen(&right_end);
            block!(sums, left_end, right_end, |$a, $b, $sum| $step);
        }
        let mut total = [0f32; LANES];
        for row in &sums {
            for lane in 0..LANES {
                total[lane] += row[lane];
            }
        }
        total.iter().sum::<f32>()
    }};
}

/// Numbers that `f32::from` takes as they are.
#[inline(always)]
fn as_they_are<T>(block: &[T; BLOCK]) -> &[T; BLOCK] {
    block
}

/// The kernels of one form, in plain Rust.
macro_rules! portable {
    ($form:ident, $value:ty, $zero:expr) => {
        pub(super) mod $form {
            use super::super::{BLOCK, LANES, ROWS, as_they_are};

            pub(in super::super) fn dot(query: &[f32], row: &[$value]) -> f32 {
                accumulate!(query, row, $zero, as_they_are, |a, b, sum| sum + a * b)
            }

            pub(in super::super) fn squared_distance(query: &[f32], row: &[$value]) -> f32 {
                accumulate!(query, row, $zero, as_they_are, |a, b, sum| {
                    let difference = a - b;
                    sum + difference * difference
                })
            }
        }
    };
}

mod portable {
    portable!(floats, f32, 0f32);
    portable!(halves, half::f16, half::f16::ZERO);
    portable!(signed, i8, 0i8);
    portable!(unsigned, u8, 0u8);
}

/// The kernels of one form, by instructions that not every machine has.
#[cfg(target_arch = "x86_64")]
macro_rules! featured {
    ($form:ident, $value:ty, $zero:expr, $widen:path, $features:literal) => {
        pub(super) mod $form {
            use super::super::{BLOCK, LANES, ROWS};

            pub(in super::super) fn dot(query: &[f32], row: &[$value]) -> f32 {
                #[target_feature(enable = $features)]
                fn inner(query: &[f32], row: &[$value]) -> f32 {
                    accumulate!(query, row, $zero, $widen, |a, b, sum| a.mul_add(b, sum))
                }
                // SAFETY: `Kernel::detect` hands this function out only where the features are present.
                unsafe { inner(query, row) }
            }

            pub(in super::super) fn squared_distance(query: &[f32], row: &[$value]) -> f32 {
                #[target_feature(enable = $features)]
                fn inner(query: &[f32], row: &[$value]) -> f32 {
                    accumulate!(query, row, $zero, $widen, |a, b, sum| {
                        let difference = a - b;
                        difference.mul_add(difference, sum)
                    })
                }
                // SAFETY: `Kernel::detect` hands this function out only where the features are present.
                unsafe { inner(query, row) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{_mm_loadu_si128, _mm256_cvtph_ps, _mm256_storeu_ps};

    use half::f16;

    use super::{BLOCK, as_they_are};

    featured!(floats, f32, 0f32, super::as_they_are, "avx2,fma,f16c");
    featured!(halves, half::f16, half::f16::ZERO, super::widen, "avx2,fma,f16c");
    featured!(signed, i8, 0i8, super::as_they_are, "avx2,fma,f16c");
    featured!(unsigned, u8, 0u8, super::as_they_are, "avx2,fma,f16c");

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn widen(block: &[f16; BLOCK]) -> [f32; BLOCK] {
        let mut wide = [0f32; BLOCK];
        for (to, from) in wide.as_chunks_mut::<8>().0.iter_mut().zip(block.as_chunks::<8>().0) {
            // SAFETY: eight halves are read and eight floats written, at any address.
            unsafe { _mm256_storeu_ps(to.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast()))) };
        }
        wide
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{_mm256_loadu_si256, _mm512_cvtph_ps, _mm512_storeu_ps};

    use half::f16;

    use super::{BLOCK, as_they_are};

    featured!(floats, f32, 0f32, super::as_they_are, "avx512f,avx2,fma,f16c");
    featured!(halves, half::f16, half::f16::ZERO, super::widen, "avx512f,avx2,fma,f16c");
    featured!(signed, i8, 0i8, super::as_they_are, "avx512f,avx2,fma,f16c");
    featured!(unsigned, u8, 0u8, super::as_they_are, "avx512f,avx2,fma,f16c");

    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
    #[inline]
    fn widen(block: &[f16; BLOCK]) -> [f32; BLOCK] {
        let mut wide = [0f32; BLOCK];
        for (to, from) in wide.as_chunks_mut::<16>().0.iter_mut().zip(block.as_chunks::<16>().0) {
            // SAFETY: sixteen halves are read and sixteen floats written, at any address.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast()))) };
        }
        wide
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::values::Form;
    use super::*;

    fn kernels() -> [Kernel; 2] {
        [Kernel::detect(), kernel!(portable)]
    }

    #[test]
    fn every_kernel_agrees_with_f64() {
        for length in [0, 1, 15, 16, 17, 63, 64, 65, 384, 785] {
            let left: Vec<f32> = (0..length).map(|i| (i as f32 * 0.37).sin()).collect();
            let right: Vec<f32> = (0..length).map(|i| (i as f32 * 0.11).cos()).collect();
            let pairs = || left.iter().zip(&right).map(|(a, b)| (f64::from(*a), f64::from(*b)));
            let dot: f64 = pairs().map(|(a, b)| a * b).sum();
            let squared: f64 = pairs().map(|(a, b)| (a - b) * (a - b)).sum();
            for kernel in kernels() {
                assert!((f64::from(kernel.dot(&left, (&right).into())) - dot).abs() < 1e-4);
                assert!((f64::from(kernel.squared_distance(&left, (&right).into())) - squared).abs() < 1e-3);
            }
        }
    }

    proptest! {
        #[test]
        fn the_form_of_a_row_changes_no_bit_of_a_result(
            query in prop::collection::vec(-300f32..300.0, 0..300),
            bytes in prop::collection::vec(any::<u8>(), 300),
        ) {
            let bytes = &bytes[..query.len()];
            let whole = |form: Form, values: Vec<f32>| {
                let mut packed = Vec::new();
                assert!(form.pack(&values, &mut packed));
                // At an address where such values may be.
                let mut aligned = vec![0u32; packed.len().div_ceil(4)];
                let aligned = &mut bytemuck::cast_slice_mut::<u32, u8>(&mut aligned)[..packed.len()];
                aligned.copy_from_slice(&packed);
                for kernel in kernels() {
                    let (narrow, wide) = (Values::of(form, aligned), Values::from(&values));
                    let bits = |value: f32| value.to_bits();
                    assert_eq!(bits(kernel.dot(&query, narrow)), bits(kernel.dot(&query, wide)));
                    let squares = [narrow, wide].map(|row| bits(kernel.squared_distance(&query, row)));
                    assert_eq!(squares[0], squares[1]);
                }
            };
            whole(Form::Unsigned, bytes.iter().map(|byte| f32::from(*byte)).collect());
            whole(Form::Signed, bytes.iter().map(|byte| f32::from(*byte as i8)).collect());
            whole(Form::Halves, bytes.iter().map(|byte| f32::from(*byte) / 64.0 - 1.5).collect());
        }
    }
}
