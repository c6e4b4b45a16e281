//! Purging by epochs: a purge remembers when it was, and what was asked for earlier is no answer any more.
//!
//! A fill takes its [`Stamp`] before it asks the origin. So a purge that comes while the origin works on an answer also
//! ends that answer, and nothing has to be searched for or deleted: what is purged is no longer found, then forgotten.
//!
//! Purges are kept in a table of fixed size, by a hash of the tag. Two tags that share a slot purge one another; that
//! costs a miss and no more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::{Clock, Tag, Tags};

/// Slots of the table: half a mebibyte, and one collection in 65,536 shares another's purges.
const SLOTS: usize = 1 << 16;
/// Clocks of two gateways differ by less than this, or a purge reaches less far back than it should.
const SKEW_MICROS: u64 = 2_000_000;

/// When a fill began, and by whose clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Unix microseconds, never the same as a purge before it at this origin.
    pub micros: u64,
    /// The gateway process.
    pub origin: u64,
}

/// A cheap handle: clones purge, and ask, the same table.
#[derive(Clone)]
pub struct Invalidation {
    table: Arc<Table>,
}

struct Table {
    clock: Clock,
    origin: u64,
    last: AtomicU64,
    everything: AtomicU64,
    slots: Box<[AtomicU64]>,
    relay: std::sync::OnceLock<Box<dyn Fn(Purge, Stamp) + Send + Sync>>,
}

/// What is purged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purge {
    Everything,
    Tag(Tag),
}

impl Invalidation {
    pub fn new(clock: Clock) -> Self {
        let slots = (0..SLOTS).map(|_| AtomicU64::new(0)).collect();
        let table = Table {
            clock,
            origin: rand::random(),
            last: AtomicU64::new(0),
            everything: AtomicU64::new(0),
            slots,
            relay: std::sync::OnceLock::new(),
        };
        Self { table: Arc::new(table) }
    }

    /// For whoever writes: `collection` was made, changed or deleted, and the writer has not been told yet. Every
    /// answer about it that was asked for before this call is gone when the call returns. Costs no I/O.
    pub fn collection_changed(&self, tenant: Option<&str>, collection: &str) {
        let collection = if collection.is_empty() { "default" } else { collection };
        self.purge(Purge::Tag(Tag::collection(tenant, collection)));
    }

    /// The same for a write of which only the tenant is known.
    pub fn tenant_changed(&self, tenant: Option<&str>) {
        self.purge(Purge::Tag(Tag::tenant(tenant)));
    }

    /// Purges here, and tells the other gateways if there is a way.
    pub fn purge(&self, purge: Purge) {
        let stamp = Stamp { micros: self.advance(1), origin: self.table.origin };
        self.slot(purge).fetch_max(stamp.micros, Ordering::SeqCst);
        if let Some(relay) = self.table.relay.get() {
            relay(purge, stamp);
        }
    }

    /// Another gateway's purge, as it told. Ours is the later clock at worst: what began here within the difference is
    /// purged too.
    pub(crate) fn learn(&self, purge: Purge, stamp: Stamp) {
        if stamp.origin != self.table.origin {
            self.slot(purge).fetch_max(stamp.micros.saturating_add(SKEW_MICROS), Ordering::SeqCst);
        }
    }

    /// How purges get to the other gateways; the first one given is used.
    pub(crate) fn relay_by(&self, relay: impl Fn(Purge, Stamp) + Send + Sync + 'static) {
        let _ = self.table.relay.set(Box::new(relay));
    }

    /// The stamp of a fill that begins now.
    pub fn begin(&self) -> Stamp {
        Stamp { micros: self.advance(0), origin: self.table.origin }
    }

    /// Was what began at `stamp` purged since?
    pub fn admits(&self, stamp: Stamp, tags: &Tags) -> bool {
        let purged = self.purged(tags);
        let allowance = if stamp.origin == self.table.origin || purged == 0 { 0 } else { SKEW_MICROS };
        stamp.micros >= purged + allowance
    }

    /// How long ago anything under `tags` was last purged; None for never.
    pub fn since_change(&self, tags: &Tags) -> Option<Duration> {
        let purged = self.purged(tags);
        (purged > 0).then(|| Duration::from_micros(self.table.clock.now().saturating_sub(purged)))
    }

