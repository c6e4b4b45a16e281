//! The tier in this process: bounded by the bytes that its entries weigh, and given to those that save the most.
//!
//! What an answer saves is what it cost to make, each time that it is asked for; what it takes is its bytes. So where
//! there is no room, the entry goes whose cost × frequency is least for each of its bytes (Cherkasova, "Improving WWW
//! Proxies Performance with Greedy-Dual-Size-Frequency Caching Policy", 1998). A newcomer has to save at least as much
//! as all together that would go for it, or is not kept: the admission of TinyLFU, with costs (Einziger, Friedman and
//! Manes 2017; for sizes, Einziger, Eytan, Friedman and Manes, "Lightweight Robust Size Aware Cache Management", 2022).
//! So a large answer that is asked for once pushes out no small ones that are asked for often.
//!
//! There is no order to keep: a few entries are drawn by lot, and the least of them is the next to go. A hit therefore
//! costs a look into a table and four small counters.

mod shard;
mod sketch;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use self::shard::{Shard, Slot};
use crate::{Entry, Key};

/// As many parts with a lock each, …
const MAX_SHARDS: u64 = 64;
/// … each of that many bytes at least.
const SHARD_BYTES: u64 = 8 << 20;
/// Entries that are drawn to find one that may go.
const DRAWN: usize = 16;
/// Entries that are looked at for each that comes, whether they are dead.
const SWEPT: usize = 2;
/// One that would push out more is not kept.
const MAX_VICTIMS: usize = 4096;

/// Cheap to clone: clones are the same store.
#[derive(Clone)]
pub struct Memory {
    shared: Arc<Shared>,
}

struct Shared {
    shards: Box<[Mutex<Shard>]>,
    capacity: u64,
    /// Bytes of all entries, and of those that are on their way in.
    held: AtomicU64,
    entries: AtomicU64,
    evicted: AtomicU64,
    refused: AtomicU64,
    /// Where the lots come from.
    lots: AtomicU64,
}

/// One that would go for another.
struct Victim {
    place: usize,
    key: Key,
    weight: u64,
    /// What is lost with it.
    saves: u64,
}

impl Victim {
    /// For each of its bytes.
    fn is_worth_less(&self, than: &Self) -> bool {
        u128::from(self.saves) * u128::from(than.weight) < u128::from(than.saves) * u128::from(self.weight)
    }
}

