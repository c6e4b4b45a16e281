//! Purges that take their time, so that the origin survives them.

use super::{Purge, Reach};
use crate::Tags;

/// A purge that goes on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spread {
    pub(super) purge: Purge,
    /// Unix microseconds, of whoever made it: the same at every gateway.
    pub(super) from: u64,
    /// It concerns what began before.
    pub(super) before: u64,
}

/// The latest purges that have come to an answer; 0 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reached {
    pub(super) hard: u64,
    pub(super) soft: u64,
}

impl Spread {
    pub(super) fn until(&self) -> u64 {
        self.from.saturating_add(u64::from(self.purge.over) * 1_000_000)
    }

    /// Has what began at `micros` had its turn by `now`?
    fn has_reached(&self, micros: u64, tags: &Tags, now: u64) -> bool {
        let concerns = match self.purge.reach {
            Reach::Everything => true,
            Reach::Tag(tag) => tags.iter().any(|known| known == tag),
        };
        concerns
            && micros < self.before
            && now >= self.from.saturating_add(turn(micros, self.until().saturating_sub(self.from)))
    }
}

/// When within `length` microseconds. Fibonacci hashing: neighbours in time are far apart, and all evenly spread.
fn turn(micros: u64, length: u64) -> u64 {
    let hashed = micros.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    ((u128::from(hashed) * u128::from(length)) >> 32) as u64
}

/// What `spreads` have made of an answer by its stamp as it was given: it has the same turn at every gateway.
pub(super) fn reached(spreads: &[Spread], micros: u64, tags: &Tags, now: u64) -> Reached {
    let mut reached = Reached::default();
    for spread in spreads.iter().filter(|spread| spread.has_reached(micros, tags, now)) {
        let last = if spread.purge.soft { &mut reached.soft } else { &mut reached.hard };
        *last = spread.before.max(*last);
    }
    reached
}
