//! What a connection's requests come to, and how many of them may come to nothing.

use super::allowance::{Allowance, Purse};
use super::quic_frames::Told;

/// Requests of a connection that come to nothing, one for each unit: given up, malformed, or without a head in time. A client may give
/// up twice what it may have open by default, at once.
const WASTED: Allowance = Allowance { burst: 250, per_second: 100 };
/// Bytes of a head for which a request counts once more. A bomb of QPACK is as long as a hundred requests, and costs as much before it
/// is refused.
const FIELDS_PER_WASTED: u64 = 2 << 10;
/// Requests answered for which one more may be wasted.
const ANSWERED_PER_WASTED: u32 = 10;

/// What a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Answered,
    /// Work without an answer.
    Wasted {
        units: u32,
    },
}

impl Outcome {
    pub(super) fn wasted(told: &Told) -> Self {
        let more = u32::try_from(told.fields() / FIELDS_PER_WASTED).unwrap_or(u32::MAX);
        Self::Wasted { units: more.saturating_add(1) }
    }
}

/// What a connection may still waste.
#[derive(Debug)]
pub(super) struct Waste {
    purse: Purse,
    answered: u32,
}

impl Waste {
    pub(super) fn new() -> Self {
        Self { purse: Purse::new(WASTED), answered: 0 }
    }

    /// False when it was too much.
    pub(super) fn count(&mut self, outcome: Outcome) -> bool {
        let Outcome::Wasted { units } = outcome else {
            self.answered += 1;
            if self.answered == ANSWERED_PER_WASTED {
                self.answered = 0;
                self.purse.earn(1);
            }
            return true;
        };
        self.purse.pay(units)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Outcome = Outcome::Wasted { units: 1 };

    #[tokio::test(start_paused = true)]
    async fn so_many_come_to_nothing_and_long_heads_are_many() {
        let mut waste = Waste::new();
        assert!((0..WASTED.burst).all(|_| waste.count(ONE)) && !waste.count(ONE));
        assert!((0..ANSWERED_PER_WASTED).all(|_| waste.count(Outcome::Answered)));
        assert!(waste.count(ONE) && !waste.count(ONE), "whoever takes answers may give up more");
        let mut bombs = Waste::new();
        let bomb = Outcome::Wasted { units: 50 };
        assert_eq!((0..100).take_while(|_| bombs.count(bomb)).count() as u32, WASTED.burst / 50);
    }
}
