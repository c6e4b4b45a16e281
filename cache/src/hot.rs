//! Which keys are asked for the most of late, in bounded memory: Space-Saving (Metwally, Agrawal and El Abbadi,
//! "Efficient Computation of Frequent and Top-k Elements in Data Streams", 2005) over counts that fade.
//!
//! A key without a counter takes over the least one, count and all, and remembers how much of it is not its own. So what
//! is told of a key is never more than it was asked for, and none that has more than its share of all is missed. Counts
//! fade by half each [`HALF_LIFE`]: rather than all of them becoming smaller, what comes later counts for more (forward
//! decay: Cormode, Shkapenyuk, Srivastava and Xu 2009).

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::{Clock, Key};

/// Half of the five minutes over which trends are looked at.
pub(crate) const HALF_LIFE: Duration = Duration::from_secs(150);
/// As many parts with a lock each, …
const MAX_PARTS: usize = 4;
/// … with that many keys each at least.
const PART_KEYS: usize = 16;
/// Half-lives until all counts are written anew: a request's weight doubles with each.
const MAX_HALVINGS: f64 = 64.0;
/// Asked for that often while it has a counter, a key's question is kept.
const KEPT_FROM: f64 = 1.5;

/// Keeps a `T` for each key that it counts, the question say.
pub struct Hot<T> {
    parts: Box<[Mutex<Part<T>>]>,
    clock: Clock,
}

/// A key that is asked for often.
#[derive(Clone, Debug, PartialEq)]
pub struct Hottest<T> {
    pub key: Key,
    /// Requests of late, each counting for half after a [`HALF_LIFE`]: so many at least, …
    pub requests: f64,
    /// … and so many more at most.
    pub unsure: f64,
    pub kept: Option<T>,
}

impl<T> Hottest<T> {
    /// Requests a second, as if they had come evenly.
    pub fn rate(&self) -> f64 {
        self.requests * std::f64::consts::LN_2 / HALF_LIFE.as_secs_f64()
    }
}

struct Part<T> {
    counters: Vec<Counter<T>>,
    places: HashMap<Key, usize>,
    room: usize,
    /// When a request had the weight of one, in Unix microseconds.
    since: u64,
}

struct Counter<T> {
    key: Key,
    count: f64,
    /// Of the count, what may be other keys'.
    error: f64,
    kept: Option<T>,
    /// When it was last claimed, in Unix microseconds; 0 for never.
    claimed: u64,
}

impl<T: Clone> Hot<T> {
    /// Counts `keys` at a time.
    pub fn new(keys: usize, clock: Clock) -> Self {
        let parts = (keys / PART_KEYS).clamp(1, MAX_PARTS);
        let part = |_| {
            let room = keys.div_ceil(parts).max(1);
            Mutex::new(Part { counters: Vec::new(), places: HashMap::new(), room, since: clock.now() })
        };
        Self { parts: (0..parts).map(part).collect(), clock }
    }

    fn part(&self, key: &Key) -> &Mutex<Part<T>> {
        &self.parts[usize::from(key.as_bytes()[30]) % self.parts.len()]
    }

    /// Counts a request for `key`. How often that was asked for of late, at least; `keep` gives what is kept with it, and
    /// is called only for a key that comes again.
    pub fn note(&self, key: &Key, keep: impl FnOnce() -> Option<T>) -> f64 {
        let now = self.clock.now();
        self.part(key).lock().note(key, now, keep)
    }

    /// Whether whoever asks now is the first to do so for `pause`. False for keys that are not counted.
    pub fn claim(&self, key: &Key, pause: Duration) -> bool {
        let (now, pause) = (self.clock.now(), u64::try_from(pause.as_micros()).unwrap_or(u64::MAX));
        let mut part = self.part(key).lock();
        let Some(place) = part.places.get(key).copied() else { return false };
        let counter = &mut part.counters[place];
        let is_first = counter.claimed == 0 || now >= counter.claimed.saturating_add(pause);
        if is_first {
            counter.claimed = now;
        }
        is_first
    }

    /// Those that were asked for at least `least` times, the hottest first.
    pub fn hottest(&self, least: f64) -> Vec<Hottest<T>> {
        let now = self.clock.now();
        let mut all: Vec<Hottest<T>> = self.parts.iter().flat_map(|part| part.lock().counted(now)).collect();
        all.retain(|hottest| hottest.requests >= least);
        all.sort_by(|a, b| b.requests.total_cmp(&a.requests).then_with(|| a.key.cmp(&b.key)));
        all
    }
}

impl<T: Clone> Part<T> {
    /// The weight of a request that comes now.
    fn weight(&mut self, now: u64) -> f64 {
        let halvings = |since: u64| now.saturating_sub(since) as f64 / HALF_LIFE.as_micros() as f64;
        let since = halvings(self.since);
        if since <= MAX_HALVINGS {
            return since.exp2();
        }
        for counter in &mut self.counters {
            counter.count *= (-since).exp2();
            counter.error *= (-since).exp2();
        }
        self.since = now;
        1.0
    }

