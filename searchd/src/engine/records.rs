//! The records of a collection, by slot and by id.
//!
//! What a checkpoint had stays as it was read, in blocks; a block becomes records when one of them is first looked at. So a
//! start need not take millions of them apart before it serves, and when all have been looked at, what was read is gone.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use hashbrown::HashTable;
use parking_lot::RwLock;

use super::collection::Slot;
use super::record::Record;

/// Slots of a block: a few microseconds' work.
pub const BLOCK: usize = 16;
/// Up to so many slots of a checkpoint are taken apart at once: nothing in the background would.
const FEW: usize = 64;

#[derive(Debug, PartialEq)]
pub struct Entry {
    pub id: Box<str>,
    pub record: Record,
}

/// Records as a checkpoint has them, known to be undamaged.
pub trait Blocks: Send + Sync {
    /// The slots from `block` × [`BLOCK`] on.
    fn read(&self, block: usize) -> Box<[Entry]>;
}

/// Every id has a slot of its own, given in the order in which they came.
#[derive(Debug, Default)]
pub struct Records {
    stored: Option<Box<Stored>>,
    /// The slots after those.
    recent: Recent,
    places: HashTable<Place>,
    hasher: RandomState,
}

/// Where an id's record is. With a part of the hash, so that growing does not look at ids again.
#[derive(Clone, Copy, Debug)]
struct Place {
    hash: u32,
    slot: Slot,
}

impl Records {
    /// What a checkpoint had: `hashes` of the ids of all slots, by `hasher`.
    pub fn stored(blocks: Arc<dyn Blocks>, hasher: RandomState, hashes: &[u32]) -> Self {
        let mut places = HashTable::with_capacity(hashes.len());
        for (slot, hash) in hashes.iter().enumerate() {
            places.insert_unique(spread(*hash), Place { hash: *hash, slot: slot as Slot }, |place| spread(place.hash));
        }
        let stored = Stored::new(blocks, hashes.len());
        if hashes.len() <= FEW {
            for block in 0..stored.read.len() {
                stored.block(block);
            }
        }
        Self { stored: Some(Box::new(stored)), recent: Recent::default(), places, hasher }
    }

    /// All slots.
    pub fn len(&self) -> usize {
        self.before() + self.recent.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn get(&self, slot: Slot) -> Option<&Entry> {
        match (slot as usize).checked_sub(self.before()) {
            Some(recent) => self.recent.get(recent),
            None => self.stored.as_ref()?.get(slot as usize),
        }
    }

    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut Entry> {
        match (slot as usize).checked_sub(self.before()) {
            Some(recent) => self.recent.get_mut(recent),
            None => self.stored.as_mut()?.get_mut(slot as usize),
        }
    }

    pub fn find(&self, id: &str) -> Option<Slot> {
        let hash = hash(&self.hasher, id);
        let is_it = |place: &Place| place.hash == hash && self.get(place.slot).is_some_and(|entry| *entry.id == *id);
        Some(self.places.find(spread(hash), is_it)?.slot)
    }

    /// The id's slot, with an empty record in it when it is new.
    pub fn find_or_insert(&mut self, id: &str) -> Slot {
        if let Some(slot) = self.find(id) {
            return slot;
        }
        let (hash, slot) = (hash(&self.hasher, id), self.len() as Slot);
        self.places.insert_unique(spread(hash), Place { hash, slot }, |place| spread(place.hash));
        self.recent.push(Entry { id: id.into(), record: Record::default() });
        slot
    }

    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        (0..self.len() as Slot).filter_map(|slot| self.get(slot))
    }

    fn before(&self) -> usize {
        self.stored.as_ref().map_or(0, |stored| stored.len)
    }
}

/// Of an id, as [`Records::stored`] wants it.
pub fn hash(hasher: &RandomState, id: &str) -> u32 {
    hasher.hash_one(id) as u32
}

/// A table looks at both ends of 64 bits.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Entries in their order, in pieces: when one is full the next is begun, and none is ever moved. To move a million of them into more
/// room takes some hundred milliseconds, for which all searches would wait.
#[derive(Debug, Default)]
struct Recent(Vec<Vec<Entry>>);

impl Recent {
    fn len(&self) -> usize {
        self.0.last().map_or(0, |last| (self.0.len() - 1) * PIECE + last.len())
    }

    fn get(&self, at: usize) -> Option<&Entry> {
        self.0.get(at / PIECE)?.get(at % PIECE)
    }

    fn get_mut(&mut self, at: usize) -> Option<&mut Entry> {
        self.0.get_mut(at / PIECE)?.get_mut(at % PIECE)
    }

