//! Filters as a search of a graph has them.

/// The first walk under a filter keeps at most this many times the candidates of an open one.
const MAX_WIDENING: f32 = 16.0;
/// A filtered walk may look at this many times the rows that would do if those admitted were spread evenly, for they
/// often are not.
const CORRELATION: f32 = 8.0;
/// Where so many of the nearest rows should be admitted, and so many times fewer are, the filter goes against the query.
const TELLING: f32 = 6.0;
const AGAINST: f32 = 4.0;

/// Says which rows may be found, by their numbers as they were built.
pub trait Admits {
    fn admits(&self, row: u32) -> bool;

    /// A bit for each of at most 64 rows, from the lowest up. Who asks so asks for all rows, in any order.
    fn mask(&self, rows: &[u32]) -> u64 {
        mask(rows, |row| self.admits(row))
    }
}

/// See [`Admits::mask`].
#[inline]
pub fn mask(rows: &[u32], admits: impl Fn(u32) -> bool) -> u64 {
    rows.iter().rev().fold(0, |mask, row| mask << 1 | u64::from(admits(*row)))
}

impl<F: Fn(u32) -> bool> Admits for F {
    #[inline]
    fn admits(&self, row: u32) -> bool {
        self(row)
    }
}

/// Which rows may be found.
#[derive(Clone, Copy)]
pub struct Filter<'a> {
    pub admits: &'a dyn Admits,
    /// The part of all rows that is admitted, as well as is known.
    pub fraction: f32,
    /// All that are admitted, by the same numbers, where they are known.
    pub listed: Option<&'a [u32]>,
    pub through: Through,
}

/// How a search under a filter goes through a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    /// A walk over all rows; those that are admitted are kept.
    All,
    /// A walk over admitted rows, from one to the next directly or through one that is not.
    Admitted,
    /// No walk: the codes of all that is admitted are compared.
    Codes,
}

impl Filter<'_> {
    /// Candidates to keep at first where an open walk keeps `ef`.
    pub(super) fn widened(&self, ef: usize) -> usize {
        let kept_out = (1.0 / self.fraction - 1.0).max(0.0);
        let widening = (1.0 + CORRELATION * kept_out).min(MAX_WIDENING);
        (ef as f32 * widening) as usize
    }

    /// Whether so few of the `near` rows are admitted that the filter keeps out just what is near.
    pub(super) fn is_against(&self, admitted: usize, near: usize) -> bool {
        let expected = self.fraction * near as f32;
        expected >= TELLING && (admitted as f32) * AGAINST < expected
    }

    /// Of `rows` rows, how many a walk must have met that are admitted, for its best `rescored` to be the best there are.
    /// Half of what is admitted does: the part is an estimate.
    pub(super) fn enough(&self, rows: usize, rescored: usize) -> usize {
        rescored.min((self.fraction * rows as f32 / 2.0) as usize)
    }
}
