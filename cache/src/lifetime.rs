//! How long an answer lives: while it is fresh, and what it is still good for after that.

use std::time::Duration;

/// Right after a change another searchd may still answer from before it: what is stored then lives this short, …
const SETTLING: Duration = Duration::from_secs(1);
/// … and this is how long after.
const SETTLED_AFTER: Duration = Duration::from_secs(5);

/// All but `initial` and `fresh` count from the end of freshness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetime {
    /// The age that the answer had when it was asked for.
    pub initial: Duration,
    /// May be given without asking.
    pub fresh: Duration,
    /// May be given while the origin is asked behind the caller's back.
    pub while_revalidate: Duration,
    /// May stand in for a failure of the origin.
    pub if_error: Duration,
    /// May be kept to ask the origin whether it still holds.
    pub retained: Duration,
    /// A caller that would be content with a stale answer is not asked.
    pub strict: bool,
}

/// How old an answer is, against its lifetime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    Fresh {
        age: Duration,
        left: Duration,
    },
    /// Too old to be given without more ado.
    Stale {
        age: Duration,
        by: Duration,
    },
    Dead,
}

impl Lifetime {
    /// The age of an answer that was asked for `since` ago.
    pub fn age(&self, since: Duration) -> Age {
        let age = self.initial + since;
        if age < self.fresh {
            return Age::Fresh { age, left: self.fresh - age };
        }
        let by = age - self.fresh;
        if by < self.past_fresh() { Age::Stale { age, by } } else { Age::Dead }
    }

    /// For how long after it was asked for an answer is of use.
    pub fn total(&self) -> Duration {
        (self.fresh + self.past_fresh()).saturating_sub(self.initial)
    }

    fn past_fresh(&self) -> Duration {
        self.while_revalidate.max(self.if_error).max(self.retained)
    }

    /// Shortened when what it is about changed `since` ago.
    #[must_use]
    pub fn settling(self, since: Option<Duration>) -> Self {
        match since {
            Some(since) if since < SETTLED_AFTER => Self { fresh: self.fresh.min(SETTLING), ..self },
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ages() {
        let seconds = Duration::from_secs;
        let lifetime =
            Lifetime { initial: seconds(10), fresh: seconds(30), if_error: seconds(5), ..Lifetime::default() };
        let check = |since: u64, expected| assert_eq!(lifetime.age(seconds(since)), expected, "{since}");
        check(0, Age::Fresh { age: seconds(10), left: seconds(20) });
        check(20, Age::Stale { age: seconds(30), by: seconds(0) });
        check(24, Age::Stale { age: seconds(34), by: seconds(4) });
        check(25, Age::Dead);
        assert_eq!(lifetime.total(), seconds(25));
        assert_eq!(Lifetime { initial: seconds(100), ..lifetime }.total(), Duration::ZERO);
    }

    #[test]
    fn what_changed_a_moment_ago_settles_first() {
        let lifetime = Lifetime { fresh: Duration::from_secs(30), ..Lifetime::default() };
        assert_eq!(lifetime.settling(Some(Duration::from_secs(4))).fresh, SETTLING);
        assert_eq!(lifetime.settling(Some(SETTLED_AFTER)), lifetime);
        assert_eq!(lifetime.settling(None), lifetime);
    }
}
