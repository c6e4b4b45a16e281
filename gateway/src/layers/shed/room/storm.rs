//! Five times what can be answered, in virtual time. What is behind the room is so many workers and a queue without an
//! end before them, on a machine that may stand still at times.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::{Semaphore, mpsc};

use super::*;

const WORKERS: usize = 32;
const SERVICE: Duration = Duration::from_millis(40);
/// A call takes up to so much more or less.
const SPREAD: f64 = 0.25;
const FACTOR: f64 = 5.0;
const LASTS: Duration = Duration::from_secs(6);
const SLICE: Duration = Duration::from_millis(500);
/// Of twenty calls.
const MIX: [(Criticality, usize); 4] =
    [(Criticality::Critical, 1), (Criticality::High, 2), (Criticality::Normal, 12), (Criticality::Sheddable, 5)];

#[derive(Clone)]
struct Upstream {
    workers: Arc<Semaphore>,
    /// When the machine stands still, and for how long.
    stalls: Arc<Vec<(Instant, Duration)>>,
}

impl Upstream {
    fn new(workers: usize, stalls: Vec<(Instant, Duration)>) -> Self {
        Self { workers: Arc::new(Semaphore::new(workers)), stalls: Arc::new(stalls) }
    }

    /// Until the machine goes on.
    async fn go_on(&self) {
        let now = Instant::now();
        let begun = self.stalls.partition_point(|(at, _)| *at <= now);
        if let Some((at, lasts)) = begun.checked_sub(1).map(|last| self.stalls[last]) {
            tokio::time::sleep_until(at + lasts).await;
        }
    }

    /// False when there was no place; `chance` is from 0 to 1.
    async fn call(&self, room: &Room, criticality: Criticality, chance: f64) -> bool {
        let Ok(mut place) = room.enter(criticality, None).await else { return false };
        self.go_on().await;
        let worker = self.workers.acquire().await.unwrap();
        tokio::time::sleep(SERVICE.mul_f64(1.0 + SPREAD * (2.0 * chance - 1.0))).await;
        self.go_on().await;
        drop(worker);
        place.answered();
        true
    }
}

#[derive(Clone, Copy)]
struct Outcome {
    criticality: Criticality,
    /// From the beginning of the storm to its end.
    at: Duration,
    took: Duration,
    served: bool,
}

struct Storm {
    /// Calls a second that are answered when there are as many at a time as workers, and the 99th percentile of what they take.
    peak: f64,
    peak_p99: Duration,
    outcomes: Vec<Outcome>,
}

impl Storm {
    fn served(&self) -> impl Iterator<Item = &Outcome> {
        self.outcomes.iter().filter(|outcome| outcome.served)
    }

    /// Of the peak.
    fn goodput(&self) -> f64 {
        self.served().filter(|outcome| outcome.at < LASTS).count() as f64 / LASTS.as_secs_f64() / self.peak
    }

    fn share_of(&self, criticality: Criticality) -> f64 {
        let all = || self.outcomes.iter().filter(|outcome| outcome.criticality == criticality);
        all().filter(|outcome| outcome.served).count() as f64 / all().count() as f64
    }

    /// To the peak's, of those that were served after so long.
    fn p99(&self, after: Duration) -> f64 {
        let took = self.served().filter(|outcome| outcome.at >= after).map(|outcome| outcome.took);
        p99(took.collect()).as_secs_f64() / self.peak_p99.as_secs_f64()
    }

    /// The end of the last slice in which too few were served, or too late.
    fn settled(&self) -> Duration {
        let is_bad = |slice: &u32| {
            let within = SLICE * *slice..SLICE * (*slice + 1);
            let took = self.served().filter(|outcome| within.contains(&outcome.at)).map(|outcome| outcome.took);
            let took: Vec<_> = took.collect();
            (took.len() as f64) < 0.9 * self.peak * SLICE.as_secs_f64() || p99(took) > self.peak_p99 * 2
        };
        let slices = LASTS.div_duration_f64(SLICE) as u32;
        (0..slices).rev().find(is_bad).map_or(Duration::ZERO, |slice| SLICE * (slice + 1))
    }
}

fn p99(mut took: Vec<Duration>) -> Duration {
    took.sort();
    let rank = (took.len() as f64 * 0.99).ceil() as usize;
    took[rank - 1]
}

