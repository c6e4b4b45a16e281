use std::collections::HashMap;
use std::time::Duration;

use http::StatusCode;
use proptest::prelude::*;

use super::*;
use crate::{Audience, Lifetime, Stamp, Tags};

fn key(i: usize) -> Key {
    Key::embed(Audience { tenant: None, scope: "vectors:read" }, "c", &i.to_string())
}

fn entry(bytes: usize, cost: Duration) -> Arc<Entry> {
    let stamp = Stamp { micros: 1, origin: 1 };
    let lifetime = Lifetime { fresh: Duration::from_secs(30), ..Lifetime::default() };
    let tags = Tags::new(None, "c", None);
    Arc::new(Entry { cost, ..Entry::new(StatusCode::OK, Vec::new(), vec![0; bytes].into(), stamp, lifetime, tags) })
}

const CHEAP: Duration = Duration::from_millis(1);
const DEAR: Duration = Duration::from_millis(50);

fn always(_: &Entry) -> bool {
    true
}

#[test]
fn memory_is_bounded_by_bytes() {
    let memory = Memory::new(1 << 20);
    for i in 0..1000 {
        memory.put(key(i), entry(10_000, CHEAP), always);
        assert!(memory.bytes() <= 1 << 20);
    }
    assert!(memory.len() > 90 && memory.len() < 105, "{}", memory.len());
    assert!(!memory.put(key(0), entry(2 << 20, DEAR), always), "larger than all of it");
    assert!(memory.get(&key(0)).is_none());
}

#[test]
fn a_large_answer_asked_for_once_pushes_out_no_small_ones_that_are_asked_for_often() {
    let memory = Memory::new(1 << 20);
    let small: Vec<usize> = (0..400).collect();
    for i in &small {
        memory.put(key(*i), entry(2_000, CHEAP), always);
        (0..3).for_each(|_| drop(memory.get(&key(*i))));
    }
    for i in 1_000..1_100 {
        assert!(memory.get(&key(i)).is_none());
        assert!(!memory.put(key(i), entry(500_000, DEAR), always));
    }
    assert!(small.iter().all(|i| memory.see(&key(*i)).is_some()));
    assert_eq!((memory.evicted(), memory.refused()), (0, 100));
    // One that costs more than all that it displaces is let in.
    assert!(memory.put(key(2_000), entry(500_000, 1_000 * DEAR), always));
    assert!(memory.evicted() > 100);
}

#[test]
fn what_is_dear_stays_where_sizes_are_equal() {
    let memory = Memory::new(1 << 20);
    for i in 0..50 {
        memory.put(key(i), entry(10_000, DEAR), always);
    }
    for i in 50..5_000 {
        memory.get(&key(i));
        memory.put(key(i), entry(10_000, CHEAP), always);
    }
    let left = (0..50).filter(|i| memory.see(&key(*i)).is_some()).count();
    assert!(left >= 49, "{left} of 50");
}

#[test]
fn the_dead_go_first_and_make_room_for_whatever_comes() {
    let memory = Memory::new(1 << 20);
    for i in 0..100 {
        memory.get(&key(i));
        memory.put(key(i), entry(10_000, DEAR), always);
    }
    let dies = entry(10_000, CHEAP);
    for i in 100..200 {
        assert!(memory.put(key(i), Arc::clone(&dies), |entry| entry.cost != DEAR));
    }
    // Drawn by lot, the last of the dead are not always met.
    assert!(memory.evicted() < 10, "{}", memory.evicted());
}

#[test]
fn what_many_do_at_once_is_accounted_for() {
    const KEYS: usize = 8;
    let memory = Memory::new(60_000);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let memory = memory.clone();
            scope.spawn(move || {
                for i in 0..5_000 {
                    let (i, bytes) = ((i * 7 + thread) % KEYS, (i * 31 + thread * 977) % 20_000);
                    match (bytes + i) % 4 {
                        0 => memory.remove(&key(i)),
                        1 => drop(memory.get(&key(i))),
                        _ => {
                            memory.put(key(i), entry(bytes, CHEAP), always);
                        }
                    }
                }
            });
        }
    });
    let found: Vec<Arc<Entry>> = (0..KEYS).filter_map(|i| memory.see(&key(i))).collect();
    assert_eq!(memory.bytes(), found.iter().map(|entry| entry.weight() as u64).sum::<u64>());
    assert_eq!(memory.len(), found.len() as u64);
}

proptest! {
    /// Whatever is done: no more bytes than allowed, all of them accounted for, and nothing but the last answer of a key.
    #[test]
    fn memory_holds_what_it_says(acts in proptest::collection::vec((0_usize..40, 0_usize..60_000, 0_u8..4), 1..300)) {
        let memory = Memory::new(200_000);
        let mut last: HashMap<usize, Arc<Entry>> = HashMap::new();
        for (i, bytes, act) in acts {
            match act {
                0 => {
                    memory.remove(&key(i));
                    last.remove(&i);
                }
                1 => drop(memory.get(&key(i))),
                _ => {
                    let entry = entry(bytes, Duration::from_micros(bytes as u64 % 977));
                    let kept = memory.put(key(i), Arc::clone(&entry), always);
                    prop_assert_eq!(kept, memory.see(&key(i)).is_some());
                    last.insert(i, entry);
                }
            }
            let found: Vec<(usize, Arc<Entry>)> = (0..40).filter_map(|i| Some((i, memory.see(&key(i))?))).collect();
            prop_assert!(memory.bytes() <= 200_000);
            prop_assert_eq!(memory.bytes(), found.iter().map(|(_, entry)| entry.weight() as u64).sum::<u64>());
            prop_assert_eq!(memory.len(), found.len() as u64);
            for (i, entry) in found {
                prop_assert!(last.get(&i).is_some_and(|last| Arc::ptr_eq(last, &entry)));
            }
        }
    }
}
