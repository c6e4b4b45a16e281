//! Seeded test data that looks like embeddings: points around cluster centres.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// `count` vectors of `dimension` numbers around `clusters` centres; the same for the same seed.
pub fn clustered(seed: u64, count: usize, dimension: usize, clusters: usize) -> Vec<Vec<f32>> {
    let mut random = StdRng::seed_from_u64(seed);
    let centres: Vec<Vec<f32>> = (0..clusters).map(|_| gaussian(&mut random, dimension, 1.0)).collect();
    (0..count)
        .map(|i| {
            let noise = gaussian(&mut random, dimension, 0.35);
            centres[i % clusters].iter().zip(noise).map(|(centre, noise)| centre + noise).collect()
        })
        .collect()
}

fn gaussian(random: &mut StdRng, dimension: usize, deviation: f32) -> Vec<f32> {
    // Box and Muller's transform of two uniform numbers.
    let mut normal = || {
        let (a, b): (f32, f32) = (random.random_range(f32::EPSILON..1.0), random.random_range(0.0..1.0));
        (-2.0 * a.ln()).sqrt() * (std::f32::consts::TAU * b).cos() * deviation
    };
    (0..dimension).map(|_| normal()).collect()
}

/// The base64 form of a vector: little-endian f32 (API.md, conventions).
pub fn base64(values: &[f32]) -> String {
    use base64::Engine;
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
