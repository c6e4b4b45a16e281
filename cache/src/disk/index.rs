//! Where on disk each answer is: in memory, fifty to a hundred bytes an answer.
//!
//! An answer that is to be written has a turn before it has a place, so that what is written late takes no place from
//! what came after it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::Key;

/// Parts with a lock each: so many that one is gone through while hardly anybody waits.
const PARTS: usize = 256;

/// Half of a key: what is read is compared with all of it.
type Half = [u8; 16];

/// A record: which segment, at which byte, of how many bytes with its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u32,
    pub(super) at: u32,
    pub(super) length: u32,
}

#[derive(Clone, Copy)]
struct Known {
    turn: u64,
    /// None while it is on its way.
    place: Option<Place>,
}

pub(super) struct Index {
    parts: Box<[Mutex<HashMap<Half, Known>>]>,
    turns: AtomicU64,
    placed: AtomicU64,
}

impl Default for Index {
    fn default() -> Self {
        let parts = (0..PARTS).map(|_| Mutex::default()).collect();
        Self { parts, turns: AtomicU64::new(1), placed: AtomicU64::new(0) }
    }
}

impl Index {
    fn part(&self, key: &Key) -> (&Mutex<HashMap<Half, Known>>, Half) {
        let (mut half, bytes) = (Half::default(), key.as_bytes());
        half.copy_from_slice(&bytes[..16]);
        (&self.parts[usize::from(bytes[29]) % PARTS], half)
    }

    /// Answers that have a place.
    pub(super) fn len(&self) -> u64 {
        self.placed.load(Ordering::Relaxed)
    }

    pub(super) fn find(&self, key: &Key) -> Option<Place> {
        let (part, half) = self.part(key);
        part.lock().get(&half).and_then(|known| known.place)
    }

    /// Whether it has a place or is on its way to one.
    pub(super) fn knows(&self, key: &Key) -> bool {
        let (part, half) = self.part(key);
        part.lock().contains_key(&half)
    }

    /// A turn to write something under `key`; what is there is not found any more.
    pub(super) fn claim(&self, key: &Key) -> u64 {
        let (part, half) = self.part(key);
        let mut part = part.lock();
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        let before = part.insert(half, Known { turn, place: None });
        self.count_out(before);
        turn
    }

    /// What had its turn is at `place`, unless somebody else has had one since.
    pub(super) fn place(&self, key: &Key, turn: u64, place: Place) {
        let (part, half) = self.part(key);
        if let Some(known) = part.lock().get_mut(&half).filter(|known| known.turn == turn) {
            known.place = Some(place);
            self.placed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What had its turn is not written.
    pub(super) fn give_up(&self, key: &Key, turn: u64) {
        let (part, half) = self.part(key);
        let mut part = part.lock();
        if part.get(&half).is_some_and(|known| known.turn == turn) {
            let before = part.remove(&half);
            self.count_out(before);
        }
    }

    /// What is at `place` is of no use.
    pub(super) fn lose(&self, key: &Key, place: Place) {
        let (part, half) = self.part(key);
        let mut part = part.lock();
        if part.get(&half).is_some_and(|known| known.place == Some(place)) {
            let before = part.remove(&half);
            self.count_out(before);
        }
    }

    /// A record of an earlier process, or None for one that ends what was under the key; the later of two counts, and
    /// whatever this process has stored before either.
    pub(super) fn restore(&self, key: &Key, place: Option<Place>) {
        let (part, half) = self.part(key);
        let mut part = part.lock();
        if part.get(&half).is_some_and(|known| known.turn > 0) {
            return;
        }
        let before = match place {
            Some(_) => part.insert(half, Known { turn: 0, place }),
            None => part.remove(&half),
        };
        self.count_out(before);
        self.placed.fetch_add(u64::from(place.is_some()), Ordering::Relaxed);
    }

    /// Nothing is left of a segment.
    pub(super) fn forget_segment(&self, segment: u32) {
        for part in &self.parts {
            part.lock().retain(|_, known| {
                let goes = known.place.is_some_and(|place| place.segment == segment);
                self.placed.fetch_sub(u64::from(goes), Ordering::Relaxed);
                !goes
            });
        }
    }

    fn count_out(&self, known: Option<Known>) {
        let placed = known.is_some_and(|known| known.place.is_some());
        self.placed.fetch_sub(u64::from(placed), Ordering::Relaxed);
    }
}
