//! Purging by epochs: a purge remembers when it was, and what was asked for earlier is no answer any more.
//!
//! A fill takes its [`Stamp`] before it asks the origin. So a purge that comes while the origin works on an answer also
//! ends that answer, and nothing has to be searched for or deleted: what is purged is no longer found, then forgotten.
//!
//! Purges are kept in tables of fixed size, by a hash of the tag. Two tags that share a slot purge one another; that
//! costs a miss and no more. A soft purge makes stale what a hard one ends: what is stale may still be validated, or
//! stand in for a failing origin. A purge may be spread over a time, in which answers end one after the other, each at a
//! moment that its own stamp decides: no timer runs, and every gateway does the same.

pub(crate) mod ledger;
mod spread;
mod table;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::time::Instant;

use self::ledger::Ledger;
use self::spread::Spread;
use self::table::{PLACES, Table};
use crate::feed::{self, Outbox, Told};
use crate::{Clock, Tag, Tags};

/// Purges that go on at once; what is more is done at once.
const MAX_SPREADS: usize = 64;
/// Clocks of two gateways differ by less than this, or a purge reaches less far back than it should.
pub(crate) const SKEW_MICROS: u64 = 2_000_000;

/// When a fill began, and by whose clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Unix microseconds, never the same as a purge before it at this origin.
    pub micros: u64,
    /// The gateway process.
    pub origin: u64,
}

/// A cheap handle: clones purge, and ask, the same tables.
#[derive(Clone)]
pub struct Invalidation {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Clock,
    origin: u64,
    /// The last time that was given out.
    last: AtomicU64,
    /// The last purge of anything: what is younger is not looked up in the tables.
    latest: AtomicU64,
    hard: Table,
    soft: Table,
    spreads: RwLock<Vec<Spread>>,
    /// When this began, by its own clock.
    started: u64,
    /// What began before is too old to say whether it was purged.
    horizon: AtomicU64,
    /// Whether all is known that was purged before the start.
    knows_the_past: AtomicBool,
    relay: OnceLock<Arc<Outbox>>,
    /// Where purges are written down for answers that outlive the process.
    ledger: OnceLock<Arc<Ledger>>,
}

/// What is purged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reach {
    Everything,
    Tag(Tag),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Purge {
    pub reach: Reach,
    /// Answers become stale and are not forgotten.
    pub soft: bool,
    /// Over so many seconds, one answer after the other; 0 for at once.
    pub over: u32,
}

/// What purges have made of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purged {
    Hard,
    Not,
    /// Stale for so long.
    Soft(Duration),
}

impl Purge {
    pub const EVERYTHING: Self = Self { reach: Reach::Everything, soft: false, over: 0 };

    pub fn tag(tag: Tag) -> Self {
        Self { reach: Reach::Tag(tag), soft: false, over: 0 }
    }

    #[must_use]
    pub fn softly(self, soft: bool) -> Self {
        Self { soft, ..self }
    }

    #[must_use]
    pub fn over(self, seconds: u32) -> Self {
        Self { over: seconds, ..self }
    }
}

