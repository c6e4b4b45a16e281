//! Partitions of a graph's rows, from a sample of these; the same on every machine.

use std::sync::atomic::{AtomicBool, Ordering};

use super::super::kernel::Kernel;
use super::super::kernel::lists::{BLOCK_ROWS, PLANE, place};
use super::super::memory::{Lines, Words};
use super::super::random::Random;
use super::super::space::{Space, squared_length};
use super::super::{BuildError, Rows};
use super::centres::{Centres, Products};
use super::codebook::{Codebook, Encoder};
use super::{NOBODY, Partitions};

/// Centres for the square root of the number of rows.
const CENTRES_PER_ROOT: usize = 3;
/// Rows of the sample that centres are learned from, for each; and of that for the codebook, in all.
const SAMPLED_PER_CENTRE: usize = 32;
const SAMPLED_FOR_CODEBOOK: usize = 20_000;
/// Rows between two questions whether to go on.
const ROWS_PER_CHECK: usize = 4_096;

impl Partitions {
    /// Of the rows of a graph, which has them in this order.
    pub(in super::super) fn learn(
        space: &Space,
        rows: &dyn Rows,
        order: &[u32],
        kernel: Kernel,
        stop: Option<&AtomicBool>,
    ) -> Result<Self, BuildError> {
        let points = Points { space, rows, order, stop };
        let dims = space.dims();
        let mut random = Random::new(space.seed ^ 0x7061_7274_7300);
        let count = (order.len().isqrt() * CENTRES_PER_ROOT).clamp(1, order.len());
        let mut sample = points.sample(count * SAMPLED_PER_CENTRE, &mut random);
        let centres = Centres::learn(&sample, dims, count, kernel, &mut random);
        let mut products = [Products::default(), Products::default()];
        let mut centre = vec![0.0; dims];
        sample.truncate(SAMPLED_FOR_CODEBOOK * dims);
        for row in sample.chunks_exact_mut(dims) {
            centres.read(centres.nearest(row, kernel, &mut products[0]), &mut centre);
            row.iter_mut().zip(&centre).for_each(|(value, centre)| *value -= centre);
        }
        let codebook = Codebook::learn(&sample, dims, &mut random);
        drop(sample);
        let mut assigned = Vec::with_capacity(order.len());
        points.each(|_, point| assigned.push(centres.assign(point, kernel, &mut products)))?;
        fill(&points, centres, codebook, &assigned, kernel)
    }
}

/// Puts every row in its lists.
fn fill(
    points: &Points<'_>,
    centres: Centres,
    codebook: Codebook,
    assigned: &[[u32; 2]],
    kernel: Kernel,
) -> Result<Partitions, BuildError> {
    let dims = points.space.dims();
    let mut lengths = vec![0usize; centres.count()];
    assigned.iter().flat_map(distinct).for_each(|list| lengths[*list as usize] += 1);
    let mut starts = vec![0u32];
    let mut blocks = 0;
    for length in &lengths {
        blocks += length.div_ceil(BLOCK_ROWS) as u32;
        starts.push(blocks);
    }
    let stride = Codebook::planes(dims) * PLANE;
    let mut codes = Lines::zeroed(blocks as usize * stride);
    let mut listed = vec![NOBODY; blocks as usize * BLOCK_ROWS];
    let mut filled = vec![0usize; centres.count()];
    let (mut left, mut direction) = (vec![0.0; dims], vec![0.0; dims]);
    let middle = points.space.turned_centre();
    let mut encoder = Encoder::default();
    points.each(|row, point| {
        direction.copy_from_slice(point);
        kernel.add(&mut direction, 1.0, &middle);
        let length = squared_length(&direction).sqrt().max(f32::MIN_POSITIVE);
        direction.iter_mut().for_each(|value| *value /= length);
        for list in distinct(&assigned[row]) {
            let list = *list as usize;
            let at = starts[list] as usize * BLOCK_ROWS + filled[list];
            filled[list] += 1;
            listed[at] = row as u32;
            centres.read(list, &mut left);
            left.iter_mut().zip(point).for_each(|(left, value)| *left = value - *left);
            codebook.encode(&left, &direction, &mut encoder);
            let block = &mut codes.bytes_mut()[at / BLOCK_ROWS * stride..][..stride];
            let (byte, shift) = place(at % BLOCK_ROWS);
            for (plane, code) in block.chunks_exact_mut(PLANE).zip(&encoder.codes) {
                plane[byte] |= code << shift;
            }
        }
    })?;
    Ok(Partitions { centres, codebook, starts, rows: Words::copied(&listed), codes: codes.into_shared() })
}

/// The lists of a row, one of them once.
fn distinct(lists: &[u32; 2]) -> impl Iterator<Item = &u32> {
    lists[..1 + usize::from(lists[0] != lists[1])].iter()
}

/// Rows as points of a space, in the order of a graph.
struct Points<'a> {
    space: &'a Space,
    rows: &'a dyn Rows,
    order: &'a [u32],
    stop: Option<&'a AtomicBool>,
}

impl Points<'_> {
    /// So many different ones, or all that there are.
    fn sample(&self, count: usize, random: &mut Random) -> Vec<f32> {
        let mut chosen = random.permutation(self.order.len());
        chosen.truncate(count);
        let mut sample = Vec::with_capacity(chosen.len() * self.space.dims());
        let (mut values, mut point, mut spare) = (vec![0.0; self.rows.dimension()], vec![], vec![]);
        for row in chosen {
            self.rows.read(row, &mut values);
            self.space.row(&values, &mut point, &mut spare);
            sample.extend_from_slice(&point);
        }
        sample
    }

    /// # Errors
    /// It was stopped.
    fn each(&self, mut with: impl FnMut(usize, &[f32])) -> Result<(), BuildError> {
        let (mut values, mut point, mut spare) = (vec![0.0; self.rows.dimension()], vec![], vec![]);
        for (place, row) in self.order.iter().enumerate() {
            let is_time = place.is_multiple_of(ROWS_PER_CHECK);
            if is_time && self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                return Err(BuildError::Stopped);
            }
            self.rows.read(*row, &mut values);
            self.space.row(&values, &mut point, &mut spare);
            with(place, &point);
        }
        Ok(())
    }
}
