//! Memory for chunks to come, made ready beforehand.
//!
//! The system gives memory page by page, at the first touch, and clears each. For whoever stores that would be half of the time in
//! which searches wait for it.

use std::hint::black_box;

use parking_lot::Mutex;

/// Chunks' worth of memory that are kept ready, for all collections together.
const READY: usize = 2;

static ROOM: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// Makes memory for so many numbers ready, if there is none of that size.
pub(super) fn prepare(numbers: usize) {
    if ROOM.lock().iter().any(|ready| ready.capacity() == numbers) {
        return;
    }
    let mut ready = Vec::with_capacity(numbers);
    // Not 0, which an allocator may promise without touching anything.
    ready.resize(numbers, f32::NAN);
    black_box(&mut ready).clear();
    let mut room = ROOM.lock();
    if room.len() == READY {
        room.remove(0);
    }
    room.push(ready);
}

/// Memory for so many numbers: what was made ready, or none.
pub(super) fn take(numbers: usize) -> Vec<f32> {
    let mut room = ROOM.lock();
    let at = room.iter().position(|ready| ready.capacity() == numbers);
    at.map_or_else(Vec::new, |at| room.swap_remove(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_ready_is_given_once_and_no_more_than_a_few_are_kept() {
        // Sizes that no other test has chunks of.
        let sizes = [101, 103, 107, 109];
        sizes.iter().for_each(|size| prepare(*size));
        let given: Vec<usize> = sizes.iter().map(|size| take(*size).capacity()).collect();
        assert!(given.iter().filter(|capacity| **capacity > 0).count() <= READY);
        prepare(113);
        let ready = take(113);
        assert!(
            ready.is_empty() && (ready.capacity() == 113 || ready.capacity() == 0),
            "another may have come between"
        );
        assert_eq!(take(113).capacity(), 0);
    }
}
