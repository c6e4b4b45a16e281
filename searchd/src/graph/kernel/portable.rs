//! The sums in plain Rust: the meaning of all other kernels.

use half::f16;

use super::{Filled, Packed, Query, candidate};

#[inline(always)]
fn planes<const BITS: usize>(rows: Packed<'_>, query: &Query, ids: &[u32], sums: &mut [i32]) {
    for (id, sum) in ids.iter().zip(sums) {
        let row = &rows.data[*id as usize * rows.stride + rows.offset..][..rows.plane];
        *sum = (0..8 / BITS)
            .map(|p| {
                let query = &query.values[p * query.padded..][..rows.plane];
                let codes = row.iter().map(|byte| i32::from(byte >> (p * BITS)) & ((1 << BITS) - 1));
                codes.zip(query).map(|(code, value)| code * i32::from(*value)).sum::<i32>()
            })
            .sum();
    }
}

pub(super) fn eight(rows: Packed<'_>, query: &Query, ids: &[u32], sums: &mut [i32]) {
    planes::<8>(rows, query, ids, sums);
}

pub(super) fn four(rows: Packed<'_>, query: &Query, ids: &[u32], sums: &mut [i32]) {
    planes::<4>(rows, query, ids, sums);
}

pub(super) fn two(rows: Packed<'_>, query: &Query, ids: &[u32], sums: &mut [i32]) {
    planes::<2>(rows, query, ids, sums);
}

pub(super) fn one(rows: Packed<'_>, query: &Query, ids: &[u32], sums: &mut [i32]) {
    planes::<1>(rows, query, ids, sums);
}

pub(super) fn offer(pool: &mut [u64], filled: &mut Filled, rows: &[u32], distances: &[f32]) {
    for (row, distance) in rows.iter().zip(distances) {
        let new = candidate(*distance, *row);
        if filled.len == filled.capacity {
            if filled.len == 0 || new >= pool[filled.len - 1] {
                continue;
            }
            filled.len -= 1;
        }
        let at = pool[..filled.len].partition_point(|other| *other < new);
        pool.copy_within(at..filled.len, at + 1);
        pool[at] = new;
        filled.len += 1;
        filled.lowest = filled.lowest.min(at);
    }
}

#[inline(always)]
pub(super) fn butterflies(values: &mut [f32], lowest: usize) {
    let mut half = lowest.max(1);
    while half < values.len() {
        for pair in values.chunks_exact_mut(2 * half) {
            let (left, right) = pair.split_at_mut(half);
            for (a, b) in left.iter_mut().zip(right) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
}

#[inline(always)]
pub(super) fn inner(left: &[f32], right: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0f32; LANES];
    let (blocks, rest) = left.as_chunks::<LANES>();
    let (others, other_rest) = right.as_chunks::<LANES>();
    for (block, other) in blocks.iter().zip(others) {
        for ((sum, a), b) in sums.iter_mut().zip(block).zip(other) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f32>() + rest.iter().zip(other_rest).map(|(a, b)| a * b).sum::<f32>()
}

#[inline(always)]
pub(super) fn add(sums: &mut [f32], times: f32, values: &[f32]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += times * value;
    }
}

pub(super) fn dot(row: &[f16], query: &[f32]) -> f32 {
    row.iter().zip(query).map(|(a, b)| a.to_f32() * b).sum()
}

pub(super) fn squared_distance(row: &[f16], query: &[f32]) -> f32 {
    let differences = row.iter().zip(query).map(|(a, b)| a.to_f32() - b);
    differences.map(|difference| difference * difference).sum()
}
