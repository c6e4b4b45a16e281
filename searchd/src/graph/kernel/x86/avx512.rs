//! 64 codes at a time by `vpdpbusd`.

use std::arch::x86_64::*;

use half::f16;

use super::super::{Filled, Packed, Query, candidate, portable};

/// Rows whose lines are asked for ahead of the one being summed.
const AHEAD: usize = 4;

/// The last bytes of a row, fewer than 64, and zeros. What lies behind is not so much as waited for, as it is where a mask hides it.
///
/// # Safety
/// The machine has the features; there are so many bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn load(bytes: *const u8, count: usize) -> __m512i {
    // SAFETY: no more than `count` bytes are read.
    unsafe {
        match count {
            16 => _mm512_zextsi128_si512(_mm_loadu_si128(bytes.cast())),
            32 => _mm512_zextsi256_si512(_mm256_loadu_si256(bytes.cast())),
            _ => _mm512_maskz_loadu_epi8((1u64 << count) - 1, bytes.cast()),
        }
    }
}

macro_rules! dots {
    ($name:ident, $planes:literal, |$bytes:ident, $p:ident| $code:expr) => {
        /// # Safety
        /// The machine has the features; the ids are of rows; `sums` and the query are long enough.
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
        pub(in super::super) unsafe fn $name(rows: Packed<'_>, query: &Query, ids: &[u32], sums: &mut [i32]) {
            let base = rows.data.as_ptr();
            let whole = rows.plane / 64 * 64;
            let rest = rows.plane - whole;
            for i in 0..ids.len() {
                // SAFETY: `whole + rest` bytes of the row are read; the query has
                // `padded` bytes, a multiple of 64, for each plane.
                unsafe {
                    if let Some(next) = ids.get(i + AHEAD) {
                        let row = base.add(*next as usize * rows.stride);
                        let mut offset = 0;
                        while offset < rows.stride {
                            _mm_prefetch::<_MM_HINT_T0>(row.add(offset).cast());
                            offset += 64;
                        }
                    }
                    let row = base.add(*ids.get_unchecked(i) as usize * rows.stride + rows.offset);
                    let mut sum = [_mm512_setzero_si512(); $planes];
                    let mut offset = 0;
                    while offset < whole {
                        let $bytes = _mm512_loadu_si512(row.add(offset).cast());
                        for $p in 0..$planes {
                            let values = query.values.as_ptr().add($p * query.padded + offset);
                            sum[$p] = _mm512_dpbusd_epi32(sum[$p], $code, _mm512_loadu_si512(values.cast()));
                        }
                        offset += 64;
                    }
                    if rest > 0 {
                        let $bytes = load(row.add(offset), rest);
                        for $p in 0..$planes {
                            let values = query.values.as_ptr().add($p * query.padded + offset);
                            sum[$p] = _mm512_dpbusd_epi32(sum[$p], $code, _mm512_loadu_si512(values.cast()));
                        }
                    }
                    let mut total = sum[0];
                    for plane in &sum[1..] {
                        total = _mm512_add_epi32(total, *plane);
                    }
                    *sums.get_unchecked_mut(i) = _mm512_reduce_add_epi32(total);
                }
            }
        }
    };
}

dots!(eight, 1, |bytes, _p| bytes);
dots!(four, 2, |bytes, p| {
    let shifted = if p == 0 { bytes } else { _mm512_srli_epi16::<4>(bytes) };
    _mm512_and_si512(shifted, _mm512_set1_epi8(15))
});
dots!(two, 4, |bytes, p| {
    let shifted = match p {
        0 => bytes,
        1 => _mm512_srli_epi16::<2>(bytes),
        2 => _mm512_srli_epi16::<4>(bytes),
        _ => _mm512_srli_epi16::<6>(bytes),
    };
    _mm512_and_si512(shifted, _mm512_set1_epi8(3))
});
dots!(one, 8, |bytes, p| {
    let shifted = match p {
        0 => bytes,
        1 => _mm512_srli_epi16::<1>(bytes),
        2 => _mm512_srli_epi16::<2>(bytes),
        3 => _mm512_srli_epi16::<3>(bytes),
        4 => _mm512_srli_epi16::<4>(bytes),
        5 => _mm512_srli_epi16::<5>(bytes),
        6 => _mm512_srli_epi16::<6>(bytes),
        _ => _mm512_srli_epi16::<7>(bytes),
    };
    _mm512_and_si512(shifted, _mm512_set1_epi8(1))
});

