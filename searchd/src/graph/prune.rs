//! Which candidates become neighbours: those that no nearer neighbour already leads to (Vamana's robust prune; with a
//! slack of 1 the heuristic of HNSW).

use super::codes::{Codes, PackedQuery};
use super::kernel::Kernel;

/// Neighbours compared with a candidate at once; most candidates are dropped by one of the first.
const GROUP: usize = 8;

/// The buffers of pruning.
pub(super) struct Pruner {
    query: PackedQuery,
    sums: [i32; GROUP],
    distances: [f32; GROUP],
}

impl Pruner {
    pub(super) fn new(codes: &Codes) -> Self {
        Self { query: codes.empty_query(), sums: [0; GROUP], distances: [0.0; GROUP] }
    }

    /// Chooses at most `degree` of the candidates, which are sorted by squared distance. A candidate is dropped when
    /// a chosen one is nearer to it by the factor `slack` than the row itself is.
    pub(super) fn prune(
        &mut self,
        codes: &Codes,
        kernel: Kernel,
        candidates: &[(f32, u32)],
        degree: usize,
        slack: f32,
        chosen: &mut Vec<u32>,
    ) {
        chosen.clear();
        for (distance, candidate) in candidates {
            if chosen.len() == degree {
                break;
            }
            if chosen.contains(candidate) {
                continue;
            }
            codes.pack_row(*candidate, &mut self.query);
            let length = codes.squared_length(*candidate);
            let is_led_to = chosen.chunks(GROUP).any(|group| {
                codes.distances(kernel, &self.query, group, &mut self.sums, &mut self.distances);
                self.distances[..group.len()].iter().any(|between| slack * (between + length) < *distance)
            });
            if !is_led_to {
                chosen.push(*candidate);
            }
        }
    }
}