    fn push(&mut self, entry: Entry) {
        match self.0.last_mut().filter(|last| last.len() < PIECE) {
            Some(last) => {
                if last.len() == last.capacity() {
                    // In smaller steps than doubling: there may be thousands of small collections.
                    last.reserve_exact((last.len() / 2).max(LEAST_ROOM).min(PIECE - last.len()));
                }
                last.push(entry);
            }
            None => {
                let mut piece = Vec::with_capacity(if self.0.is_empty() { LEAST_ROOM } else { PIECE });
                piece.push(entry);
                self.0.push(piece);
            }
        }
    }
}

/// What a checkpoint had.
struct Stored {
    read: Box<[OnceLock<Box<[Entry]>>]>,
    /// Blocks that were not read yet, and from where; none when there are none.
    left: AtomicUsize,
    blocks: RwLock<Option<Arc<dyn Blocks>>>,
    len: usize,
}

impl Stored {
    fn new(blocks: Arc<dyn Blocks>, len: usize) -> Self {
        let read: Box<[_]> = (0..len.div_ceil(BLOCK)).map(|_| OnceLock::new()).collect();
        Self { left: AtomicUsize::new(read.len()), blocks: RwLock::new(Some(blocks)), read, len }
    }

    fn block(&self, block: usize) -> &[Entry] {
        self.read[block].get_or_init(|| {
            let blocks = self.blocks.read().clone().expect("it stays until the last block was read");
            let entries = blocks.read(block);
            if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                *self.blocks.write() = None;
            }
            entries
        })
    }

    fn get(&self, slot: usize) -> Option<&Entry> {
        self.block(slot / BLOCK).get(slot % BLOCK)
    }

    fn get_mut(&mut self, slot: usize) -> Option<&mut Entry> {
        self.block(slot / BLOCK);
        self.read[slot / BLOCK].get_mut()?.get_mut(slot % BLOCK)
    }
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} slots, {} blocks not read", self.len, self.left.load(Ordering::Relaxed))
    }
}

/// Records that there is room for when there is none.
const LEAST_ROOM: usize = 4;
/// Records of one piece.
const PIECE: usize = 1_024;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use parking_lot::Mutex;

    use super::*;

    /// Ids that are their slot's number, and which blocks were asked for.
    struct Numbers {
        len: usize,
        asked: Mutex<Vec<usize>>,
    }

    impl Numbers {
        fn new(len: usize) -> (Arc<Self>, Records) {
            let (numbers, hasher) = (Arc::new(Self { len, asked: Mutex::default() }), RandomState::new());
            let hashes: Vec<u32> = (0..len).map(|slot| hash(&hasher, &slot.to_string())).collect();
            (numbers.clone(), Records::stored(numbers, hasher, &hashes))
        }
    }

    impl Blocks for Numbers {
        fn read(&self, block: usize) -> Box<[Entry]> {
            self.asked.lock().push(block);
            let slots = block * BLOCK..(block * BLOCK + BLOCK).min(self.len);
            slots.map(|slot| Entry { id: slot.to_string().into(), record: Record::default() }).collect()
        }
    }

    #[test]
    fn every_id_is_where_it_was_and_only_what_is_looked_at_is_read_once() {
        let (numbers, mut records) = Numbers::new(1_000);
        assert!(numbers.asked.lock().is_empty());
        assert_eq!((records.find("999"), records.find("1000"), records.len()), (Some(999), None, 1_000));
        assert_eq!(*numbers.asked.lock(), [999 / BLOCK]);
        for more in 1_000..4_000 {
            assert_eq!(records.find_or_insert(&more.to_string()), more);
        }
        records.get_mut(17).unwrap().record.version = 3;
        assert_eq!(numbers.asked.lock().len(), 2, "growing looks at no id again");
        for slot in 0..4_000 {
            assert_eq!(records.find_or_insert(&slot.to_string()), slot);
            assert_eq!(&*records.get(slot).unwrap().id, slot.to_string());
            assert_eq!(records.get(slot).unwrap().record.version, if slot == 17 { 3 } else { 0 });
        }
        let asked = numbers.asked.lock().clone();
        assert_eq!(asked.len(), asked.iter().collect::<BTreeSet<_>>().len());
        assert_eq!((records.len(), records.iter().count(), records.get(4_000)), (4_000, 4_000, None));
        assert_eq!(Arc::strong_count(&numbers), 1, "what was read is gone");
    }

    #[test]
    fn few_records_leave_nothing_behind() {
        let (numbers, records) = Numbers::new(FEW);
        assert_eq!((Arc::strong_count(&numbers), records.len()), (1, FEW));
    }

    #[test]
    fn threads_that_look_at_the_same_time_see_the_same() {
        let (numbers, records) = Numbers::new(5_000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..5_000).for_each(|slot| assert_eq!(records.find(&slot.to_string()), Some(slot))));
            }
        });
        assert_eq!((numbers.asked.lock().len(), Arc::strong_count(&numbers)), (5_000usize.div_ceil(BLOCK), 1));
    }
}
