//! Which collections nobody has written to for a while.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::index::Index;

pub(super) struct Rest {
    /// Time without a write after which a collection is at rest.
    after: Duration,
    /// By incarnation.
    quiet: HashMap<u64, Quiet>,
}

/// A collection's last write, and since when it is the last.
struct Quiet {
    written: u64,
    since: Instant,
}

impl Rest {
    pub(super) fn new(after: Duration) -> Self {
        Self { after, quiet: HashMap::new() }
    }

    /// Forgets collections that are gone. All others were asked about before.
    pub(super) fn retain(&mut self, indexes: &[(u64, Arc<Index>)]) {
        // There may be thousands, and this is done ten times a second.
        if self.quiet.len() > indexes.len() {
            let there: HashSet<u64> = indexes.iter().map(|(incarnation, _)| *incarnation).collect();
            self.quiet.retain(|known, _| there.contains(known));
        }
    }

    pub(super) fn is_at_rest(&mut self, incarnation: u64, index: &Index) -> bool {
        self.quiet(incarnation, index).is_some()
    }

    /// For how long nobody has written; none while it is not at rest.
    pub(super) fn quiet(&mut self, incarnation: u64, index: &Index) -> Option<Duration> {
        let written = index.written();
        let quiet = self.quiet.entry(incarnation).or_insert_with(|| Quiet { written, since: Instant::now() });
        if quiet.written != written {
            *quiet = Quiet { written, since: Instant::now() };
        }
        Some(quiet.since.elapsed()).filter(|quiet| *quiet >= self.after)
    }
}