/// Scans and shifts in one pass from the end: blocks of eight that are all worse move up by one as they are compared.
///
/// # Safety
/// The machine has the features; the pool has `POOL_SPARE` words past the capacity, and `len` is at most the capacity;
/// there is a distance for each row.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(in super::super) unsafe fn offer(pool: &mut [u64], filled: &mut Filled, rows: &[u32], distances: &[f32]) {
    if filled.capacity == 0 {
        return;
    }
    let words = pool.as_mut_ptr();
    let Filled { mut len, capacity, mut lowest } = *filled;
    let mut start = 0;
    while start < rows.len() {
        let count = (rows.len() - start).min(16);
        // SAFETY: lanes past `count` are masked off.
        let block = unsafe { _mm512_maskz_loadu_ps(((1u32 << count) - 1) as u16, distances.as_ptr().add(start)) };
        let mut better = ((1u32 << count) - 1) as u16;
        if len == capacity {
            // SAFETY: the pool is full and its capacity not 0.
            let worst = unsafe { distance(*words.add(len - 1)) };
            // Equal ones are decided by their rows, below.
            better &= _mm512_cmp_ps_mask::<_CMP_LE_OQ>(block, _mm512_set1_ps(worst));
        }
        while better != 0 {
            let i = start + better.trailing_zeros() as usize;
            better &= better - 1;
            // SAFETY: `i` is below the number of rows; words up to `len + 8` are inside the pool; where fewer than eight
            // words are left they are handled one by one.
            unsafe {
                let new = candidate(*distances.get_unchecked(i), *rows.get_unchecked(i));
                if len == capacity {
                    if new >= *words.add(len - 1) {
                        continue;
                    }
                    len -= 1;
                }
                let needle = _mm512_set1_epi64(new as i64);
                let mut end = len;
                loop {
                    if end < 8 {
                        while end > 0 && *words.add(end - 1) > new {
                            *words.add(end) = *words.add(end - 1);
                            end -= 1;
                        }
                        break;
                    }
                    let block = _mm512_loadu_si512(words.add(end - 8).cast());
                    let worse = _mm512_cmpgt_epu64_mask(block, needle);
                    _mm512_mask_storeu_epi64(words.add(end - 7).cast(), worse, block);
                    if worse != 0xff {
                        end -= worse.count_ones() as usize;
                        break;
                    }
                    end -= 8;
                }
                *words.add(end) = new;
                len += 1;
                lowest = lowest.min(end);
            }
        }
        start += 16;
    }
    (filled.len, filled.lowest) = (len, lowest);
}

/// The distance of a candidate.
#[inline(always)]
fn distance(candidate: u64) -> f32 {
    let key = (candidate >> 32) as u32;
    f32::from_bits(if key & 0x8000_0000 != 0 { key ^ 0x8000_0000 } else { !key })
}

/// # Safety
/// The machine has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(in super::super) unsafe fn butterflies(values: &mut [f32], lowest: usize) {
    portable::butterflies(values, lowest);
}

/// # Safety
/// The machine has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(in super::super) unsafe fn inner(left: &[f32], right: &[f32]) -> f32 {
    portable::inner(left, right)
}

/// # Safety
/// The machine has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(in super::super) unsafe fn add(sums: &mut [f32], times: f32, values: &[f32]) {
    portable::add(sums, times, values);
}

macro_rules! halves {
    ($name:ident, |$a:ident, $b:ident, $sum:ident| $step:expr) => {
        /// # Safety
        /// The machine has the features; lengths are equal.
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
        pub(in super::super) unsafe fn $name(row: &[f16], query: &[f32]) -> f32 {
            let mut sums = [_mm512_setzero_ps(); 2];
            let mut at = 0;
            while at < row.len() {
                let mask = (0xffff_u32 >> (16 - (row.len() - at).min(16))) as u16;
                // SAFETY: lanes past the end of both slices are masked off.
                let ($a, $b) = unsafe {
                    let halves = _mm256_maskz_loadu_epi16(mask, row.as_ptr().add(at).cast());
                    (_mm512_cvtph_ps(halves), _mm512_maskz_loadu_ps(mask, query.as_ptr().add(at)))
                };
                let $sum = sums[0];
                sums = [sums[1], $step];
                at += 16;
            }
            _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1]))
        }
    };
}

halves!(dot, |a, b, sum| _mm512_fmadd_ps(a, b, sum));
halves!(squared_distance, |a, b, sum| {
    let difference = _mm512_sub_ps(a, b);
    _mm512_fmadd_ps(difference, difference, sum)
});
