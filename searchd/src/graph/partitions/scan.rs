//! A search of the nearest partitions: sums of coarse codes first, then the best of those by the graph's own codes.

use std::ops::Range;

use super::super::adjacency::MAX_DEGREE;
use super::super::codes::{Codes, PackedQuery};
use super::super::kernel::Kernel;
use super::super::kernel::lists::{BLOCK_ROWS, PLANE};
use super::super::kernel::prefetch;
use super::super::memory::LINE;
use super::super::pool::Candidate;
use super::super::walk::{Effort, Guide, Halted, Scratch};
use super::centres::Products;
use super::codebook::Tables;
use super::{NOBODY, Partitions};

/// For each candidate that a walk would keep, so many rows are compared by the graph's codes…
const COMPARED: usize = 2;
/// …and so many lists are looked at, in halves: of GloVe's 398,000 rows, equal candidates find then as much either way. Lists are as
/// many as the root of the rows is long, so this is as it should be for fewer, too.
const HALF_PROBES: usize = 3;
/// The best are told from the others whenever so many times as many as are kept have come.
const SPARE: usize = 4;
/// One of so many lists tells which are near.
const GLANCED: usize = 8;
/// Lists between two questions whether to go on.
const LISTS_PER_CHECK: usize = 16;
/// Bytes of the next list that are asked for while one is summed; the processor goes on by itself.
const AHEAD: usize = 2_048;

/// What is looked for, and by what it is compared.
#[derive(Clone, Copy)]
pub(in super::super) struct Target<'a> {
    pub codes: &'a Codes,
    pub kernel: Kernel,
    pub point: &'a [f32],
    pub query: &'a PackedQuery,
    /// Candidates to keep.
    pub ef: usize,
}

/// What one thread needs.
#[derive(Default)]
pub(in super::super) struct Scanner {
    tables: Tables,
    products: Products,
    lists: Vec<Candidate>,
    found: Vec<Candidate>,
    rows: Vec<u32>,
}

impl Partitions {
    /// Lists that are looked at for so many candidates.
    fn probes(&self, ef: usize) -> usize {
        (ef * HALF_PROBES).div_ceil(2).clamp(1, self.centres.count())
    }

    /// Leaves the nearest `ef` rows that were met in the scratch's pool.
    pub(in super::super) fn scan<G: Guide>(
        &self,
        target: Target<'_>,
        scanner: &mut Scanner,
        scratch: &mut Scratch,
        guide: &mut G,
    ) -> Result<(), Halted> {
        let Target { codes, kernel, point, query, ef } = target;
        let Scanner { tables, products, lists, found, rows } = scanner;
        self.codebook.tabulate(point, tables);
        self.centres.products(point, kernel, products);
        nearest(&products.values, self.probes(ef), lists, found);
        let kept = (ef * COMPARED).max(1);
        found.clear();
        let mut reach = f32::INFINITY;
        let mut sums = [0; BLOCK_ROWS];
        scratch.effort = Effort::default();
        for (i, list) in lists.iter().enumerate() {
            if i % LISTS_PER_CHECK == LISTS_PER_CHECK - 1 && guide.is_stopped() {
                return Err(Halted::Stopped);
            }
            let blocks = self.blocks(list.row());
            if !guide.believes_partition(self, blocks.clone()) {
                return Err(Halted::Damaged);
            }
            if let Some(next) = lists.get(i + 1) {
                self.prefetch(next.row());
            }
            scratch.effort.hops += 1;
            scratch.effort.distances += blocks.len() * BLOCK_ROWS;
            let base = tables.least + list.distance();
            let mut limit = ((reach - base) / tables.unit) as u16;
            for block in blocks {
                let mut below = kernel.scan(self.block(block), &tables.bytes, limit, &mut sums);
                if below == 0 {
                    continue;
                }
                let listed = &self.rows.get()[block * BLOCK_ROWS..][..BLOCK_ROWS];
                while below != 0 {
                    let at = below.trailing_zeros() as usize;
                    below &= below - 1;
                    if listed[at] != NOBODY && guide.admits(listed[at]) {
                        found.push(Candidate::new(base + tables.unit * f32::from(sums[at]), listed[at]));
                    }
                }
                if found.len() >= kept * SPARE {
                    reach = found.select_nth_unstable(kept - 1).1.distance();
                    found.truncate(kept);
                    limit = ((reach - base) / tables.unit) as u16;
                }
            }
        }
        if found.len() > kept {
            found.select_nth_unstable(kept - 1);
            found.truncate(kept);
        }
        rows.clear();
        rows.extend(found.iter().map(|candidate| candidate.row()));
        rows.sort_unstable();
        rows.dedup();
        let Scratch { pool, effort, sums, distances, .. } = scratch;
        pool.reset(ef);
        effort.distances += rows.len();
        for rows in rows.chunks(MAX_DEGREE) {
            rows.iter().for_each(|row| codes.prefetch(*row));
            if !guide.believes_codes(rows) {
                return Err(Halted::Damaged);
            }
            codes.distances(kernel, query, rows, sums, distances);
            pool.offer(kernel, rows, &distances[..rows.len()]);
        }
        Ok(())
    }

    fn stride(&self) -> usize {
        super::Codebook::planes(self.codebook.dims()) * PLANE
    }

    fn blocks(&self, list: u32) -> Range<usize> {
        self.starts[list as usize] as usize..self.starts[list as usize + 1] as usize
    }

    fn block(&self, block: usize) -> &[u8] {
        let stride = self.stride();
        &self.codes[block * stride..][..stride]
    }

    fn prefetch(&self, list: u32) {
        let blocks = self.blocks(list);
        let (start, end) = (blocks.start * self.stride(), blocks.end * self.stride());
        for offset in (start..end.min(start + AHEAD)).step_by(LINE) {
            prefetch(&self.codes, offset);
        }
    }

    /// Where in their bytes the rows and the codes of blocks are.
    pub(in super::super) fn bytes_of(&self, blocks: Range<usize>) -> [Range<usize>; 2] {
        let stride = self.stride();
        let row_bytes = BLOCK_ROWS * size_of::<u32>();
        [blocks.start * row_bytes..blocks.end * row_bytes, blocks.start * stride..blocks.end * stride]
    }
}

/// Leaves the `count` lists of the highest products, the highest first.
fn nearest(products: &[f32], count: usize, lists: &mut Vec<Candidate>, spare: &mut Vec<Candidate>) {
    let each =
        |step: usize| products.iter().zip(0..).step_by(step).map(|(product, list)| Candidate::new(-product, list));
    // Of some of them it is seen how far about as many as are looked for reach, so that most of all need not be ordered.
    spare.clear();
    spare.extend(each(GLANCED));
    let about = count / GLANCED + (count / GLANCED).isqrt() * 2 + 2;
    let reach = if about < spare.len() { spare.select_nth_unstable(about).1.distance() } else { f32::INFINITY };
    lists.clear();
    lists.resize(products.len(), Candidate::new(0.0, 0));
    let mut taken = 0;
    for (product, list) in products.iter().zip(0..) {
        lists[taken] = Candidate::new(-product, list);
        taken += usize::from(-product <= reach);
    }
    if taken < count {
        taken = products.len();
        lists.clear();
        lists.extend(each(1));
    }
    lists.truncate(taken);
    if count < taken {
        lists.select_nth_unstable(count);
        lists.truncate(count);
    }
    lists.sort_unstable();
}
