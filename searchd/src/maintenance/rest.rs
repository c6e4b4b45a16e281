//! Which collections nobody has written to for a while.

use std::collections::HashMap;
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

    /// Forgets collections that are gone.
    pub(super) fn retain(&mut self, indexes: &[(u64, Arc<Index>)]) {
        self.quiet.retain(|known, _| indexes.iter().any(|(incarnation, _)| incarnation == known));
    }

    pub(super) fn is_at_rest(&mut self, incarnation: u64, index: &Index) -> bool {
        let written = index.written();
        let quiet = self.quiet.entry(incarnation).or_insert_with(|| Quiet { written, since: Instant::now() });
        if quiet.written != written {
            *quiet = Quiet { written, since: Instant::now() };
        }
        quiet.since.elapsed() >= self.after
    }
}
