//! When a search goes by partitions, and what it does where they are not enough.

use super::super::Graph;
use super::super::filter::Filter;
use super::super::kernel::{Kernel, Level};
use super::super::walk::{Guide, Halted, Scratch};
use super::Partitions;
use super::scan::{Scanner, Target};

/// Partitions are looked through for a filter that admits at least this part: with as many candidates as an open search keeps.
const MOSTLY: f32 = 0.8;

/// Keeps out what a filter does while partitions are looked through.
struct Gate<'a, 'b> {
    rows: &'a [u32],
    filter: Filter<'b>,
    stop: Option<&'b dyn Fn() -> bool>,
    asked: usize,
    admitted: usize,
}

impl Guide for Gate<'_, '_> {
    fn met(&mut self, _: Kernel, _: &[u32], _: &[f32]) {}

    fn has_enough(&self, _: f32) -> bool {
        false
    }

    fn is_stopped(&self) -> bool {
        self.stop.is_some_and(|stop| stop())
    }

    fn admits(&mut self, row: u32) -> bool {
        let is_admitted = self.filter.admits.admits(self.rows[row as usize]);
        self.asked += 1;
        self.admitted += usize::from(is_admitted);
        is_admitted
    }
}

impl Graph {
    /// Those that this machine sums faster than it walks.
    pub(in super::super) fn partitions(&self) -> Option<&Partitions> {
        self.partitions.as_ref().filter(|_| self.kernel.level() != Level::Portable)
    }

    /// By partitions where there are some, or by a walk.
    pub(in super::super) fn go<G: Guide>(
        &self,
        target: Target<'_>,
        scanner: &mut Scanner,
        scratch: &mut Scratch,
        guide: &mut G,
    ) -> Result<(), Halted> {
        if let Some(partitions) = self.partitions() {
            self.scan(partitions, target, scanner, scratch, guide)?;
            if scratch.pool.candidates().len() >= target.ef.min(self.len()) {
                return Ok(());
            }
            // The nearest lists are short ones.
        }
        self.walk(target.query, target.ef, scratch, guide)
    }

    /// Whether partitions were enough for a search that hardly anything is kept out of, such as what was replaced.
    pub(in super::super) fn look_through(
        &self,
        target: Target<'_>,
        filter: Filter<'_>,
        stop: Option<&dyn Fn() -> bool>,
        scanner: &mut Scanner,
        scratch: &mut Scratch,
    ) -> Result<bool, Halted> {
        let Some(partitions) = self.partitions().filter(|_| filter.fraction >= MOSTLY) else { return Ok(false) };
        let mut gate = Gate { rows: self.rows.get(), filter, stop, asked: 0, admitted: 0 };
        self.scan(partitions, target, scanner, scratch, &mut gate)?;
        let is_full = scratch.pool.candidates().len() >= target.ef;
        Ok(is_full && !filter.is_against(gate.admitted, gate.asked))
    }

    fn scan<G: Guide>(
        &self,
        partitions: &Partitions,
        target: Target<'_>,
        scanner: &mut Scanner,
        scratch: &mut Scratch,
        guide: &mut G,
    ) -> Result<(), Halted> {
        match self.wary(guide) {
            Ok(mut wary) => partitions.scan(target, scanner, scratch, &mut wary),
            Err(guide) => partitions.scan(target, scanner, scratch, guide),
        }
    }
}
