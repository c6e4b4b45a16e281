//! 16 codes at a time, widened to 16 bits: `vpmaddubsw` would saturate on 8-bit codes.

use std::arch::x86_64::*;

use half::f16;

use super::super::{Packed, Query, portable};

macro_rules! dots {
    ($name:ident, $planes:literal, |$bytes:ident, $p:ident| $code:expr) => {
        /// # Safety
        /// The machine has AVX2; the ids are of rows; planes are multiples of 16 bytes; `sums` and the query are long
        /// enough.
        #[target_feature(enable = "avx2")]
        pub(in super::super) unsafe fn $name(rows: Packed<'_>, query: &Query, ids: &[u32], sums: &mut [i32]) {
            let base = rows.data.as_ptr();
            for (id, out) in ids.iter().zip(sums) {
                let mut sum = _mm256_setzero_si256();
                // SAFETY: offsets stay below `plane`, a multiple of 16, in the row and in each plane of the query.
                unsafe {
                    let row = base.add(*id as usize * rows.stride + rows.offset);
                    let mut offset = 0;
                    while offset < rows.plane {
                        let $bytes = _mm_loadu_si128(row.add(offset).cast());
                        for $p in 0..$planes {
                            let values = query.values.as_ptr().add($p * query.padded + offset);
                            let values = _mm256_cvtepi8_epi16(_mm_loadu_si128(values.cast()));
                            let codes = _mm256_cvtepu8_epi16($code);
                            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(codes, values));
                        }
                        offset += 16;
                    }
                }
                let half = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
                let quarter = _mm_add_epi32(half, _mm_shuffle_epi32::<0b00_00_11_10>(half));
                let single = _mm_add_epi32(quarter, _mm_shuffle_epi32::<0b00_00_00_01>(quarter));
                *out = _mm_cvtsi128_si32(single);
            }
        }
    };
}

dots!(eight, 1, |bytes, _p| bytes);
dots!(four, 2, |bytes, p| {
    let shifted = if p == 0 { bytes } else { _mm_srli_epi16::<4>(bytes) };
    _mm_and_si128(shifted, _mm_set1_epi8(15))
});
dots!(two, 4, |bytes, p| {
    let shifted = match p {
        0 => bytes,
        1 => _mm_srli_epi16::<2>(bytes),
        2 => _mm_srli_epi16::<4>(bytes),
        _ => _mm_srli_epi16::<6>(bytes),
    };
    _mm_and_si128(shifted, _mm_set1_epi8(3))
});
dots!(one, 8, |bytes, p| {
    let shifted = match p {
        0 => bytes,
        1 => _mm_srli_epi16::<1>(bytes),
        2 => _mm_srli_epi16::<2>(bytes),
        3 => _mm_srli_epi16::<3>(bytes),
        4 => _mm_srli_epi16::<4>(bytes),
        5 => _mm_srli_epi16::<5>(bytes),
        6 => _mm_srli_epi16::<6>(bytes),
        _ => _mm_srli_epi16::<7>(bytes),
    };
    _mm_and_si128(shifted, _mm_set1_epi8(1))
});

/// # Safety
/// The machine has the features.
#[target_feature(enable = "avx2")]
pub(in super::super) unsafe fn butterflies(values: &mut [f32], lowest: usize) {
    portable::butterflies(values, lowest);
}

/// # Safety
/// The machine has the features.
#[target_feature(enable = "avx2")]
pub(in super::super) unsafe fn inner(left: &[f32], right: &[f32]) -> f32 {
    portable::inner(left, right)
}

/// # Safety
/// The machine has the features.
#[target_feature(enable = "avx2")]
pub(in super::super) unsafe fn add(sums: &mut [f32], times: f32, values: &[f32]) {
    portable::add(sums, times, values);
}

macro_rules! halves {
    ($name:ident, |$a:ident, $b:ident, $sum:ident| $step:expr) => {
        /// # Safety
        /// The machine has AVX2, FMA and F16C; lengths are equal.
        #[target_feature(enable = "avx2,fma,f16c")]
        pub(in super::super) unsafe fn $name(row: &[f16], query: &[f32]) -> f32 {
            let mut sums = _mm256_setzero_ps();
            let whole = row.len() / 8 * 8;
            for at in (0..whole).step_by(8) {
                // SAFETY: eight values from `at` on are inside both slices.
                let ($a, $b) = unsafe {
                    let halves = _mm_loadu_si128(row.as_ptr().add(at).cast());
                    (_mm256_cvtph_ps(halves), _mm256_loadu_ps(query.as_ptr().add(at)))
                };
                let $sum = sums;
                sums = $step;
            }
            let mut lanes = [0f32; 8];
            // SAFETY: there are eight lanes.
            unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sums) };
            lanes.iter().sum::<f32>() + portable::$name(&row[whole..], &query[whole..])
        }
    };
}

halves!(dot, |a, b, sum| _mm256_fmadd_ps(a, b, sum));
halves!(squared_distance, |a, b, sum| {
    let difference = _mm256_sub_ps(a, b);
    _mm256_fmadd_ps(difference, difference, sum)
});
