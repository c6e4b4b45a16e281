//! The feed of purges: the same tests over a real redis-server and a real nats-server, each behind a way that can be cut.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/servers.rs"]
mod servers;
#[path = "support/way.rs"]
mod way;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tokio::time::timeout;

use nearfield_cache::feed::{BadUrl, Config, Link, Name, Told};
use nearfield_cache::{
    Age, Audience, Clock, Entry, Invalidation, Key, Lifetime, Memory, Metrics, Purge, Purged, Tag, Tags, Tiered,
};

use servers::{Kind, Server};
use way::{Nature, Way};

macro_rules! over_each {
    ($($name:ident),+ $(,)?) => {
        mod over_redis {
            $(#[tokio::test] async fn $name() { super::$name(super::Kind::Redis).await })+
        }
        mod over_nats {
            $(#[tokio::test] async fn $name() { super::$name(super::Kind::Nats).await })+
        }
    };
}

over_each![
    a_purge_reaches_the_other_gateways,
    a_purge_made_while_the_server_is_down_is_told_later,
    one_that_starts_later_reads_what_was_purged_before,
    a_gateway_that_was_cut_off_reads_what_it_missed_and_keeps_the_rest,
    a_gateway_that_may_have_missed_a_purge_forgets_all_it_has,
    a_log_that_lost_what_was_read_is_a_gap,
    what_is_older_than_the_silence_is_stale,
    gateways_confirm_what_they_have_applied,
];

/// Long: the tests share few cores.
const PATIENCE: Duration = Duration::from_secs(20);
const NEAR: Nature = Nature { delay: Duration::ZERO, loss: 0 };

/// One gateway's cache.
struct Gateway {
    cache: Tiered,
    _link: Link,
}

impl Gateway {
    fn at(kind: Kind, port: u16, instance: &str) -> Self {
        Self::with(kind, port, instance, &Config { max_silence: PATIENCE, ..Config::default() })
    }

    fn with(kind: Kind, port: u16, instance: &str, config: &Config) -> Self {
        let clock = Clock::start();
        let (invalidation, metrics) = (Invalidation::new(clock), Arc::new(Metrics::default()));
        let name = Name { region: "here".to_owned(), instance: instance.to_owned() };
        let config = Config { url: Some(kind.url(port)), ..config.clone() };
        let link = Link::start(&config, None, &name, &invalidation, &metrics).unwrap().unwrap();
        Self { cache: Tiered::new(clock, invalidation, metrics, Memory::new(1 << 20), Vec::new()), _link: link }
    }

    async fn store(&self, collection: &str) {
        let tags = Tags::new(None, collection, None);
        let seconds = Duration::from_secs(300);
        let lifetime = Lifetime { fresh: seconds, if_error: seconds, ..Lifetime::default() };
        let stamp = self.cache.invalidation.begin();
        let body = Bytes::from_static(b"one");
        let entry = Entry::new(StatusCode::OK, Vec::new(), body, stamp, lifetime, tags);
        self.cache.store(key(collection), Arc::new(entry)).await;
    }

    fn age(&self, collection: &str) -> Option<Age> {
        self.cache.peek(&key(collection), &http::HeaderMap::new()).map(|found| found.age)
    }

    fn is_fresh(&self, collection: &str) -> bool {
        matches!(self.age(collection), Some(Age::Fresh { .. }))
    }

    fn has_heard_of(&self, collection: &str) -> bool {
        self.cache.invalidation.since_change(&Tags::new(None, collection, None)).is_some()
    }

    /// Reads what `other` writes.
    async fn follows(&self, other: &Self) {
        let mark = format!("mark-{:x}", rand::random::<u64>());
        other.cache.invalidation.collection_changed(None, &mark);
        eventually("it follows", || self.has_heard_of(&mark)).await;
    }
}

fn key(collection: &str) -> Key {
    Key::embed(Audience { tenant: None, scope: "vectors:read" }, collection, "1")
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = timeout(PATIENCE, async {
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        while !holds() {
            ticks.tick().await;
        }
    });
    assert!(waited.await.is_ok(), "never: {what}");
}

async fn a_purge_reaches_the_other_gateways(kind: Kind) {
    let server = Server::start(kind);
    let (a, b) = (Gateway::at(kind, server.port(), "a"), Gateway::at(kind, server.port(), "b"));
    b.follows(&a).await;
    b.store("shoes").await;
    b.store("hats").await;
    assert!(b.is_fresh("shoes"));
    a.cache.invalidation.collection_changed(None, "shoes");
    eventually("b learns", || b.age("shoes").is_none()).await;
    assert!(b.is_fresh("hats"));
    a.cache.invalidation.purge(Purge::tag(Tag::collection(None, "hats")).softly(true));
    eventually("b learns that hats are stale", || matches!(b.age("hats"), Some(Age::Stale { .. }))).await;
    // What is asked for since is as good as ever.
    b.store("shoes").await;
    assert!(b.is_fresh("shoes"));
    let before = b.cache.invalidation.begin();
    a.cache.invalidation.purge(Purge::tag(Tag::collection(None, "coats")).over(1));
    let coats = Tags::new(None, "coats", None);
    eventually("b ends coats in their turn", || b.cache.invalidation.judge(before, &coats) == Purged::Hard).await;
    assert!(b.cache.metrics.snapshot().purges_learnt >= 4);
    assert_eq!(a.cache.metrics.snapshot().purges_learnt, 0, "its own are no news");
}

async fn a_purge_made_while_the_server_is_down_is_told_later(kind: Kind) {
    let server = Server::start(kind);
    let (a, b) = (Gateway::at(kind, server.port(), "a"), Gateway::at(kind, server.port(), "b"));
    b.follows(&a).await;
    b.store("shoes").await;
    let port = server.kill();
    a.cache.invalidation.collection_changed(None, "shoes");
    assert!(b.age("shoes").is_some());
    let _server = Server::start_at(kind, port);
    eventually("b learns", || b.age("shoes").is_none()).await;
}

async fn one_that_starts_later_reads_what_was_purged_before(kind: Kind) {
    let server = Server::start(kind);
    let a = Gateway::at(kind, server.port(), "a");
    a.follows(&a).await;
    let before = a.cache.invalidation.begin();
    a.cache.invalidation.collection_changed(None, "shoes");
    // Told, when another has heard of it.
    let b = Gateway::at(kind, server.port(), "b");
    eventually("b learns", || b.has_heard_of("shoes")).await;
    let c = Gateway::at(kind, server.port(), "c");
    assert!(!c.cache.invalidation.knows_the_past(), "nothing has been read yet");
    eventually("c has read all", || c.cache.invalidation.knows_the_past()).await;
    assert!(!c.cache.invalidation.admits(before, &Tags::new(None, "shoes", None)));
}

async fn a_gateway_that_was_cut_off_reads_what_it_missed_and_keeps_the_rest(kind: Kind) {
    let server = Server::start(kind);
    let way = Way::to(server.port(), NEAR, 1).await;
    let (a, b) = (Gateway::at(kind, server.port(), "a"), Gateway::at(kind, way.port(), "b"));
    b.follows(&a).await;
    b.store("shoes").await;
    b.store("hats").await;
    way.cut();
    a.cache.invalidation.collection_changed(None, "shoes");
    let c = Gateway::at(kind, server.port(), "c");
    eventually("the purge is in the log", || c.has_heard_of("shoes")).await;
    assert!(!b.has_heard_of("shoes"));
    way.open();
    eventually("b learns", || b.age("shoes").is_none()).await;
    assert!(b.is_fresh("hats"));
    assert_eq!(b.cache.metrics.snapshot().feed_gaps, 0);
}

async fn a_gateway_that_may_have_missed_a_purge_forgets_all_it_has(kind: Kind) {
    let server = Server::start(kind);
    let (a, b) = (Gateway::at(kind, server.port(), "a"), Gateway::at(kind, server.port(), "b"));
    b.follows(&a).await;
    b.store("shoes").await;
    // What was told to this server and not read is lost with it.
    let port = server.kill();
    assert!(b.age("shoes").is_some());
    let _server = Server::start_at(kind, port);
    eventually("all is forgotten", || b.age("shoes").is_none()).await;
    assert!(b.cache.metrics.snapshot().feed_gaps > 0);
}

async fn a_log_that_lost_what_was_read_is_a_gap(kind: Kind) {
    let server = Server::start(kind);
    let way = Way::to(server.port(), NEAR, 1).await;
    let (a, b) = (Gateway::at(kind, server.port(), "a"), Gateway::at(kind, way.port(), "b"));
    b.follows(&a).await;
    b.store("shoes").await;
    way.cut();
    a.cache.invalidation.collection_changed(None, "lost");
    let c = Gateway::at(kind, server.port(), "c");
    eventually("the purge is in the log", || c.has_heard_of("lost")).await;
    match kind {
        Kind::Nats => {
            let client = async_nats::connect(server.url()).await.unwrap();
            let log = async_nats::jetstream::new(client).get_stream("nearfield_purges").await.unwrap();
            log.purge().await.unwrap();
        }
        Kind::Redis => {
            let client = redis::Client::open(server.url()).unwrap();
            let mut connection = client.get_multiplexed_async_connection().await.unwrap();
            redis::cmd("DEL").arg("nearfield:2:purges").exec_async(&mut connection).await.unwrap();
        }
    }
    assert!(b.age("shoes").is_some());
    way.open();
    eventually("b forgets", || b.age("shoes").is_none()).await;
    b.follows(&a).await;
}

async fn what_is_older_than_the_silence_is_stale(kind: Kind) {
    let server = Server::start(kind);
    let way = Way::to(server.port(), NEAR, 1).await;
    let config = Config { max_silence: Duration::from_secs(2), ..Config::default() };
    let (a, b) = (Gateway::at(kind, server.port(), "a"), Gateway::with(kind, way.port(), "b", &config));
    b.follows(&a).await;
    b.store("shoes").await;
    way.block();
    // It stands in for a failing origin, and is given no more without asking.
    eventually("shoes are stale", || matches!(b.age("shoes"), Some(Age::Stale { .. }))).await;
    assert_eq!(b.cache.metrics.snapshot().feed_silences, 1);
    a.cache.invalidation.collection_changed(None, "shoes");
    way.open();
    eventually("b learns", || b.age("shoes").is_none()).await;
    b.follows(&a).await;
    b.store("shoes").await;
    assert!(b.is_fresh("shoes"));
}

async fn gateways_confirm_what_they_have_applied(kind: Kind) {
    let server = Server::start(kind);
    let way = Way::to(server.port(), NEAR, 1).await;
    let config = Config { confirm_timeout: PATIENCE, ..Config::default() };
    let a = Gateway::with(kind, server.port(), "a", &config);
    let (b, c) = (Gateway::at(kind, server.port(), "b"), Gateway::at(kind, way.port(), "c"));
    for other in [&b, &c] {
        other.follows(&a).await;
        other.store("shoes").await;
    }
    // They say that they are there when they can.
    let told = timeout(PATIENCE, async {
        loop {
            let told = a.cache.invalidation.confirmed(None).await.unwrap();
            if told.len() == 2 {
                return told;
            }
        }
    });
    assert!(told.await.unwrap().iter().all(|told| told.confirmed));
    a.cache.invalidation.collection_changed(None, "shoes");
    let told = a.cache.invalidation.confirmed(None).await.unwrap();
    let name = |instance: &str| Name { region: "here".to_owned(), instance: instance.to_owned() };
    assert_eq!(told, [Told { name: name("b"), confirmed: true }, Told { name: name("c"), confirmed: true }]);
    assert!(b.age("shoes").is_none() && c.age("shoes").is_none(), "who confirms has applied");
    way.block();
    let d = Gateway::with(kind, server.port(), "d", &Config { confirm_timeout: Duration::from_secs(3), ..config });
    d.follows(&a).await;
    d.cache.invalidation.collection_changed(None, "shoes");
    let told = d.cache.invalidation.confirmed(None).await.unwrap();
    assert!(told.contains(&Told { name: name("b"), confirmed: true }), "{told:?}");
    assert!(told.contains(&Told { name: name("c"), confirmed: false }), "{told:?}");
}

#[tokio::test]
async fn a_url_must_be_one_of_a_feed() {
    let invalidation = Invalidation::new(Clock::start());
    let name = Name { region: "here".to_owned(), instance: "a".to_owned() };
    let start = |url: Option<&str>, redis: Option<&str>| {
        let config = Config { url: url.map(str::to_owned), ..Config::default() };
        Link::start(&config, redis, &name, &invalidation, &Arc::default()).map(|link| link.is_some())
    };
    assert!(matches!(start(Some("http://localhost"), None), Err(BadUrl::Scheme)));
    assert!(matches!(start(Some("nats://a b"), None), Err(BadUrl::Nats(_))));
    assert!(matches!(start(Some("redis://"), None), Err(BadUrl::Redis(_))));
    assert!(matches!(start(None, None), Ok(false)));
    assert!(matches!(start(None, Some("redis://127.0.0.1:1")), Ok(true)));
}
