//! How long a purge takes to the gateways of a feed, each at the end of a long and lossy way, while all of them fill: and
//! whether anything that was purged comes back.

// A test binary and an example are made of this, neither of all of it.
#![allow(clippy::unwrap_used, dead_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use nearfield_cache::feed::{self, Link, Name};
use nearfield_cache::redis::{self, Redis};
use nearfield_cache::{
    Audience, Clock, Entry, Invalidation, Key, Lifetime, Memory, Metrics, Purge, Store, Tag, Tags, Tier, Tiered,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::servers::{Kind, Server};
use crate::way::{Nature, Way};

pub(crate) struct Plan {
    pub(crate) kind: Kind,
    pub(crate) gateways: u32,
    pub(crate) purges: u64,
    /// The shortest and the longest way to the feed.
    pub(crate) delays: (Duration, Duration),
    /// Packets lost of a thousand.
    pub(crate) loss: u64,
}

#[derive(Default)]
pub(crate) struct Report {
    /// From a purge at one gateway to its effect at another, ascending.
    pub(crate) reached: Vec<Duration>,
    /// The same without the way there and back again, which no feed can shorten.
    pub(crate) beyond: Vec<Duration>,
    pub(crate) fills: u64,
    pub(crate) resurrections: u64,
}

impl Report {
    /// Of ascending times, the one that this share of all is not above.
    pub(crate) fn quantile(times: &[Duration], share: f64) -> Duration {
        let last = times.len().saturating_sub(1);
        times.get((last as f64 * share).round() as usize).copied().unwrap_or_default()
    }
}

/// A purge that has not arrived by then never will.
const PATIENCE: Duration = Duration::from_secs(30);
/// Fills of a gateway in a row, …
const BURST: usize = 12;
/// … and how often.
const PACE: Duration = Duration::from_millis(10);
/// Between two looks at who has heard of a purge.
const LOOK: Duration = Duration::from_millis(1);

struct Gateway {
    /// What only this one fills, over and over.
    own: Tiered,
    /// What it shares with the others through Redis, if that is there.
    shared: Option<Tiered>,
    way: Way,
    /// The last purge that it is known to have applied.
    floor: AtomicU64,
    _link: Link,
}

/// What all gateways have in common.
struct Scene {
    gateways: Vec<Gateway>,
    /// The origin's version, which the last purge was for.
    origin: AtomicU64,
    tags: Tags,
    key: Key,
    fills: AtomicU64,
    resurrections: AtomicU64,
    is_over: AtomicBool,
}

/// Runs `plan` against a server of its own.
pub(crate) async fn measure(plan: &Plan) -> Report {
    let server = Server::start(plan.kind);
    let mut gateways = Vec::new();
    for number in 0..plan.gateways {
        gateways.push(Gateway::start(plan, &server, number).await);
    }
    let scene = Arc::new(Scene {
        gateways,
        origin: AtomicU64::new(0),
        tags: Tags::new(None, "shoes", Some("1")),
        key: Key::embed(Audience { tenant: None, scope: "vectors:read" }, "shoes", "1"),
        fills: AtomicU64::new(0),
        resurrections: AtomicU64::new(0),
        is_over: AtomicBool::new(false),
    });
    scene.join().await;
    let mut filling = JoinSet::new();
    for number in 0..scene.gateways.len() {
        filling.spawn(Arc::clone(&scene).fill_own(number));
        filling.spawn(Arc::clone(&scene).fill_shared(number));
    }
    let mut report = Report::default();
    for version in 1..=plan.purges {
        scene.purge(version, &mut report).await;
    }
    scene.is_over.store(true, Ordering::SeqCst);
    filling.join_all().await;
    report.reached.sort_unstable();
    report.beyond.sort_unstable();
    report.fills = scene.fills.load(Ordering::SeqCst);
    report.resurrections = scene.resurrections.load(Ordering::SeqCst);
    report
}

impl Gateway {
    async fn start(plan: &Plan, server: &Server, number: u32) -> Self {
        let (shortest, longest) = plan.delays;
        let delay = shortest + (longest - shortest) * number / (plan.gateways - 1).max(1);
        let way = Way::to(server.port(), Nature { delay, loss: plan.loss }, u64::from(number)).await;
        let clock = Clock::start();
        let (invalidation, metrics) = (Invalidation::new(clock), Arc::new(Metrics::default()));
        let url = plan.kind.url(way.port());
        let config = feed::Config { url: Some(url.clone()), ..feed::Config::default() };
        let name = Name { region: format!("region-{number}"), instance: "gateway".to_owned() };
        let link = Link::start(&config, None, &name, &invalidation, &metrics).unwrap().unwrap();
        let tiers =
            |behind| Tiered::new(clock, invalidation.clone(), Arc::clone(&metrics), Memory::new(1 << 20), behind);
        let shared = (plan.kind == Kind::Redis).then(|| {
            let config = redis::Config { patience: PATIENCE, ..redis::Config::default() };
            let redis = Redis::start(&url, &config, Arc::clone(&metrics)).unwrap();
            tiers(vec![(Tier::Redis, Arc::new(redis) as Arc<dyn Store>)])
        });
        Self { own: tiers(Vec::new()), shared, way, floor: AtomicU64::new(0), _link: link }
    }
}

impl Scene {
    /// Until each gateway has heard of the first.
    async fn join(&self) {
        let mark = Tags::new(None, "mark", None);
        self.gateways[0].own.invalidation.purge(Purge::tag(Tag::collection(None, "mark")));
        self.until(|gateway| gateway.own.invalidation.purged(&mark) > 0, |_| {}).await;
    }

    /// Calls `learnt` for each gateway as soon as `holds` for it; all of them have to.
    async fn until(&self, holds: impl Fn(&Gateway) -> bool, mut learnt: impl FnMut(&Gateway)) {
        let mut left: Vec<&Gateway> = self.gateways.iter().collect();
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let all = timeout(PATIENCE, async {
            while !left.is_empty() {
                ticks.tick().await;
                left.retain(|gateway| {
                    let held = holds(gateway);
                    if held {
                        learnt(gateway);
                    }
                    !held
                });
            }
        });
        assert!(all.await.is_ok(), "a purge did not arrive");
    }

    /// The origin changes, then one gateway is told so.
    async fn purge(&self, version: u64, report: &mut Report) {
        let at = &self.gateways[version as usize * 7 % self.gateways.len()];
        let known: Vec<u64> = self.gateways.iter().map(|gateway| gateway.own.invalidation.purged(&self.tags)).collect();
        self.origin.store(version, Ordering::SeqCst);
        let begun = Instant::now();
        at.own.invalidation.purge(Purge::tag(Tag::collection(None, "shoes")));
        let before = |gateway: &Gateway| {
            let index = self.gateways.iter().position(|other| std::ptr::eq(other, gateway));
            index.map_or(0, |index| known[index])
        };
        let has_learnt = |gateway: &Gateway| gateway.own.invalidation.purged(&self.tags) > before(gateway);
        self.until(has_learnt, |gateway| {
            gateway.floor.store(version, Ordering::SeqCst);
            if !std::ptr::eq(gateway, at) {
                let took = begun.elapsed();
                report.reached.push(took);
                report.beyond.push(took.saturating_sub(at.way.delay() + gateway.way.delay()));
            }
        })
        .await;
    }

    /// As the layer above does: a stamp, a look at the origin, a store.
    async fn fill(&self, cache: &Tiered, slowly: bool) {
        let stamp = cache.invalidation.begin();
        let body = Bytes::copy_from_slice(&self.origin.load(Ordering::SeqCst).to_le_bytes());
        if slowly {
            interval(PACE).tick().await;
            tokio::task::yield_now().await;
        }
        let lifetime = Lifetime { fresh: Duration::from_secs(300), ..Lifetime::default() };
        let entry = Entry::new(StatusCode::OK, Vec::new(), body, stamp, lifetime, self.tags.clone());
        cache.store(self.key, Arc::new(entry)).await;
        self.fills.fetch_add(1, Ordering::SeqCst);
    }

    fn check(&self, found: Option<&Entry>, floor: u64) {
        let version = found.and_then(|entry| entry.body[..].try_into().ok()).map(u64::from_le_bytes);
        if version.is_some_and(|version| version < floor) {
            self.resurrections.fetch_add(1, Ordering::SeqCst);
        }
    }

    async fn fill_own(self: Arc<Self>, number: usize) {
        let gateway = &self.gateways[number];
        let mut ticks = interval(PACE);
        while !self.is_over.load(Ordering::SeqCst) {
            ticks.tick().await;
            for fill in 0..BURST {
                self.fill(&gateway.own, fill == 0).await;
                let floor = gateway.floor.load(Ordering::SeqCst);
                let found = gateway.own.peek(&self.key, &HeaderMap::new());
                self.check(found.as_ref().map(|found| &*found.entry), floor);
            }
        }
    }

    async fn fill_shared(self: Arc<Self>, number: usize) {
        let gateway = &self.gateways[number];
        let Some(cache) = &gateway.shared else { return };
        let mut ticks = interval(PACE);
        while !self.is_over.load(Ordering::SeqCst) {
            ticks.tick().await;
            cache.remove(&self.key);
            let floor = gateway.floor.load(Ordering::SeqCst);
            let found = cache.fetch(&self.key, &HeaderMap::new()).await;
            self.check(found.as_ref().map(|found| &*found.entry), floor);
            if found.is_none() {
                self.fill(cache, true).await;
            }
        }
    }
}
