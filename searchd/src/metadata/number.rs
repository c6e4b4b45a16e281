//! Numbers in the order of their values, whatever their spelling: 1 and 1.0 are one, 2^53 and 2^53 + 1 are two.

use std::cmp::Ordering;

use crate::filter;

/// A JSON number; those are finite, so any two compare.
#[derive(Clone, Debug)]
pub(super) struct Number(pub(super) serde_json::Number);

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        filter::compare_numbers(&self.0, &other.0).unwrap_or(Ordering::Equal)
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Number {}
