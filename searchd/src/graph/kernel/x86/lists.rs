//! Sums over rows that lie side by side. Callers have checked shapes and features.

use std::arch::x86_64::*;

use super::super::lists::{BLOCK_ROWS, GROUP, PLANE, SIDE};

const HALF: usize = BLOCK_ROWS / 2;

/// Bytes are widened by adding pairs of them as words: what even ones hold of the odd ones is taken off at the end.
///
/// # Safety
/// The machine has the features; block and tables are of one length, which is whole pairs of planes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(in super::super) unsafe fn scan_avx512(
    block: &[u8],
    tables: &[u8],
    limit: u16,
    sums: &mut [u16; BLOCK_ROWS],
) -> u64 {
    let low = _mm512_set1_epi8(15);
    // SAFETY: (of the calls) two planes from `offset` on are inside of both slices.
    let look = |offset: usize| unsafe {
        let codes = _mm512_loadu_si512(block.as_ptr().add(offset).cast());
        let table = _mm512_loadu_si512(tables.as_ptr().add(offset).cast());
        let high = _mm512_and_si512(_mm512_srli_epi16::<4>(codes), low);
        [_mm512_shuffle_epi8(table, _mm512_and_si512(codes, low)), _mm512_shuffle_epi8(table, high)]
    };
    let (mut even, mut odd) = ([_mm512_setzero_si512(); 2], [_mm512_setzero_si512(); 2]);
    let mut offset = 0;
    while offset < block.len() {
        let mut entries = look(offset);
        offset += 2 * PLANE;
        if offset < block.len() {
            let others = look(offset);
            entries = [_mm512_add_epi8(entries[0], others[0]), _mm512_add_epi8(entries[1], others[1])];
            offset += 2 * PLANE;
        }
        for i in 0..2 {
            even[i] = _mm512_add_epi16(even[i], entries[i]);
            odd[i] = _mm512_add_epi16(odd[i], _mm512_srli_epi16::<8>(entries[i]));
        }
    }
    let fold = |sums| _mm256_add_epi16(_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64::<1>(sums));
    let mut mask = 0;
    for i in 0..2 {
        let (even, odd) = (fold(_mm512_sub_epi16(even[i], _mm512_slli_epi16::<8>(odd[i]))), fold(odd[i]));
        let first = _mm512_castsi256_si512(_mm256_unpacklo_epi16(even, odd));
        let words = _mm512_inserti64x4::<1>(first, _mm256_unpackhi_epi16(even, odd));
        // SAFETY: half of the sums are from there on.
        unsafe { _mm512_storeu_si512(sums.as_mut_ptr().add(i * HALF).cast(), words) };
        mask |= u64::from(_mm512_cmplt_epu16_mask(words, _mm512_set1_epi16(limit as i16))) << (i * HALF);
    }
    mask
}

