//! How much of its origin's work the memory saves, beside caches of the same bytes that look at recency (LRU) or at
//! frequency (W-TinyLFU, as moka has it) and know nothing of costs. The traces are made from a seed.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use nearfield_cache::{Audience, Entry, Key, Lifetime, Memory, Stamp, Tags};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng};

const SEED: u64 = 1998;
const KEYS: usize = 20_000;
const REQUESTS: usize = 300_000;
/// A small part of what all answers take.
const CAPACITY: u64 = 16 << 20;
const LARGEST: usize = 512 << 10;

/// Everything that is asked for, by number, and the order in which it is.
struct Trace {
    entries: Vec<(Key, Arc<Entry>)>,
    asked: Vec<usize>,
}

impl Trace {
    /// A share of `scanned` of the requests is for large answers, each asked for once; the others are for [`KEYS`] keys by
    /// Zipf's law.
    fn new(scanned: f64) -> Self {
        let mut chance = StdRng::seed_from_u64(SEED);
        let mut ranks = Vec::with_capacity(KEYS);
        let mut sum = 0.0;
        for rank in 1..=KEYS {
            sum += 1.0 / (rank as f64).powf(0.9);
            ranks.push(sum);
        }
        let body = Bytes::from(vec![0; LARGEST]);
        let stamp = Stamp { micros: 1, origin: 1 };
        let entry = |number: usize, bytes: usize, millis: u64| {
            let key = Key::embed(Audience { tenant: None, scope: "vectors:read" }, "c", &number.to_string());
            let (lifetime, tags) = (Lifetime::default(), Tags::new(None, "c", None));
            let entry = Entry::new(StatusCode::OK, Vec::new(), body.slice(..bytes), stamp, lifetime, tags);
            (key, Arc::new(Entry { cost: Duration::from_millis(millis), ..entry }))
        };
        // A look-up by id, a search, an exact one: costs and sizes have nothing to do with popularity.
        let costs = [1, 1, 1, 5, 5, 20, 100];
        let mut entries: Vec<_> = (0..KEYS)
            .map(|number| {
                let bytes = 500 << chance.random_range(0..10_u32).min(chance.random_range(0..10_u32));
                entry(number, bytes, costs[chance.random_range(0..costs.len())])
            })
            .collect();
        let mut asked = Vec::with_capacity(REQUESTS);
        for _ in 0..REQUESTS {
            if chance.random_bool(scanned) {
                asked.push(entries.len());
                entries.push(entry(entries.len(), LARGEST, 5));
            } else {
                let drawn = chance.random_range(0.0..sum);
                asked.push(ranks.partition_point(|sum| *sum < drawn).min(KEYS - 1));
            }
        }
        Self { entries, asked }
    }

    /// Milliseconds of origin that a cache spends, which is told what is asked for and says whether it had it.
    fn spent(&self, mut has: impl FnMut(usize, &Key, &Arc<Entry>) -> bool) -> u128 {
        let missed = self.asked.iter().filter(|number| {
            let (key, entry) = &self.entries[**number];
            !has(**number, key, entry)
        });
        missed.map(|number| self.entries[*number].1.cost.as_millis()).sum()
    }

    fn uncached(&self) -> u128 {
        self.spent(|_, _, _| false)
    }

    fn ours(&self) -> u128 {
        let memory = Memory::new(CAPACITY);
        let spent = self.spent(|_, key, entry| {
            let has = memory.get(key).is_some();
            if !has {
                memory.put(*key, Arc::clone(entry), |_| true);
            }
            has
        });
        assert!(memory.bytes() <= CAPACITY);
        spent
    }

    fn tiny_lfu(&self) -> u128 {
        let cache: moka::sync::Cache<usize, Arc<Entry>, BuildHasherDefault<DefaultHasher>> =
            moka::sync::Cache::builder()
                .max_capacity(CAPACITY)
                .weigher(|_, entry: &Arc<Entry>| u32::try_from(entry.weight()).unwrap_or(u32::MAX))
                .build_with_hasher(BuildHasherDefault::default());
        self.spent(|number, _, entry| {
            let has = cache.get(&number).is_some();
            if !has {
                cache.insert(number, Arc::clone(entry));
            }
            // It settles by itself now and then; here at once, so that every run is the same.
            cache.run_pending_tasks();
            has
        })
    }

    fn lru(&self) -> u128 {
        let (mut order, mut used) = (BTreeMap::new(), HashMap::new());
        let (mut held, mut time) = (0, 0_usize);
        self.spent(|number, _, entry| {
            time += 1;
            let before = used.insert(number, time);
            if let Some(before) = before {
                order.remove(&before);
            } else {
                held += entry.weight() as u64;
            }
            order.insert(time, number);
            while held > CAPACITY
                && let Some((_, oldest)) = order.pop_first()
            {
                used.remove(&oldest);
                held -= self.entries[oldest].1.weight() as u64;
            }
            before.is_some()
        })
    }
}

/// What is left of the origin's work, in percent.
fn compare(name: &str, scanned: f64) -> [u128; 3] {
    let trace = Trace::new(scanned);
    let all = trace.uncached();
    let left = [trace.ours(), trace.tiny_lfu(), trace.lru()].map(|spent| spent * 1_000 / all);
    println!("{name}: of 1000 ms of origin are left: {} by cost, {} by TinyLFU, {} by LRU", left[0], left[1], left[2]);
    left
}

#[test]
fn the_same_bytes_save_more_of_the_origin() {
    let [ours, tiny_lfu, lru] = compare("skewed", 0.0);
    assert!(ours * 10 < tiny_lfu * 7 && ours * 10 < lru * 5, "{ours} {tiny_lfu} {lru}");
}

#[test]
fn and_still_do_while_large_answers_come_that_nobody_asks_for_again() {
    let [ours, tiny_lfu, lru] = compare("skewed, with a scan", 0.05);
    assert!(ours * 10 < tiny_lfu * 7 && ours * 10 < lru * 5, "{ours} {tiny_lfu} {lru}");
}
