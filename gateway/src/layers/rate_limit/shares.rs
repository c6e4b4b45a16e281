//! This gateway's shares of the quotas that all gateways of a Redis have together.
//!
//! No request ever waits for Redis: it takes from the share that is held, and the shares are settled behind its back, ten
//! times a second ([`settlement`]). A key that is new here is let pass by a part of the whole quota, by how many gateways
//! there are, until the first settling; what passed is owed. The first that settles it gets no more than that part, until
//! the others have had time to say what they let pass. While Redis is out of sight, each gateway keeps to its part of the
//! keys that it knows others to count as well, and to the whole of the rest.

pub(crate) mod settlement;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nearfield_cache::redis::quotas::{Claim, LEASE, Settled};
use parking_lot::Mutex;

use super::limiter::Key;

/// The locks are many, so that requests do not wait for each other, nor for a settling.
const SHARDS: usize = 64;
/// Quotas whose shares are held at once; keys past that are limited by this gateway alone.
const MAX_HELD: usize = 200_000;
/// Into at most so many parts a quota is divided for gateways that have not settled it yet: with more gateways it is
/// likelier that few of them meet the same key.
const MAX_PARTS: u32 = 4;
/// A share that nobody asked for in this time is given up.
const UNUSED: Duration = Duration::from_secs(2);
/// A gateway that Redis has not heard of is counted so much longer: it is more likely late than gone.
const LATE: Duration = Duration::from_secs(5);

/// What there is for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It was taken from the share, which has so much left.
    Share { left: i64, sharers: u32 },
    /// There is a share, and not as much in it.
    Nothing,
    /// There is no share: this gateway decides alone, as one of so many.
    Alone { sharers: u32 },
}

struct Held {
    limit: u32,
    /// Below zero: owed.
    units: i64,
    /// Since the last settling.
    asked: u64,
    sharers: u32,
    settled: Option<Instant>,
    used: Instant,
}

pub(crate) struct Shares {
    shards: Vec<Mutex<HashMap<(&'static str, Key), Held>>>,
    /// As far as is known; none while Redis is out of sight.
    gateways: AtomicU32,
    /// Since when fewer have been seen than are counted.
    fewer_since: Mutex<Option<Instant>>,
    /// Where the next claims begin: where the last ones had to end.
    turn: AtomicUsize,
}

impl Default for Shares {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, gateways: AtomicU32::new(0), fewer_since: Mutex::default(), turn: AtomicUsize::new(0) }
    }
}

impl Shares {
    fn shard(&self, key: Key) -> &Mutex<HashMap<(&'static str, Key), Held>> {
        &self.shards[(key.0 % SHARDS as u128) as usize]
    }

    /// Into how many a quota is divided that is new here.
    fn parts(&self) -> u32 {
        self.gateways.load(Ordering::Relaxed).clamp(1, MAX_PARTS)
    }

    /// Takes `units` of the share of `limit` a second.
    pub(super) fn take(&self, policy: &'static str, key: Key, limit: u32, units: u32, now: Instant) -> Taken {
        let gateways = self.gateways.load(Ordering::Relaxed);
        let mut shard = self.shard(key).lock();
        if shard.len() >= MAX_HELD / SHARDS && !shard.contains_key(&(policy, key)) {
            return Taken::Alone { sharers: 1 };
        }
        // Others may count a key that is new here: should sight of them be lost before it is settled, it stays a part.
        let parts = self.parts();
        let new = || Held { limit, units: 0, asked: 0, sharers: parts, settled: None, used: now };
        let held = shard.entry((policy, key)).or_insert_with(new);
        held.asked = held.asked.saturating_add(u64::from(units));
        (held.used, held.limit) = (now, limit);
        if gateways == 0 {
            return Taken::Alone { sharers: held.sharers };
        }
        match held.settled {
            Some(settled) if now.duration_since(settled) < LEASE => {
                if held.units < i64::from(units) {
                    return Taken::Nothing;
                }
                held.units -= i64::from(units);
                Taken::Share { left: held.units, sharers: held.sharers }
            }
            Some(_) => Taken::Alone { sharers: held.sharers },
            None => Taken::Alone { sharers: parts },
        }
    }

    /// So many were let pass without a share.
    pub(super) fn owe(&self, policy: &'static str, key: Key, units: u32) {
        if let Some(held) = self.shard(key).lock().get_mut(&(policy, key)) {
            // What passed while Redis was away is not owed for ever.
            held.units = (held.units - i64::from(units)).max(-i64::from(held.limit));
        }
    }

