//! Which segments are being built into others, so that no two builds that run at the same time take the same rows.

use std::sync::Arc;

use parking_lot::Mutex;

use super::parts::Parts;
use super::segment::Segment;

/// The segments that are taken.
#[derive(Clone, Default)]
pub(super) struct Claims(Arc<Mutex<Vec<u32>>>);

/// Some segments that nobody else takes until this is dropped.
pub(super) struct Claimed {
    claims: Claims,
    pub(super) segments: Vec<Arc<Segment>>,
}

impl Claims {
    /// Takes what `choose` chooses of the segments that may become part of others and are not taken; none where it chooses none.
    pub(super) fn take(
        &self,
        parts: impl FnOnce() -> Arc<Parts>,
        choose: impl FnOnce(Vec<Arc<Segment>>) -> Option<Vec<Arc<Segment>>>,
    ) -> Option<Claimed> {
        let mut taken = self.0.lock();
        // Looked at with the lock: whoever gave a claim back has put something else in the place of its segments.
        let mut free = parts().fit();
        free.retain(|segment| !taken.contains(&segment.part()));
        let segments = choose(free)?;
        taken.extend(segments.iter().map(|segment| segment.part()));
        Some(Claimed { claims: self.clone(), segments })
    }

    /// Whether any is taken.
    pub(super) fn is_any(&self) -> bool {
        !self.0.lock().is_empty()
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        let is_ours = |part: &u32| self.segments.iter().any(|segment| segment.part() == *part);
        self.claims.0.lock().retain(|part| !is_ours(part));
    }
}
