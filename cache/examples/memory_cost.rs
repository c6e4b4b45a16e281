//! Prints what the tier in memory costs beside moka alone, which orders by frequency and knows nothing of costs: CPU time of
//! a hit, of an insertion while there is room, and of a miss and an insertion when there is none; and bytes for each entry beside
//! the entry. `cargo run --release -p nearfield-cache --example memory_cost`.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on ends")]

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use nearfield_cache::{Audience, Entry, Key, Lifetime, Memory, Stamp, Tags};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Entries that fit the processor's caches, and those that do not.
const FEW: usize = 1_000;
const MANY: usize = 200_000;
/// What is asked for by each thread, in an order made before.
const ASKED: usize = 2_000_000;
/// Bytes of an answer's body.
const BODY: usize = 900;
const THREADS: [usize; 2] = [1, 2];

/// What is measured.
trait Store: Clone + Send + 'static {
    const NAME: &'static str;

    fn with_capacity(bytes: u64) -> Self;
    fn get(&self, key: &Key) -> bool;
    fn put(&self, key: Key, entry: Arc<Entry>);
    /// Does what it has put off.
    fn settle(&self) {}
}

impl Store for Memory {
    const NAME: &'static str = "nearfield";

    fn with_capacity(bytes: u64) -> Self {
        Self::new(bytes)
    }

    fn get(&self, key: &Key) -> bool {
        self.get(key).is_some()
    }

    fn put(&self, key: Key, entry: Arc<Entry>) {
        self.put(key, entry, |_| true);
    }
}

impl Store for moka::sync::Cache<Key, Arc<Entry>> {
    const NAME: &'static str = "moka";

    fn with_capacity(bytes: u64) -> Self {
        let weigher = |_: &Key, entry: &Arc<Entry>| u32::try_from(entry.weight()).unwrap_or(u32::MAX);
        Self::builder().max_capacity(bytes).weigher(weigher).build()
    }

    fn get(&self, key: &Key) -> bool {
        self.get(key).is_some()
    }

    fn put(&self, key: Key, entry: Arc<Entry>) {
        self.insert(key, entry);
    }

    fn settle(&self) {
        self.run_pending_tasks();
    }
}

fn main() {
    let Some(name) = std::env::args().nth(1) else {
        println!(
            "| store | threads | hit, {FEW} entries: ns, a second | hit, {MANY} | insert, room | miss and insert, full | bytes an entry |"
        );
        println!("| --- | --- | --- | --- | --- | --- | --- |");
        // A process each: what one has given back to its allocator would hide what the other takes.
        for name in [<Memory as Store>::NAME, <moka::sync::Cache<_, _> as Store>::NAME] {
            assert!(Command::new(std::env::current_exe().unwrap()).arg(name).status().unwrap().success());
        }
        return;
    };
    if name == <Memory as Store>::NAME { measure::<Memory>() } else { measure::<moka::sync::Cache<_, _>>() }
}

fn measure<S: Store>() {
    let keys: Arc<[Key]> = (0..2 * MANY).map(key).collect();
    let entry = entry();
    let room = 2 * (MANY * entry.weight()) as u64;
    let before = resident_bytes();
    let filled = filled::<S>(room, &keys[..MANY], &entry);
    let bytes = resident_bytes().saturating_sub(before) / MANY as u64;
    let few = filled_few::<S>(&keys, &entry);
    for threads in THREADS {
        let hit = |store: &S, entries: usize| {
            timed(store, threads, ASKED, {
                let keys = Arc::clone(&keys);
                move |store, thread| {
                    let mut chance = StdRng::seed_from_u64(thread as u64);
                    let order: Vec<usize> = (0..ASKED).map(|_| chance.random_range(0..entries)).collect();
                    let (store, keys) = (store.clone(), Arc::clone(&keys));
                    move || assert!(order.iter().all(|number| store.get(&keys[*number])))
                }
            })
        };
        let put = |store: &S, asks: bool| {
            timed(store, threads, MANY / threads, {
                let (keys, entry) = (Arc::clone(&keys), Arc::clone(&entry));
                move |store, thread| {
                    let (store, keys, entry) = (store.clone(), Arc::clone(&keys), Arc::clone(&entry));
                    move || {
                        for key in keys[MANY..].iter().skip(thread).step_by(threads) {
                            if !asks || !store.get(key) {
                                store.put(*key, Arc::clone(&entry));
                            }
                        }
                        store.settle();
                    }
                }
            })
        };
        let rows = [
            hit(&few, FEW),
            hit(&filled, MANY),
            put(&S::with_capacity(room), false),
            put(&self::filled(room / 2, &keys[..MANY], &entry), true),
        ];
        println!("| {} | {threads} | {} | {bytes} |", S::NAME, rows.join(" | "));
    }
}

fn filled<S: Store>(capacity: u64, keys: &[Key], entry: &Arc<Entry>) -> S {
    let store = S::with_capacity(capacity);
    for key in keys {
        store.put(*key, Arc::clone(entry));
    }
    store.settle();
    store
}

fn filled_few<S: Store>(keys: &[Key], entry: &Arc<Entry>) -> S {
    filled((MANY * entry.weight()) as u64, &keys[..FEW], entry)
}

/// What `work` makes for each thread is run by all at once, `times` operations each: CPU nanoseconds of one, and how many were
/// done in a second, millions.
fn timed<S: Store, W: FnOnce() + Send + 'static>(
    store: &S,
    threads: usize,
    times: usize,
    work: impl Fn(&S, usize) -> W,
) -> String {
    let works: Vec<W> = (0..threads).map(|thread| work(store, thread)).collect();
    let began = Instant::now();
    let running: Vec<_> = works
        .into_iter()
        .map(|work| {
            std::thread::spawn(move || {
                let before = cpu_time();
                work();
                cpu_time() - before
            })
        })
        .collect();
    let spent: Duration = running.into_iter().map(|thread| thread.join().unwrap()).sum();
    let (took, all) = (began.elapsed().as_secs_f64(), (threads * times) as f64);
    format!("{:.0}, {:.1} M", spent.as_secs_f64() * 1e9 / all, all / took / 1e6)
}

fn key(number: usize) -> Key {
    Key::embed(Audience { tenant: None, scope: "vectors:read" }, "c", &number.to_string())
}

fn entry() -> Arc<Entry> {
    let (stamp, tags) = (Stamp { micros: 1, origin: 1 }, Tags::new(None, "c", None));
    let entry = Entry::new(StatusCode::OK, Vec::new(), Bytes::from(vec![0; BODY]), stamp, Lifetime::default(), tags);
    Arc::new(Entry { cost: Duration::from_millis(5), ..entry })
}

/// Of this thread.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
