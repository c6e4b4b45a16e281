//! What one client may ask for that costs the gateway more than it: so much at once, and so much a second.

use std::time::Duration;

use tokio::time::Instant;

/// A bound over time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    /// At once.
    pub(super) burst: u32,
    /// Regained, up to `burst`.
    pub(super) per_second: u32,
}

/// What is left of an [`Allowance`].
#[derive(Debug)]
pub(super) struct Purse {
    allowance: Allowance,
    /// Below nothing when it owes something.
    left: i32,
    /// Up to when what is regained has been counted. The clock is read when the purse is empty only: it is asked for
    /// every frame.
    counted: Instant,
}

impl Purse {
    pub(super) fn new(allowance: Allowance) -> Self {
        Self { allowance, left: whole(allowance.burst), counted: Instant::now() }
    }

    /// Takes one. False when there is none.
    pub(super) fn spend(&mut self) -> bool {
        self.pay(1)
    }

    /// Takes as many. False when there are not so many, and then none is taken.
    pub(super) fn pay(&mut self, units: u32) -> bool {
        let units = whole(units);
        if self.left < units {
            self.regain();
        }
        let paid = self.left >= units;
        self.left -= if paid { units } else { 0 };
        paid
    }

    /// Takes `more`, whether it is there or not; but no more is owed then than `most`.
    pub(super) fn fine(&mut self, more: u32, most: u32) {
        self.regain();
        self.left = self.left.saturating_sub(whole(more)).max(-whole(most));
    }

    /// What may be spent now: all that may be at once for a client that has been at rest for long enough, nothing for one
    /// that owes.
    pub(super) fn left(&mut self) -> u32 {
        self.regain();
        u32::try_from(self.left).unwrap_or(0)
    }

    /// Whether there is less than nothing.
    pub(super) fn owes(&mut self) -> bool {
        self.regain();
        self.left < 0
    }

    /// Puts `more` in, up to what may be spent at once.
    pub(super) fn earn(&mut self, more: u32) {
        self.left = self.left.saturating_add(whole(more)).min(whole(self.allowance.burst));
    }

    fn regain(&mut self) {
        let now = Instant::now();
        let regained = now.duration_since(self.counted).as_secs_f64() * f64::from(self.allowance.per_second);
        if regained >= 1.0 {
            self.left = self.left.saturating_add(regained as i32).min(whole(self.allowance.burst));
            // A part of one is not lost.
            let over = regained.fract() / f64::from(self.allowance.per_second.max(1));
            self.counted = now.checked_sub(Duration::from_secs_f64(over)).unwrap_or(now);
        }
    }
}

fn whole(units: u32) -> i32 {
    i32::try_from(units).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWANCE: Allowance = Allowance { burst: 10, per_second: 4 };

    fn spent(purse: &mut Purse) -> usize {
        std::iter::repeat_with(|| purse.spend()).take(100).take_while(|spent| *spent).count()
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_at_once_and_so_many_a_second() {
        let mut purse = Purse::new(ALLOWANCE);
        assert_eq!(spent(&mut purse), 10);
        tokio::time::advance(Duration::from_millis(600)).await;
        assert_eq!(spent(&mut purse), 2);
        tokio::time::advance(Duration::from_millis(150)).await;
        assert_eq!(spent(&mut purse), 1, "the rest of the time before counts too");
        tokio::time::advance(Duration::from_secs(1000)).await;
        assert_eq!(spent(&mut purse), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_earned_can_be_spent() {
        let mut purse = Purse::new(ALLOWANCE);
        assert_eq!(spent(&mut purse), 10);
        purse.earn(3);
        assert_eq!(spent(&mut purse), 3);
        purse.earn(u32::MAX);
        assert_eq!(spent(&mut purse), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fine_is_paid_before_anything_is_spent() {
        let mut purse = Purse::new(ALLOWANCE);
        purse.fine(12, 1_000);
        assert_eq!((spent(&mut purse), purse.left()), (0, 0));
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(spent(&mut purse), 0, "two are paid, and none is left");
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(purse.left(), 2);
        purse.fine(u32::MAX, 8);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(spent(&mut purse), 4, "no more is owed than the most");
    }
}