    fn note(&mut self, key: &Key, now: u64, keep: impl FnOnce() -> Option<T>) -> f64 {
        let weight = self.weight(now);
        let place = self.places.get(key).copied().unwrap_or_else(|| self.place(key));
        let counter = &mut self.counters[place];
        counter.count += weight;
        let requests = (counter.count - counter.error) / weight;
        if counter.kept.is_none() && requests > KEPT_FROM {
            counter.kept = keep();
        }
        requests
    }

    /// A counter for a key that has none.
    fn place(&mut self, key: &Key) -> usize {
        let counter = |count| Counter { key: *key, count, error: count, kept: None, claimed: 0 };
        let place = if self.counters.len() < self.room {
            self.counters.push(counter(0.0));
            self.counters.len() - 1
        } else {
            let counts = self.counters.iter().map(|counter| counter.count).enumerate();
            let (place, least) = counts.min_by(|(_, a), (_, b)| a.total_cmp(b)).unwrap_or_default();
            let before = std::mem::replace(&mut self.counters[place], counter(least));
            self.places.remove(&before.key);
            place
        };
        self.places.insert(*key, place);
        place
    }

    fn counted(&mut self, now: u64) -> Vec<Hottest<T>> {
        let weight = self.weight(now);
        let hottest = |counter: &Counter<T>| Hottest {
            key: counter.key,
            requests: (counter.count - counter.error) / weight,
            unsure: counter.error / weight,
            kept: counter.kept.clone(),
        };
        self.counters.iter().map(hottest).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Audience;

    fn key(i: usize) -> Key {
        Key::embed(Audience { tenant: None, scope: "vectors:read" }, "c", &i.to_string())
    }

    fn ask(hot: &Hot<usize>, i: usize) -> f64 {
        hot.note(&key(i), || Some(i))
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_hot_fades() {
        let hot = Hot::new(64, Clock::start());
        for _ in 0..100 {
            ask(&hot, 1);
        }
        tokio::time::advance(2 * HALF_LIFE).await;
        for _ in 0..50 {
            ask(&hot, 2);
        }
        let hottest = hot.hottest(1.0);
        assert_eq!(
            hottest.iter().map(|h| (h.kept, h.requests.round())).collect::<Vec<_>>(),
            [(Some(2), 50.0), (Some(1), 25.0)]
        );
        // However long nobody asks: all counts are written anew, and none is lost to arithmetic.
        tokio::time::advance(100 * HALF_LIFE).await;
        assert_eq!(ask(&hot, 3).round(), 1.0);
        assert!(hot.hottest(0.5).iter().map(|h| h.key).eq([key(3)]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_is_kept_from_its_second_time_on() {
        let hot = Hot::new(64, Clock::start());
        hot.note(&key(1), || panic!("not yet"));
        assert_eq!(ask(&hot, 1), 2.0);
        hot.note(&key(1), || panic!("it is kept"));
        assert_eq!(hot.hottest(0.0)[0].kept, Some(1));
        assert!((hot.hottest(0.0)[0].rate() - 0.013_863).abs() < 1e-5);
    }

    #[tokio::test(start_paused = true)]
    async fn one_claims_at_a_time() {
        let hot = Hot::new(64, Clock::start());
        let pause = Duration::from_secs(1);
        assert!(!hot.claim(&key(1), pause), "nobody asks for it");
        ask(&hot, 1);
        assert_eq!([hot.claim(&key(1), pause), hot.claim(&key(1), pause)], [true, false]);
        tokio::time::advance(pause).await;
        assert!(hot.claim(&key(1), pause));
    }

    proptest! {
        /// The two promises of Space-Saving, whatever is asked for in which order.
        #[test]
        fn none_that_is_frequent_is_missed_and_none_is_told_for_more(asked in proptest::collection::vec(0_usize..100, 1..2_000)) {
            // As one part: 15 keys.
            let (hot, mut exact) = (Hot::new(15, Clock::start()), HashMap::new());
            for i in asked.iter().map(|i| i * i / 100) {
                ask(&hot, i);
                *exact.entry(key(i)).or_insert(0.0) += 1.0;
            }
            let hottest = hot.hottest(0.0);
            prop_assert!(hottest.len() <= 15);
            // Time goes on while this runs, by far less than this.
            let close = 1.001;
            for Hottest { key, requests, unsure, .. } in &hottest {
                prop_assert!(*requests <= exact[key] * close && exact[key] <= (requests + unsure) * close);
            }
            for (key, _) in exact.iter().filter(|(_, count)| **count > asked.len() as f64 / 15.0 * close) {
                prop_assert!(hottest.iter().any(|hottest| hottest.key == *key));
            }
        }
    }
}