impl Invalidation {
    pub fn new(clock: Clock) -> Self {
        let shared = Shared {
            clock,
            origin: rand::random(),
            last: AtomicU64::new(0),
            latest: AtomicU64::new(0),
            hard: Table::new(),
            soft: Table::new(),
            spreads: RwLock::default(),
            started: clock.now(),
            horizon: AtomicU64::new(0),
            knows_the_past: AtomicBool::new(true),
            relay: OnceLock::new(),
            ledger: OnceLock::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// For whoever writes: `collection` was made, changed or deleted, and the writer has not been told yet. Every
    /// answer about it that was asked for before this call is gone when the call returns. Costs no I/O.
    pub fn collection_changed(&self, tenant: Option<&str>, collection: &str) {
        let collection = if collection.is_empty() { "default" } else { collection };
        self.purge(Purge::tag(Tag::collection(tenant, collection)));
    }

    /// The same for a write of which only the tenant is known.
    pub fn tenant_changed(&self, tenant: Option<&str>) {
        self.purge(Purge::tag(Tag::tenant(tenant)));
    }

    /// Purges here, and tells the other gateways if there is a way.
    pub fn purge(&self, purge: Purge) {
        let stamp = Stamp { micros: self.advance(1), origin: self.shared.origin };
        self.note(purge, stamp.micros);
        if let Some(relay) = self.shared.relay.get() {
            relay.tell(purge, stamp);
        }
    }

    /// Waits until the other gateways that are there have applied what was purged before, as far as they say so in time
    /// and before `deadline`; empty where there is no feed.
    ///
    /// # Errors
    /// When the feed does not say who is there.
    pub async fn confirmed(&self, deadline: Option<Instant>) -> Result<Vec<Told>, feed::Failure> {
        match self.shared.relay.get() {
            Some(relay) => relay.confirmed(deadline).await,
            None => Ok(Vec::new()),
        }
    }

    /// Another gateway's purge, as it told; false for one of our own. Whatever began here until now may be from before
    /// it, whosever clock is late. While catching up its own time is taken where it is from before our start, at worst:
    /// what others have shared since then stays.
    pub(crate) fn learn(&self, purge: Purge, stamp: Stamp) -> bool {
        if stamp.origin == self.shared.origin {
            return false;
        }
        let told = stamp.micros.saturating_add(SKEW_MICROS);
        let past = !self.knows_the_past() && told < self.shared.started;
        self.note_from(purge, stamp.micros, if past { told } else { self.advance(1) });
        true
    }

    /// Ends all answers here, and tells nobody: this gateway alone has missed something.
    pub(crate) fn forget(&self) {
        self.note_all(Purge::EVERYTHING);
    }

    pub(crate) fn note_all(&self, purge: Purge) {
        self.note(purge, self.advance(1));
    }

    /// Takes for stale what is older than `age`: what others have purged since is not known.
    pub(crate) fn doubt(&self, age: Duration) {
        let micros = u64::try_from(age.as_micros()).unwrap_or(u64::MAX);
        self.note(Purge::EVERYTHING.softly(true), self.shared.clock.now().saturating_sub(micros));
    }

    fn note(&self, purge: Purge, micros: u64) {
        self.note_from(purge, micros, micros);
    }

    /// Purges what began before `before`; from `from` on, where it takes its time. What is on disk has no part in that: for
    /// whoever starts anew it is all purged.
    fn note_from(&self, purge: Purge, from: u64, before: u64) {
        self.apply(purge, from, before);
        // Behind the tables, as `write_down` reads them behind the ledger: one of the two sees the other.
        fence(Ordering::SeqCst);
        if let Some(ledger) = self.shared.ledger.get() {
            ledger.note(purge.soft, Table::place(purge.reach), before);
        }
    }

    fn apply(&self, purge: Purge, from: u64, before: u64) {
        let now = self.shared.clock.now();
        let spread = Spread { purge, from, before };
        if purge.over > 0 && spread.until() > now {
            let mut spreads = self.shared.spreads.write();
            // What is done is in the tables from now on.
            for done in spreads.extract_if(.., |spread| spread.until() <= now) {
                self.settle(done.purge, done.before);
            }
            if spreads.len() < MAX_SPREADS {
                spreads.push(spread);
                self.shared.latest.fetch_max(before, Ordering::SeqCst);
                return;
            }
        }
        self.settle(purge, before);
    }

    fn settle(&self, purge: Purge, micros: u64) {
        let table = if purge.soft { &self.shared.soft } else { &self.shared.hard };
        table.note(Table::place(purge.reach), micros);
        // Behind the table: who sees the one finds the other.
        self.shared.latest.fetch_max(micros, Ordering::SeqCst);
    }

    /// Takes over what `ledger` says was purged before the start, and writes every purge down there from now on. The first
    /// one given is used.
    pub(crate) fn write_down(&self, ledger: Arc<Ledger>) {
        let Shared { hard, soft, last, latest, spreads, ledger: known, .. } = &*self.shared;
        for (table, is_soft) in [(hard, false), (soft, true)] {
            for place in 0..PLACES {
                let micros = ledger.at(is_soft, place);
                table.note(place, micros);
                latest.fetch_max(micros, Ordering::SeqCst);
            }
        }
        // What is purged from now on was stored before, by whichever process.
        last.fetch_max(ledger.last(), Ordering::SeqCst);
        if known.set(Arc::clone(&ledger)).is_err() {
            return;
        }
        fence(Ordering::SeqCst);
        for (table, is_soft) in [(hard, false), (soft, true)] {
            (0..PLACES).for_each(|place| ledger.note(is_soft, place, table.at(place)));
        }
        for Spread { purge, before, .. } in spreads.read().iter() {
            ledger.note(purge.soft, Table::place(purge.reach), *before);
        }
    }

    /// Who tells the other gateways; the first one given is used. From now on nothing is known of what was purged before
    /// the start, until [`Self::caught_up`].
    pub(crate) fn begin_relay(&self, relay: Arc<Outbox>) {
        let Shared { started, horizon, latest, knows_the_past, relay: place, .. } = &*self.shared;
        if place.set(relay).is_ok() {
            knows_the_past.store(false, Ordering::SeqCst);
            // Further back nobody reads.
            let back = u64::try_from(feed::BACK.as_micros()).unwrap_or(u64::MAX);
            let back = started.saturating_sub(back);
            horizon.fetch_max(back, Ordering::SeqCst);
            latest.fetch_max(back, Ordering::SeqCst);
        }
    }

    /// All has been read that was purged before the start.
    pub(crate) fn caught_up(&self) {
        self.shared.knows_the_past.store(true, Ordering::SeqCst);
    }

    /// Whether answers may be judged that were stored before the start, or by others.
    pub fn knows_the_past(&self) -> bool {
        self.shared.knows_the_past.load(Ordering::SeqCst)
    }

    /// Tells this process's stamps from others'.
    pub(crate) fn origin(&self) -> u64 {
        self.shared.origin
    }

    /// The stamp of a fill that begins now.
    pub fn begin(&self) -> Stamp {
        Stamp { micros: self.advance(0), origin: self.shared.origin }
    }

    /// What became since of what began at `stamp`.
    pub fn judge(&self, stamp: Stamp, tags: &Tags) -> Purged {
        let Shared { origin, latest, horizon, hard, soft, clock, .. } = &*self.shared;
        let ours = stamp.origin == *origin;
        // By another gateway's clock it may be older than it says.
        let began = if ours { stamp.micros } else { stamp.micros.saturating_sub(SKEW_MICROS) };
        if began >= latest.load(Ordering::SeqCst) {
            return Purged::Not;
        }
        let outlives = |purged: u64| purged == 0 || began >= purged;
        if began < horizon.load(Ordering::SeqCst) || !outlives(hard.last(tags)) {
            return Purged::Hard;
        }
        let now = clock.now();
        let spread = spread::reached(&self.shared.spreads.read(), stamp.micros, tags, now);
        if spread.hard > 0 {
            return Purged::Hard;
        }
        let softened = soft.last(tags).max(spread.soft);
        if outlives(softened) {
            return Purged::Not;
        }
        Purged::Soft(Duration::from_micros(now.saturating_sub(softened)))
    }

    /// May what began at `stamp` be given at all?
    pub fn admits(&self, stamp: Stamp, tags: &Tags) -> bool {
        self.judge(stamp, tags) != Purged::Hard
    }

    /// How long ago anything under `tags` was last purged; None for never.
    pub fn since_change(&self, tags: &Tags) -> Option<Duration> {
        let purged = self.shared.hard.last(tags);
        (purged > 0).then(|| Duration::from_micros(self.shared.clock.now().saturating_sub(purged)))
    }

    /// The last purge that touches `tags`, in the stamp's microseconds; 0 for none. Flights that began before and after
    /// a purge are different flights by it.
    pub fn purged(&self, tags: &Tags) -> u64 {
        self.shared.hard.last(tags).max(self.shared.soft.last(tags))
    }

    /// The time, `step` past the last one given at least.
    fn advance(&self, step: u64) -> u64 {
        let now = self.shared.clock.now();
        let next = |seen: u64| Some(now.max(seen + step));
        match self.shared.last.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next) {
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
        invalidation.purge(Purge::tag(Tag::point(None, "hats", "1")));
        assert!(!invalidation.admits(before, &tags("hats")));
        invalidation.purge(Purge::EVERYTHING);
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
        let purge = Purge::tag(Tag::collection(None, "shoes"));
        assert!(!theirs.learn(purge, theirs.begin()), "an echo");
        assert!(theirs.admits(before, &tags("shoes")));
        // By a clock that is an hour late.
        let late = Stamp { micros: ours.begin().micros - 3_600_000_000, ..ours.begin() };
        for stamp in [ours.begin(), late] {
            let before = theirs.begin();
            assert!(theirs.learn(purge, stamp));
            assert!(!theirs.admits(before, &tags("shoes")));
            assert!(theirs.admits(theirs.begin(), &tags("shoes")));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_purge_may_take_its_time() {
        let invalidation = Invalidation::new(Clock::start());
        let mut stamps = Vec::new();
        for _ in 0..1_000 {
            stamps.push(invalidation.begin());
            tokio::time::advance(Duration::from_micros(731)).await;
        }
        invalidation.purge(Purge::EVERYTHING.over(100));
        let left = || stamps.iter().filter(|stamp| invalidation.admits(**stamp, &tags("shoes"))).count();
        for expected in [1_000_usize, 750, 500, 250] {
            assert!(left().abs_diff(expected) < 60, "{} of {expected} left", left());
            assert!(invalidation.admits(invalidation.begin(), &tags("shoes")), "what is asked for since stays");
            tokio::time::advance(Duration::from_secs(25)).await;
        }
        assert_eq!(left(), 0);
        // One more, so that the first is settled; it concerns shoes alone, and only makes stale.
        let later = invalidation.begin();
        invalidation.purge(Purge::tag(Tag::collection(None, "shoes")).softly(true).over(10));
        assert_eq!(left(), 0);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(matches!(invalidation.judge(later, &tags("shoes")), Purged::Soft(_)));
        assert_eq!(invalidation.judge(later, &tags("hats")), Purged::Not);
    }

    #[tokio::test(start_paused = true)]
    async fn a_spread_purge_that_is_told_late_is_done_at_the_same_end() {
        let (ours, theirs) = (Invalidation::new(Clock::start()), Invalidation::new(Clock::start()));
        let before = ours.begin();
        tokio::time::advance(Duration::from_secs(3)).await;
        let stamp = ours.begin();
        let everything = Purge::EVERYTHING.over(10);
        ours.purge(everything);
        tokio::time::advance(Duration::from_secs(5)).await;
        theirs.learn(everything, stamp);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(!ours.admits(before, &tags("shoes")));
        assert!(!theirs.admits(before, &tags("shoes")));
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_purges_at_a_time_are_done_at_once() {
        let invalidation = Invalidation::new(Clock::start());
        let before = invalidation.begin();
        (0..MAX_SPREADS).for_each(|_| invalidation.purge(Purge::tag(Tag::word("other")).over(3_600)));
        assert!(invalidation.admits(before, &tags("shoes")));
        invalidation.purge(Purge::EVERYTHING.over(3_600));
        assert!(!invalidation.admits(before, &tags("shoes")));
    }

    #[tokio::test(start_paused = true)]
    async fn doubt_makes_stale_what_is_old() {
        let invalidation = Invalidation::new(Clock::start());
        let old = invalidation.begin();
        tokio::time::advance(Duration::from_secs(4)).await;
        let young = invalidation.begin();
        tokio::time::advance(Duration::from_secs(2)).await;
        invalidation.doubt(Duration::from_secs(5));
        assert!(matches!(invalidation.judge(old, &tags("shoes")), Purged::Soft(_)));
        assert_eq!(invalidation.judge(young, &tags("shoes")), Purged::Not);
    }

    #[tokio::test(start_paused = true)]
    async fn a_soft_purge_makes_stale_and_a_hard_one_goes_before_it() {
        let invalidation = Invalidation::new(Clock::start());
        let before = invalidation.begin();
        let purge = Purge::tag(Tag::collection(None, "shoes"));
        invalidation.purge(purge.softly(true));
        tokio::time::advance(Duration::from_secs(3)).await;
        let Purged::Soft(since) = invalidation.judge(before, &tags("shoes")) else { panic!("not stale") };
        assert_eq!(since.as_secs(), 2, "less than three seconds by the microsecond of the purge");
        assert_eq!(invalidation.judge(before, &tags("hats")), Purged::Not);
        assert_eq!(invalidation.judge(invalidation.begin(), &tags("shoes")), Purged::Not);
        assert!(invalidation.since_change(&tags("shoes")).is_none());
        invalidation.purge(purge);
        assert_eq!(invalidation.judge(before, &tags("shoes")), Purged::Hard);
    }
}
