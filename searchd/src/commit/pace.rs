//! What storing takes from searches has a bound: while some are asked, it has a part of the processors' time, and pays
//! with waiting for what it took at once.
//!
//! The time that writes have taken is owed until it is paid off. One of many points begins when nothing is owed, one after the
//! other, so that searches have the processors to themselves between two; one of few points waits only where much is owed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::MutexGuard;

/// A write of more points waits until nothing is owed, and for room that searches need.
pub const FEW_POINTS: usize = 64;
/// What a write of few points lets be owed.
const PATIENCE: Duration = Duration::from_millis(250);
/// Most that is owed: nobody waits longer for what is past.
const MOST_OWED: Duration = Duration::from_secs(1);
/// Between two looks at whether searches are still asked.
const LOOK: Duration = Duration::from_millis(10);

pub struct Pace {
    /// Seconds of processors' time for storing in a second; none for any.
    share: Option<f64>,
    /// When all is paid off.
    paid_off: Mutex<Instant>,
    /// Of the writes of many points one is under way at a time.
    turn: tokio::sync::Mutex<()>,
    /// Nanoseconds that writes have waited.
    pub waited: AtomicU64,
}

/// A write of many points that has its turn; the next begins when this is dropped.
pub type Turn<'p> = MutexGuard<'p, ()>;

impl Pace {
    /// For a part of the time of so many processors; for any amount where the part is all of it.
    pub fn new(part: f64, processors: f64) -> Self {
        let share = (part < 1.0).then_some(part * processors);
        Self {
            share,
            paid_off: Mutex::new(Instant::now()),
            turn: tokio::sync::Mutex::default(),
            waited: AtomicU64::new(0),
        }
    }

    /// Storing took so much processors' time.
    pub fn spent(&self, time: Duration, now: Instant) {
        let Some(share) = self.share else { return };
        let mut paid_off = self.paid_off.lock();
        *paid_off = ((*paid_off).max(now) + time.div_f64(share)).min(now + MOST_OWED);
    }

    /// Returns when a write of so many points may begin, at once while nobody `is_asking`. What it returns is to be kept until the
    /// write is done.
    pub async fn turn(&self, points: usize, is_asking: impl Fn() -> bool) -> Option<Turn<'_>> {
        if self.share.is_none() || !is_asking() {
            return None;
        }
        let started = Instant::now();
        let is_many = points > FEW_POINTS;
        let turn = if is_many { Some(self.turn.lock().await) } else { None };
        let patience = if is_many { Duration::ZERO } else { PATIENCE };
        while let Some(owed) = self.owed(Instant::now()).checked_sub(patience).filter(|owed| !owed.is_zero()) {
            if !is_asking() {
                break;
            }
            tokio::time::sleep(owed.min(LOOK)).await;
        }
        self.waited.fetch_add(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
        turn
    }

    /// How long it takes to pay for what was taken.
    fn owed(&self, now: Instant) -> Duration {
        self.paid_off.lock().saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const MANY: usize = FEW_POINTS + 1;

    #[test]
    fn what_was_taken_is_owed_in_proportion_and_for_a_while() {
        let (pace, now) = (Pace::new(0.25, 2.0), Instant::now());
        pace.spent(Duration::from_millis(10), now);
        pace.spent(Duration::from_millis(5), now);
        assert_eq!(pace.owed(now), Duration::from_millis(30), "half a processor");
        assert_eq!(pace.owed(now + Duration::from_millis(20)), Duration::from_millis(10));
        assert_eq!(pace.owed(now + Duration::from_secs(1)), Duration::ZERO);
        pace.spent(Duration::from_secs(60), now);
        assert_eq!(pace.owed(now), MOST_OWED);
    }

    #[tokio::test]
    async fn many_points_wait_for_each_other_and_for_what_is_owed_only_while_searches_are_asked() {
        let later = Instant::now() + Duration::from_secs(3_600);
        let in_debt = |part| {
            let pace = Pace::new(part, 2.0);
            pace.spent(Duration::from_secs(60), later);
            pace
        };
        let pace = in_debt(0.5);
        assert!(pace.turn(MANY, || false).now_or_never().is_some(), "nobody searches");
        assert!(pace.turn(MANY, || true).now_or_never().is_none(), "much is owed");
        assert!(pace.turn(1, || true).now_or_never().is_none(), "too much is owed");
        assert!(in_debt(1.0).turn(MANY, || true).now_or_never().is_some(), "there is no bound");
        let pace = Pace::new(0.5, 2.0);
        let first = pace.turn(MANY, || true).now_or_never().flatten().expect("nothing is owed");
        assert!(pace.turn(MANY, || true).now_or_never().is_none(), "it is another's turn");
        assert!(pace.turn(1, || true).now_or_never().is_some(), "few points wait for nobody");
        drop(first);
        assert!(pace.turn(MANY, || true).now_or_never().is_some());
    }
}