    /// What there is to settle, at most `max` quotas; those that nobody asks for any more are given up.
    fn claims(&self, max: usize, now: Instant) -> Vec<Claim> {
        let mut claims = Vec::new();
        let parts = self.parts();
        let turn = self.turn.load(Ordering::Relaxed);
        let mut ended = None;
        for i in (0..SHARDS).map(|i| (turn + i) % SHARDS) {
            if claims.len() >= max {
                ended.get_or_insert(i);
            }
            let mut shard = self.shards[i].lock();
            shard.retain(|(policy, key), held| {
                let unused = now.duration_since(held.used) >= UNUSED;
                let known = held.settled.is_some();
                if (held.asked > 0 || (unused && known)) && claims.len() < max {
                    let Held { limit, units, asked, .. } = *held;
                    claims.push(Claim { policy, key: key.0, limit, left: units, asked, first: limit.div_ceil(parts) });
                    held.asked = 0;
                    return !unused || asked > 0;
                }
                !unused || known
            });
        }
        self.turn.store(ended.unwrap_or(turn), Ordering::Relaxed);
        claims
    }

    /// Takes in what was settled, and returns how many gateways are counted. What was taken from the shares since the claims were
    /// made stays taken.
    fn settle(&self, claims: &[Claim], settled: &Settled, now: Instant) -> u32 {
        let gateways = self.count_gateways(settled.gateways.max(1), now);
        // Those that were given up are held no more; one that is held again by now began anew.
        let kept = claims.iter().zip(&settled.shares).filter(|(claim, _)| claim.asked > 0);
        for (claim, share) in kept {
            let key = Key(claim.key);
            if let Some(held) = self.shard(key).lock().get_mut(&(claim.policy, key)) {
                held.units += i64::from(share.units) - claim.left;
                (held.sharers, held.settled) = (share.sharers.max(1), Some(now));
            }
        }
        gateways
    }

    fn count_gateways(&self, seen: u32, now: Instant) -> u32 {
        let mut fewer_since = self.fewer_since.lock();
        if seen >= self.gateways.load(Ordering::Relaxed) || now.duration_since(*fewer_since.get_or_insert(now)) >= LATE
        {
            self.gateways.store(seen, Ordering::Relaxed);
            *fewer_since = None;
        }
        self.gateways.load(Ordering::Relaxed)
    }

