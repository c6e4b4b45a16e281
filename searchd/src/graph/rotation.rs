//! A random rotation that costs O(d log d): rounds of random signs, butterflies and random permutations.
//!
//! After it the coordinates of any vector look alike and normal, which is what makes a few bits for each of them enough
//! (RaBitQ, Gao and Long 2024). A Walsh–Hadamard transform needs a power of two, so rounds alternate between the first
//! and the last 2^k coordinates, which overlap; no padding is needed and lengths are kept. Stages between coordinates
//! nearer than a vector register are left out: they are slow, and the permutations mix as well.

use super::kernel::Kernel;
use super::random::Random;

const ROUNDS: usize = 4;
/// Nearest coordinates that a stage combines, where there are enough.
const LOWEST: usize = 16;

#[derive(Clone)]
pub(super) struct Rotation {
    rounds: Vec<Round>,
    lowest: usize,
    kernel: Kernel,
}

#[derive(Clone)]
struct Round {
    /// Where the transformed coordinates begin and end.
    start: usize,
    end: usize,
    /// ±1 for each coordinate, times the scale of the transform.
    signs: Vec<f32>,
    /// Which coordinate comes to each place before.
    from: Vec<u32>,
}

impl Rotation {
    pub(super) fn new(dims: usize, seed: u64, kernel: Kernel) -> Self {
        let mut random = Random::new(seed ^ 0x726f_7461_7465);
        let block = if dims == 0 { 0 } else { 1 << dims.ilog2() };
        let lowest = if block >= LOWEST * 4 { LOWEST } else { 1 };
        let scale = 1.0 / ((block / lowest) as f32).sqrt();
        let rounds = (0..ROUNDS).map(|round| {
            let start = if round % 2 == 0 { 0 } else { dims - block };
            let end = start + block;
            let sign = |i| {
                let size = if (start..end).contains(&i) { scale } else { 1.0 };
                if random.next() & 1 == 0 { size } else { -size }
            };
            let signs = (0..dims).map(sign).collect();
            Round { start, end, signs, from: random.permutation(dims) }
        });
        Self { rounds: rounds.collect(), lowest, kernel }
    }

    /// Turns `values`; what is in `spare` afterwards means nothing.
    pub(super) fn apply(&self, values: &mut Vec<f32>, spare: &mut Vec<f32>) {
        for round in &self.rounds {
            spare.clear();
            spare.extend(round.from.iter().zip(&round.signs).map(|(from, sign)| values[*from as usize] * sign));
            self.kernel.butterflies(&mut spare[round.start..round.end], self.lowest);
            std::mem::swap(values, spare);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_angles_are_kept_and_spikes_are_spread() {
        for dims in [1, 2, 50, 384, 785] {
            let rotation = Rotation::new(dims, 7, Kernel::detect());
            let mut spike = vec![0.0; dims];
            spike[dims / 2] = 1.0;
            let mut wave: Vec<f32> = (0..dims).map(|i| (i as f32).sin()).collect();
            let length: f32 = wave.iter().map(|v| v * v).sum();
            let before = wave[dims / 2];
            let mut spare = vec![];
            rotation.apply(&mut spike, &mut spare);
            rotation.apply(&mut wave, &mut spare);
            let after: f32 = spike.iter().zip(&wave).map(|(a, b)| a * b).sum();
            assert!((after - before).abs() < 1e-4);
            assert!((wave.iter().map(|v| v * v).sum::<f32>() - length).abs() < 1e-3 * length.max(1.0));
            if dims > 40 {
                assert!(spike.iter().all(|v| v.abs() < 8.0 / (dims as f32).sqrt()));
            }
        }
    }
}
