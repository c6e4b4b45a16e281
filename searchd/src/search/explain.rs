//! What a search tells of itself when it is asked to: which way it went, through what, and what that took.

use std::time::{Duration, Instant};

use crate::index::plan::Trail;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Explanation {
    /// Live points of the collection.
    pub points: u64,
    /// Without the wish to be explained, the answer would have come from the cache.
    pub is_kept: bool,
    /// Absent without a filter.
    pub filter: Option<FilterUse>,
    pub trail: Trail,
    /// In the order in which they came. What the searches of a batch do together is each one's in equal parts.
    pub phases: Vec<(&'static str, Duration)>,
    /// More than one where writes changed what was found while the search ran.
    pub attempts: usize,
}

/// How the filter became a set of points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterUse {
    pub admitted: u64,
    /// What it admits was known from a search before.
    pub kept: bool,
    pub index: Coverage,
    /// Points of which the index was not sure, so that their metadata was read.
    pub read: u64,
}

/// How much of a collection's metadata is indexed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// All of it, as far as it is not too long or too much.
    Complete,
    /// The index is being built; what it lacks is read from the records.
    Building,
    /// The collection is so small that there is none.
    None,
}

impl Coverage {
    pub fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Building => "building",
            Self::None => "none",
        }
    }
}

/// Measures one phase after the other.
pub(super) struct Stopwatch(Instant);

impl Stopwatch {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since the last phase ended.
    pub(super) fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now - std::mem::replace(&mut self.0, now)
    }
}

impl Explanation {
    pub(super) fn add(&mut self, phase: &'static str, took: Duration) {
        match self.phases.iter_mut().find(|(known, _)| *known == phase) {
            Some((_, sum)) => *sum += took,
            None => self.phases.push((phase, took)),
        }
    }
}