    /// The last purge that touches `tags`, in the stamp's microseconds; 0 for none. Flights that began before and after
    /// a purge are different flights by it.
    pub fn purged(&self, tags: &Tags) -> u64 {
        let everything = self.table.everything.load(Ordering::SeqCst);
        tags.iter().map(|tag| self.slot(Purge::Tag(tag)).load(Ordering::SeqCst)).fold(everything, u64::max)
    }

    fn slot(&self, purge: Purge) -> &AtomicU64 {
        match purge {
            Purge::Everything => &self.table.everything,
            Purge::Tag(tag) => &self.table.slots[tag.0 as usize % SLOTS],
        }
    }

    /// The time, `step` past the last one given at least.
    fn advance(&self, step: u64) -> u64 {
        let now = self.table.clock.now();
        let last = &self.table.last;
        let next = |seen: u64| Some(now.max(seen + step));
        match last.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next) {
            Ok(seen) | Err(seen) => now.max(seen + step),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(collection: &str) -> Tags {
        Tags::new(None, collection, Some("1"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_purge_ends_what_began_before_it_and_nothing_else() {
        let invalidation = Invalidation::new(Clock::start());
        // The clock stands still: order alone has to decide.
        let before = invalidation.begin();
        assert!(invalidation.admits(before, &tags("shoes")));
        invalidation.collection_changed(None, "shoes");
        let after = invalidation.begin();
        assert!(!invalidation.admits(before, &tags("shoes")));
        assert!(invalidation.admits(after, &tags("shoes")));
        assert!(invalidation.admits(before, &tags("hats")));
        invalidation.purge(Purge::Tag(Tag::point(None, "hats", "1")));
        assert!(!invalidation.admits(before, &tags("hats")));
        invalidation.purge(Purge::Everything);
        assert!(!invalidation.admits(after, &tags("coats")));
        assert!(invalidation.admits(invalidation.begin(), &tags("coats")));
    }

    #[tokio::test(start_paused = true)]
    async fn the_default_collection_has_a_name() {
        let invalidation = Invalidation::new(Clock::start());
        let before = invalidation.begin();
        invalidation.collection_changed(None, "");
        assert!(!invalidation.admits(before, &tags("default")));
        assert!(invalidation.admits(before, &Tags::new(Some("a"), "default", None)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenants_purge_ends_all_of_its_answers() {
        let invalidation = Invalidation::new(Clock::start());
        let before = invalidation.begin();
        invalidation.tenant_changed(Some("a"));
        assert!(!invalidation.admits(before, &Tags::new(Some("a"), "shoes", None)));
        assert!(invalidation.admits(before, &Tags::new(Some("b"), "shoes", None)));
        assert!(invalidation.admits(before, &tags("shoes")));
    }

    #[tokio::test(start_paused = true)]
    async fn another_gateways_clock_is_trusted_within_a_bound() {
        let (ours, theirs) = (Invalidation::new(Clock::start()), Invalidation::new(Clock::start()));
        assert!(ours.admits(theirs.begin(), &tags("shoes")));
        ours.collection_changed(None, "shoes");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!ours.admits(theirs.begin(), &tags("shoes")));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(ours.admits(theirs.begin(), &tags("shoes")));
    }

    #[tokio::test(start_paused = true)]
    async fn purges_are_told_and_learnt() {
        let (ours, theirs) = (Invalidation::new(Clock::start()), Invalidation::new(Clock::start()));
        let before = theirs.begin();
        let learner = theirs.clone();
        ours.relay_by(move |purge, stamp| learner.learn(purge, stamp));
        ours.collection_changed(None, "shoes");
        assert!(!theirs.admits(before, &tags("shoes")));
        assert!(!theirs.admits(theirs.begin(), &tags("shoes")), "the clocks may differ");
        assert!(ours.admits(ours.begin(), &tags("shoes")));
        tokio::time::advance(Duration::from_secs(3)).await;
        assert!(theirs.admits(theirs.begin(), &tags("shoes")));
    }
}
