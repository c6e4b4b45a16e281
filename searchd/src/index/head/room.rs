//! Memory for chunks to come, made ready beforehand.
//!
//! The system gives memory page by page, at the first touch, and clears each. For whoever stores that would be half of the time in
//! which searches wait for it.

use std::hint::black_box;

use parking_lot::Mutex;

/// Chunks' worth of memory that are kept ready, for all collections together.
const READY: usize = 2;

/// What all collections share.
pub(super) static ROOM: Room = Room::new();

pub(super) struct Room(Mutex<Vec<Vec<f32>>>);

impl Room {
    const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// Makes memory for so many numbers ready, if there is none of that size.
    pub(super) fn prepare(&self, numbers: usize) {
        if self.0.lock().iter().any(|ready| ready.capacity() == numbers) {
            return;
        }
        let mut ready = Vec::with_capacity(numbers);
        // Not 0, which an allocator may promise without touching anything.
        ready.resize(numbers, f32::NAN);
        black_box(&mut ready).clear();
        let mut room = self.0.lock();
        if room.len() == READY {
            room.remove(0);
        }
        room.push(ready);
    }

    /// Memory for so many numbers: what was made ready, or none.
    pub(super) fn take(&self, numbers: usize) -> Vec<f32> {
        let mut room = self.0.lock();
        let at = room.iter().position(|ready| ready.capacity() == numbers);
        at.map_or_else(Vec::new, |at| room.swap_remove(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_ready_is_given_once_and_the_last_few_are_kept() {
        let room = Room::new();
        [101, 103, 107, 109, 109].into_iter().for_each(|numbers| room.prepare(numbers));
        let given = [101, 103, 107, 109, 109].map(|numbers| {
            let ready = room.take(numbers);
            assert!(ready.is_empty());
            ready.capacity()
        });
        assert_eq!(given, [0, 0, 107, 109, 0]);
    }
}
