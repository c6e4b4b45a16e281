//! The arithmetic of exact scores: inner products and squared distances of f32 vectors.
//!
//! One body, compiled for what x86-64 machines have today and chosen at run time. Sums run over a fixed number of lanes,
//! so the result depends on the vectors and the instruction set only, never on where in memory they are.

/// How the scores of one metric are computed. Both functions take slices of equal length.
#[derive(Clone, Copy)]
pub struct Kernel {
    pub dot: fn(&[f32], &[f32]) -> f32,
    pub squared_distance: fn(&[f32], &[f32]) -> f32,
}

impl Kernel {
    /// The fastest that this machine runs.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                return Self { dot: x86::dot_avx512, squared_distance: x86::squared_distance_avx512 };
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Self { dot: x86::dot_avx2, squared_distance: x86::squared_distance_avx2 };
            }
        }
        Self { dot: portable_dot, squared_distance: portable_squared_distance }
    }
}

/// Lanes of one accumulator, and accumulators: enough to keep two multiply-adds of 512 bits under way.
const LANES: usize = 16;
const ROWS: usize = 4;

/// One step of every lane.
macro_rules! block {
    ($sums:ident, $left:expr, $right:expr, |$a:ident, $b:ident, $sum:ident| $step:expr) => {
        for row in 0..ROWS {
            for lane in 0..LANES {
                let ($a, $b) = ($left[row * LANES + lane], $right[row * LANES + lane]);
                let $sum = $sums[row][lane];
                $sums[row][lane] = $step;
            }
        }
    };
}

macro_rules! accumulate {
    ($left:expr, $right:expr, |$a:ident, $b:ident, $sum:ident| $step:expr) => {{
        let (left, right) = ($left, $right);
        let mut sums = [[0f32; LANES]; ROWS];
        let mut left_blocks = left.chunks_exact(LANES * ROWS);
        let mut right_blocks = right.chunks_exact(LANES * ROWS);
        for (left, right) in (&mut left_blocks).zip(&mut right_blocks) {
            block!(sums, left, right, |$a, $b, $sum| $step);
        }
        let (left, right) = (left_blocks.remainder(), right_blocks.remainder());
        let rest = left.len().min(right.len());
        if rest > 0 {
            // Filled up with zeros, which add nothing: so all lanes are always the same ones, and stay in registers.
            let (mut left_end, mut right_end) = ([0f32; LANES * ROWS], [0f32; LANES * ROWS]);
            left_end[..rest].copy_from_slice(&left[..rest]);
            right_end[..rest].copy_from_slice(&right[..rest]);
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

fn portable_dot(left: &[f32], right: &[f32]) -> f32 {
    accumulate!(left, right, |a, b, sum| sum + a * b)
}

fn portable_squared_distance(left: &[f32], right: &[f32]) -> f32 {
    accumulate!(left, right, |a, b, sum| {
        let difference = a - b;
        sum + difference * difference
    })
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{LANES, ROWS};

    macro_rules! kernels {
        ($features:literal, $dot:ident, $squared_distance:ident) => {
            pub(super) fn $dot(left: &[f32], right: &[f32]) -> f32 {
                #[target_feature(enable = $features)]
                fn inner(left: &[f32], right: &[f32]) -> f32 {
                    accumulate!(left, right, |a, b, sum| a.mul_add(b, sum))
                }
                // SAFETY: `Kernel::detect` hands this function out only where the features are present.
                unsafe { inner(left, right) }
            }

            pub(super) fn $squared_distance(left: &[f32], right: &[f32]) -> f32 {
                #[target_feature(enable = $features)]
                fn inner(left: &[f32], right: &[f32]) -> f32 {
                    accumulate!(left, right, |a, b, sum| {
                        let difference = a - b;
                        difference.mul_add(difference, sum)
                    })
                }
                // SAFETY: `Kernel::detect` hands this function out only where the features are present.
                unsafe { inner(left, right) }
            }
        };
    }

    kernels!("avx2,fma", dot_avx2, squared_distance_avx2);
    kernels!("avx512f,avx2,fma", dot_avx512, squared_distance_avx512);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_agrees_with_f64() {
        for length in [0, 1, 15, 16, 17, 63, 64, 65, 384, 785] {
            let left: Vec<f32> = (0..length).map(|i| (i as f32 * 0.37).sin()).collect();
            let right: Vec<f32> = (0..length).map(|i| (i as f32 * 0.11).cos()).collect();
            let pairs = || left.iter().zip(&right).map(|(a, b)| (f64::from(*a), f64::from(*b)));
            let dot: f64 = pairs().map(|(a, b)| a * b).sum();
            let squared: f64 = pairs().map(|(a, b)| (a - b) * (a - b)).sum();
            for kernel in [Kernel::detect(), Kernel { dot: portable_dot, squared_distance: portable_squared_distance }]
            {
                assert!((f64::from((kernel.dot)(&left, &right)) - dot).abs() < 1e-4);
                assert!((f64::from((kernel.squared_distance)(&left, &right)) - squared).abs() < 1e-3);
            }
        }
    }
}
