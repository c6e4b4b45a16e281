//! From a filter to the slots that it admits.
//!
//! In a conjunction the cheap conditions come first; a range over a great many values is gone through only as far as
//! what the others leave is worth, and otherwise left to the records.

use roaring::RoaringBitmap;

use super::bounds::Bounds;
use super::{Index, Read};
use crate::engine::Slot;
use crate::filter::{Filter, Path, Test};

/// Values that a range goes through for each record that would have to be read instead: a record is parsed in the time
/// of so many.
const VALUES_A_RECORD: u64 = 64;
/// Values that a range may go through however few records are left.
const MIN_BUDGET: usize = 1_024;

impl Index {
    /// What the filter admits of a collection of so many slots.
    pub fn evaluate(&self, filter: &Filter, slots: Slot) -> Bounds {
        let mut unread = RoaringBitmap::new();
        if let Read::Below(end) = self.read {
            unread.insert_range(end..slots);
        }
        let lacking = &unread | &self.partly;
        let evaluation = Evaluation { index: self, unread, lacking };
        evaluation.filter(filter, usize::MAX).unwrap_or_else(|| evaluation.everything().and_unknown())
    }
}

struct Evaluation<'a> {
    index: &'a Index,
    /// Slots that are not in the index at all.
    unread: RoaringBitmap,
    /// Those, and slots that are in it partly: in doubt under every condition.
    lacking: RoaringBitmap,
}

/// The order in which the members of a conjunction are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// One look-up for each value.
    Value,
    Group,
    Range,
    /// Taken off what the others leave.
    Not,
}

impl Rank {
    fn of(filter: &Filter) -> Self {
        match filter {
            Filter::Field { test: Test::Compares(..), .. } => Self::Range,
            Filter::Field { .. } => Self::Value,
            Filter::And(_) | Filter::Or(_) => Self::Group,
            Filter::Not(_) => Self::Not,
        }
    }
}

impl Evaluation<'_> {
    /// `None` when that would take more than the budget: then nothing is known.
    fn filter(&self, filter: &Filter, budget: usize) -> Option<Bounds> {
        match filter {
            Filter::And(all) => self.all(all, budget),
            Filter::Or(any) => {
                any.iter().try_fold(Bounds::default(), |found, filter| Some(found.or(&self.filter(filter, budget)?)))
            }
            Filter::Not(inner) => Some(self.everything().and_not(&self.filter(inner, budget)?)),
            Filter::Field { path, test } => self.field(path, test, budget),
        }
    }

    fn everything(&self) -> Bounds {
        Bounds { sure: self.index.live.clone(), doubt: self.unread.clone() }
    }

    fn all(&self, all: &[Filter], budget: usize) -> Option<Bounds> {
        let mut members: Vec<&Filter> = all.iter().collect();
        members.sort_by_key(|filter| Rank::of(filter));
        let mut left: Option<Bounds> = None;
        let mut is_unknown = false;
        for member in members {
            let budget = left.as_ref().map_or(budget, |left| {
                let worth = left.possible().saturating_mul(VALUES_A_RECORD);
                budget.min(usize::try_from(worth).unwrap_or(usize::MAX).max(MIN_BUDGET))
            });
            let (inner, negated) = match member {
                Filter::Not(inner) => (&**inner, true),
                member => (member, false),
            };
            let Some(found) = self.filter(inner, budget) else {
                is_unknown = true;
                continue;
            };
            left = Some(match (left, negated) {
                (None, false) => found,
                (None, true) => self.everything().and_not(&found),
                (Some(left), false) => left.and(&found),
                (Some(left), true) => left.and_not(&found),
            });
            if left.as_ref().is_some_and(Bounds::is_empty) {
                return left;
            }
        }
        match (left, is_unknown) {
            (Some(left), true) => Some(left.and_unknown()),
            (None, true) => None,
            (left, false) => Some(left.unwrap_or_else(|| self.everything())),
        }
    }

    fn field(&self, path: &Path, test: &Test, budget: usize) -> Option<Bounds> {
        let (sure, doubt) = match self.index.columns.get(path.dotted().as_str()) {
            Some(column) => column.find(test, budget)?,
            None => Default::default(),
        };
        if self.lacking.is_empty() {
            return Some(Bounds { sure, doubt });
        }
        Some(Bounds { doubt: (doubt | &self.lacking) - &sure, sure })
    }
}