/// As [`scan_avx512`], a plane at a time.
///
/// # Safety
/// The machine has AVX2; block and tables are of one length, which is whole pairs of planes.
#[target_feature(enable = "avx2")]
pub(in super::super) unsafe fn scan_avx2(block: &[u8], tables: &[u8], limit: u16, sums: &mut [u16; BLOCK_ROWS]) -> u64 {
    let low = _mm256_set1_epi8(15);
    // SAFETY: (of the calls) a plane from `offset` on is inside of both slices.
    let look = |offset: usize| unsafe {
        let codes = _mm256_loadu_si256(block.as_ptr().add(offset).cast());
        let table = _mm256_loadu_si256(tables.as_ptr().add(offset).cast());
        let high = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), low);
        [_mm256_shuffle_epi8(table, _mm256_and_si256(codes, low)), _mm256_shuffle_epi8(table, high)]
    };
    let (mut even, mut odd) = ([_mm256_setzero_si256(); 2], [_mm256_setzero_si256(); 2]);
    for offset in (0..block.len()).step_by(2 * PLANE) {
        let (first, second) = (look(offset), look(offset + PLANE));
        for i in 0..2 {
            let entries = _mm256_add_epi8(first[i], second[i]);
            even[i] = _mm256_add_epi16(even[i], entries);
            odd[i] = _mm256_add_epi16(odd[i], _mm256_srli_epi16::<8>(entries));
        }
    }
    // Sums are below 2^15, so is what they are compared with.
    let limit = _mm256_set1_epi16(limit.min(i16::MAX as u16) as i16);
    let mut mask = 0;
    for i in 0..2 {
        let even = _mm256_sub_epi16(even[i], _mm256_slli_epi16::<8>(odd[i]));
        let words = [_mm256_unpacklo_epi16(even, odd[i]), _mm256_unpackhi_epi16(even, odd[i])];
        // SAFETY: half of the sums are from there on, in two registers.
        unsafe {
            let sums = sums.as_mut_ptr().add(i * HALF);
            _mm256_storeu_si256(sums.cast(), words[0]);
            _mm256_storeu_si256(sums.add(HALF / 2).cast(), words[1]);
        }
        let below = words.map(|words| _mm256_cmpgt_epi16(limit, words));
        let below = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi16(below[0], below[1]));
        mask |= u64::from(_mm256_movemask_epi8(below) as u32) << (i * HALF);
    }
    mask
}

/// # Safety
/// The machine has the features; points are whole blocks of as many coordinates as the query.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(in super::super) unsafe fn across_avx512(points: &[u8], query: &[i8], sums: &mut [i32]) {
    let stride = SIDE * query.len();
    for (i, sums) in sums.chunks_exact_mut(SIDE).enumerate() {
        // Two sums, or each product would wait for the one before.
        let mut halves = [_mm512_setzero_si512(); 2];
        let mut group = 0;
        while group < query.len() / GROUP {
            // SAFETY: a group of a block is 64 bytes inside of the points, and four bytes inside of the query.
            unsafe {
                let points = points.as_ptr().add(i * stride + group * SIDE * GROUP);
                let query = query.as_ptr().add(group * GROUP).cast::<i32>().read_unaligned();
                let half = &mut halves[group % 2];
                *half = _mm512_dpbusd_epi32(*half, _mm512_loadu_si512(points.cast()), _mm512_set1_epi32(query));
            }
            group += 1;
        }
        // SAFETY: there are sixteen.
        unsafe { _mm512_storeu_si512(sums.as_mut_ptr().cast(), _mm512_add_epi32(halves[0], halves[1])) };
    }
}

/// # Safety
/// The machine has AVX2; points are whole blocks of as many coordinates as the query.
#[target_feature(enable = "avx2")]
pub(in super::super) unsafe fn across_avx2(points: &[u8], query: &[i8], sums: &mut [i32]) {
    let stride = SIDE * query.len();
    let ones = _mm256_set1_epi16(1);
    for (i, sums) in sums.chunks_exact_mut(SIDE).enumerate() {
        let mut halves = [_mm256_setzero_si256(); 2];
        for group in 0..query.len() / GROUP {
            // SAFETY: a group of a block is 64 bytes inside of the points, and four bytes inside of the query.
            unsafe {
                let points = points.as_ptr().add(i * stride + group * SIDE * GROUP);
                let query = query.as_ptr().add(group * GROUP).cast::<i32>().read_unaligned();
                for (j, half) in halves.iter_mut().enumerate() {
                    let points = _mm256_loadu_si256(points.add(j * PLANE).cast());
                    // Coordinates of points are at most 127, so pairs of products don't saturate.
                    let pairs = _mm256_maddubs_epi16(points, _mm256_set1_epi32(query));
                    *half = _mm256_add_epi32(*half, _mm256_madd_epi16(pairs, ones));
                }
            }
        }
        for (j, half) in halves.into_iter().enumerate() {
            // SAFETY: there are sixteen.
            unsafe { _mm256_storeu_si256(sums.as_mut_ptr().add(j * SIDE / 2).cast(), half) };
        }
    }
}