impl Memory {
    /// Holds at most `bytes`.
    pub fn new(bytes: u64) -> Self {
        let shards = (bytes / SHARD_BYTES).clamp(1, MAX_SHARDS);
        let shared = Shared {
            shards: (0..shards).map(|_| Mutex::new(Shard::new(bytes / shards))).collect(),
            capacity: bytes,
            held: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            lots: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// What is stored under `key`, which somebody asks for.
    pub fn get(&self, key: &Key) -> Option<Arc<Entry>> {
        let mut shard = self.shared.shard(key).lock();
        shard.asked_for(key);
        shard.get(key)
    }

    /// The same for whoever only looks: nobody has asked.
    pub fn see(&self, key: &Key) -> Option<Arc<Entry>> {
        self.shared.shard(key).lock().get(key)
    }

    /// Keeps `entry` if it saves at least what has to go for it; one that is there under its key is replaced in any case.
    /// What does not `live` any more goes before anything else. True when it was kept.
    pub fn put(&self, key: Key, entry: Arc<Entry>, lives: impl Fn(&Entry) -> bool) -> bool {
        let shared = &*self.shared;
        let weight = entry.weight() as u64;
        let place = shared.place(&key);
        shared.sweep(place, &lives);
        let (known, saves) = {
            let shard = shared.shards[place].lock();
            (shard.weight(&key), shard.saves(&key, &entry))
        };
        // One that is there has shown what it is worth.
        let (more, worth) = match known {
            Some(known) => (weight.saturating_sub(known), None),
            None => (weight, Some(saves)),
        };
        if weight > shared.capacity || !shared.make_room(&key, more, worth, &lives) {
            self.remove(&key);
            shared.refused.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        // Counted before it is there, as it may go again at once.
        shared.held.fetch_add(weight - more, Ordering::SeqCst);
        shared.entries.fetch_add(1, Ordering::SeqCst);
        let replaced = shared.shards[place].lock().put(Slot { key, entry, weight });
        if let Some(replaced) = replaced {
            shared.forget(replaced);
        }
        true
    }

    pub fn remove(&self, key: &Key) {
        self.shared.remove(self.shared.place(key), key);
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.shared.held.load(Ordering::SeqCst)
    }

    pub fn len(&self) -> u64 {
        self.shared.entries.load(Ordering::SeqCst)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many went for others, the dead not counted.
    pub fn evicted(&self) -> u64 {
        self.shared.evicted.load(Ordering::Relaxed)
    }

    /// How many were not worth what would have had to go for them.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn place(&self, key: &Key) -> usize {
        usize::from(key.as_bytes()[31]) % self.shards.len()
    }

    fn shard(&self, key: &Key) -> &Mutex<Shard> {
        &self.shards[self.place(key)]
    }

    /// Takes `weight` bytes for `key`, for which others go if they have to. False, with nothing taken and nobody gone but
    /// the dead, when more would be lost than `worth`.
    fn make_room(&self, key: &Key, weight: u64, worth: Option<u64>, lives: &impl Fn(&Entry) -> bool) -> bool {
        let held = self.held.fetch_add(weight, Ordering::SeqCst) + weight;
        // What others take at the same time is theirs to find; a little more, should one of them have failed.
        let mut needed = held.saturating_sub(self.capacity).min(weight + weight / 4);
        let mut going: Vec<Victim> = Vec::new();
        let mut spared = HashSet::from([*key]);
        let (mut freed, mut lost) = (0_u64, 0_u64);
        while freed < needed {
            let found = if going.len() < MAX_VICTIMS { self.draw(&spared, lives, &mut needed) } else { None };
            if freed >= needed {
                // The dead have been enough.
                break;
            }
            lost = lost.saturating_add(found.as_ref().map_or(0, |victim| victim.saves));
            match found.filter(|_| worth.is_none_or(|worth| lost <= worth)) {
                Some(victim) => {
                    freed += victim.weight;
                    spared.insert(victim.key);
                    going.push(victim);
                }
                None => {
                    self.held.fetch_sub(weight, Ordering::SeqCst);
                    return false;
                }
            }
        }
        for victim in going {
            let was_there = self.remove(victim.place, &victim.key);
            self.evicted.fetch_add(u64::from(was_there), Ordering::Relaxed);
        }
        true
    }

    /// The next that may go, but for those that are `spared`: the least of some in one part. The dead that are met go at
    /// once, and less is needed.
    fn draw(&self, spared: &HashSet<Key>, lives: &impl Fn(&Entry) -> bool, needed: &mut u64) -> Option<Victim> {
        let first = self.lot(self.shards.len());
        for place in (first..self.shards.len()).chain(0..first) {
            let mut least: Option<Victim> = None;
            let mut shard = self.shards[place].lock();
            for _ in 0..DRAWN {
                let Some(slot) = shard.slot(self.lot(shard.len())) else { break };
                let (key, weight) = (slot.key, slot.weight);
                if !lives(&slot.entry) {
                    shard.remove(&key);
                    self.forget(weight);
                    *needed = needed.saturating_sub(weight);
                } else if !spared.contains(&key) {
                    let victim = Victim { place, key, weight, saves: shard.saves(&key, &slot.entry) };
                    if least.as_ref().is_none_or(|least| victim.is_worth_less(least)) {
                        least = Some(victim);
                    }
                }
            }
            if least.is_some() || *needed == 0 {
                return least;
            }
        }
        None
    }

    /// Lets go of the dead among a few in one part, so that they do not stay until there is no room.
    fn sweep(&self, place: usize, lives: &impl Fn(&Entry) -> bool) {
        let mut shard = self.shards[place].lock();
        for _ in 0..SWEPT {
            let Some(slot) = shard.slot(self.lot(shard.len())) else { break };
            let (key, weight) = (slot.key, slot.weight);
            if !lives(&slot.entry) {
                shard.remove(&key);
                self.forget(weight);
            }
        }
    }

    /// False when there was none.
    fn remove(&self, place: usize, key: &Key) -> bool {
        let removed = self.shards[place].lock().remove(key);
        if let Some(weight) = removed {
            self.forget(weight);
        }
        removed.is_some()
    }

    fn forget(&self, weight: u64) {
        self.held.fetch_sub(weight, Ordering::SeqCst);
        self.entries.fetch_sub(1, Ordering::SeqCst);
    }

    /// A number below `below`: splitmix64 (Steele, Lea and Flood 2014), the same in every run of one thread.
    fn lot(&self, below: usize) -> usize {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut mixed = self.lots.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(mixed ^ (mixed >> 31)) * below as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests;