/// First `before` calls at a time, then five times as many as can be answered. `stalls` a second, of up to so long each.
async fn storm(before: usize, stalls: f64, stall: Duration, seed: u64) -> Storm {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut standing, mut at) = (Vec::new(), Instant::now());
    let end = at + LASTS * 2;
    while stalls > 0.0 && at < end {
        at += Duration::from_secs_f64(2.0 * random.random::<f64>() / stalls);
        let lasts = stall.mul_f64(random.random());
        standing.push((at, lasts));
        at += lasts;
    }
    let upstream = Upstream::new(WORKERS, standing);
    let adaptive = gradient::Config { floor: 4, tolerance: 1.2, ..gradient::Config::default() };
    let room = Room::new(&adaptive, &QueueConfig::default(), 4096);

    let end = Instant::now() + LASTS;
    let loops = (0..before).map(|number| {
        let (upstream, room) = (upstream.clone(), room.clone());
        let mut random = StdRng::seed_from_u64(seed + number as u64);
        tokio::spawn(async move {
            let mut took = Vec::new();
            while Instant::now() < end {
                let began = Instant::now();
                assert!(upstream.call(&room, Criticality::Normal, random.random()).await, "refused while it was calm");
                took.push(began.elapsed());
            }
            took
        })
    });
    let took = futures::future::try_join_all(loops).await.unwrap().concat();
    // Fewer at a time would have been answered as fast each.
    let peak = took.len() as f64 / LASTS.as_secs_f64() * WORKERS as f64 / before as f64;
    let peak_p99 = p99(took);

    let (ended, mut outcomes) = mpsc::unbounded_channel();
    let began = Instant::now();
    for number in 0..(peak * FACTOR * LASTS.as_secs_f64()) as usize {
        let due = began + Duration::from_secs_f64(number as f64 / (peak * FACTOR));
        tokio::time::sleep_until(due).await;
        upstream.go_on().await;
        let (upstream, room, ended) = (upstream.clone(), room.clone(), ended.clone());
        let (criticality, chance) = (criticality(number), random.random());
        tokio::spawn(async move {
            let served = upstream.call(&room, criticality, chance).await;
            let outcome = Outcome { criticality, at: began.elapsed(), took: due.elapsed(), served };
            ended.send(outcome).unwrap();
        });
    }
    drop(ended);
    let mut all = Vec::new();
    while let Some(outcome) = outcomes.recv().await {
        all.push(outcome);
    }
    Storm { peak, peak_p99, outcomes: all }
}

/// Spread evenly: 7 and 20 have no common divisor.
fn criticality(number: usize) -> Criticality {
    let mut place = number * 7 % 20;
    for (criticality, share) in MIX {
        if place < share {
            return criticality;
        }
        place -= share;
    }
    unreachable!("there are twenty")
}

#[tokio::test(start_paused = true)]
async fn a_storm_finds_no_open_door_and_leaves_what_is_behind_as_busy_and_as_quick_as_it_was() {
    for (before, seed) in [(WORKERS, 1), (WORKERS, 2), (5, 3)] {
        let storm = storm(before, 0.0, Duration::ZERO, seed).await;
        assert!(storm.goodput() >= 0.95, "after {before}: {}", storm.goodput());
        assert!(storm.share_of(Criticality::Critical) >= 0.999, "{}", storm.share_of(Criticality::Critical));
        assert!(storm.share_of(Criticality::High) >= 0.99, "{}", storm.share_of(Criticality::High));
        assert!(storm.settled() <= Duration::from_secs(2), "after {before}: {:?}", storm.settled());
        assert!(storm.p99(Duration::from_secs(2)) <= 2.0, "after {before}: {}", storm.p99(Duration::from_secs(2)));
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_critical_is_served_where_the_machine_stands_still_at_times() {
    for (stalls, stall, seed) in [(5.0, 40, 1), (10.0, 60, 2), (2.0, 150, 3)] {
        let storm = storm(WORKERS, stalls, Duration::from_millis(stall), seed).await;
        assert!(storm.share_of(Criticality::Critical) >= 0.999, "{stall}: {}", storm.share_of(Criticality::Critical));
        assert!(storm.goodput() >= 0.85, "{stall}: {}", storm.goodput());
    }
}

#[tokio::test(start_paused = true)]
async fn a_burst_that_is_answered_in_time_is_let_in_within_a_few_rounds() {
    let upstream = Upstream::new(1000, Vec::new());
    let adaptive = gradient::Config { floor: 4, tolerance: 1.5, ..gradient::Config::default() };
    let room = Room::new(&adaptive, &QueueConfig::default(), 4096);
    let round = |calls: usize| {
        let calls = (0..calls).map(|_| {
            let (upstream, room) = (upstream.clone(), room.clone());
            tokio::spawn(async move { upstream.call(&room, Criticality::Normal, 0.5).await })
        });
        futures::future::try_join_all(calls)
    };
    for _ in 0..10 {
        assert!(round(20).await.unwrap().into_iter().all(|served| served));
    }
    let began = Instant::now();
    assert!(round(400).await.unwrap().into_iter().all(|served| served), "some were refused");
    assert!(began.elapsed() <= SERVICE * 4, "{:?}", began.elapsed());
}