    /// Redis is out of sight: what is held counts no more. Nor may it be given back later: a settling of which no answer
    /// came may have given it back already. What is owed stays owed.
    fn lose_sight(&self) {
        self.gateways.store(0, Ordering::Relaxed);
        for shard in &self.shards {
            for held in shard.lock().values_mut() {
                (held.units, held.settled) = (held.units.min(0), None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use nearfield_cache::redis::quotas::Share;

    use super::*;

    const KEY: Key = Key(7);

    fn take(shares: &Shares, units: u32, now: Instant) -> Taken {
        shares.take("user", KEY, 100, units, now)
    }

    fn settle(shares: &Shares, units: u32, sharers: u32, now: Instant) -> Vec<Claim> {
        let claims = shares.claims(10, now);
        let given = claims.iter().map(|_| Share { units, sharers }).collect();
        shares.settle(&claims, &Settled { gateways: 3, shares: given }, now);
        claims
    }

    #[test]
    fn a_new_key_passes_by_a_part_and_owes_it_then_its_share_is_what_counts() {
        let (shares, now) = (Shares::default(), Instant::now());
        assert_eq!(take(&shares, 1, now), Taken::Alone { sharers: 1 }, "no Redis yet");
        shares.owe("user", KEY, 1);
        let claims = settle(&shares, 30, 3, now);
        assert_eq!((claims[0].left, claims[0].asked, claims[0].limit), (-1, 1, 100));
        assert_eq!(take(&shares, 29, now), Taken::Share { left: 1, sharers: 3 });
        assert_eq!(take(&shares, 2, now), Taken::Nothing);
        assert_eq!(shares.take("user", Key(8), 100, 1, now), Taken::Alone { sharers: 3 });
        let claims = settle(&shares, 10, 3, now);
        let of_7 = claims.iter().find(|claim| claim.key == 7).unwrap();
        assert_eq!((of_7.left, of_7.asked), (1, 31), "what is refused is asked for, too");
        assert!(shares.claims(10, now).is_empty(), "nothing new");
    }

    #[test]
    fn what_is_taken_while_a_settling_is_under_way_stays_taken() {
        let (shares, now) = (Shares::default(), Instant::now());
        take(&shares, 1, now);
        settle(&shares, 50, 1, now);
        take(&shares, 10, now);
        let claims = shares.claims(10, now);
        take(&shares, 15, now);
        let settled = Settled { gateways: 1, shares: vec![Share { units: 60, sharers: 1 }] };
        shares.settle(&claims, &settled, now);
        assert_eq!(take(&shares, 1, now), Taken::Share { left: 44, sharers: 1 });
    }

    #[test]
    fn a_share_that_is_not_settled_anew_lapses_and_sight_is_lost_at_once() {
        let (shares, now) = (Shares::default(), Instant::now());
        take(&shares, 1, now);
        settle(&shares, 50, 2, now);
        assert_eq!(take(&shares, 1, now + LEASE), Taken::Alone { sharers: 2 });
        shares.lose_sight();
        assert_eq!(take(&shares, 1, now), Taken::Alone { sharers: 2 });
    }

    #[test]
    fn a_gateway_that_is_late_and_one_out_of_sight_do_not_make_a_part_the_whole() {
        let (shares, now) = (Shares::default(), Instant::now());
        let settle = |gateways, now| shares.settle(&[], &Settled { gateways, shares: Vec::new() }, now);
        let take = |key, now| shares.take("user", Key(key), 100, 1, now);
        settle(3, now);
        settle(1, now);
        assert_eq!(take(1, now), Taken::Alone { sharers: 3 });
        settle(2, now + LATE);
        assert_eq!(take(2, now + LATE), Taken::Alone { sharers: 2 });
        shares.lose_sight();
        assert_eq!(take(2, now + LATE), Taken::Alone { sharers: 2 }, "met while others were seen");
        assert_eq!(take(3, now + LATE), Taken::Alone { sharers: 1 });
    }

    #[test]
    fn a_settling_that_may_have_been_made_gives_nothing_back_twice() {
        let (shares, now) = (Shares::default(), Instant::now());
        take(&shares, 1, now);
        settle(&shares, 50, 1, now);
        take(&shares, 10, now);
        assert_eq!(shares.claims(10, now)[0].left, 40);
        shares.lose_sight();
        take(&shares, 1, now);
        shares.owe("user", KEY, 1);
        assert_eq!(shares.claims(10, now)[0].left, -1);
    }

    #[test]
    fn a_key_that_comes_back_while_it_is_given_up_owes_nothing_for_that() {
        let (shares, now) = (Shares::default(), Instant::now());
        take(&shares, 1, now);
        settle(&shares, 50, 1, now);
        let given_up = shares.claims(10, now + UNUSED);
        assert_eq!(given_up[0].asked, 0);
        assert_eq!(take(&shares, 1, now + UNUSED), Taken::Alone { sharers: 3 });
        shares.owe("user", KEY, 1);
        let settled = Settled { gateways: 3, shares: vec![Share { units: 0, sharers: 0 }] };
        shares.settle(&given_up, &settled, now + UNUSED);
        assert_eq!(shares.claims(10, now + UNUSED)[0].left, -1);
    }

    #[test]
    fn with_more_quotas_than_are_settled_at_once_each_has_its_turn() {
        let (shares, now) = (Shares::default(), Instant::now());
        let mut seen = std::collections::HashSet::new();
        for _ in 0..20 {
            for key in 0..1_000 {
                shares.take("user", Key(key), 100, 1, now);
            }
            seen.extend(shares.claims(100, now).iter().map(|claim| claim.key));
        }
        assert_eq!(seen.len(), 1_000);
    }

    #[test]
    fn what_nobody_asks_for_is_given_up_and_what_is_held_is_bounded() {
        let (shares, now) = (Shares::default(), Instant::now());
        take(&shares, 1, now);
        settle(&shares, 50, 1, now);
        let claims = shares.claims(10, now + UNUSED);
        assert_eq!((claims[0].left, claims[0].asked), (50, 0));
        assert!(shares.shards.iter().all(|shard| shard.lock().is_empty()));
        for key in 0..2 * MAX_HELD as u128 {
            shares.take("ip", Key(key), 100, 1, now);
        }
        let held: usize = shares.shards.iter().map(|shard| shard.lock().len()).sum();
        assert_eq!(held, MAX_HELD / SHARDS * SHARDS);
        assert_eq!(shares.claims(1_000, now).len(), 1_000);
    }
}
