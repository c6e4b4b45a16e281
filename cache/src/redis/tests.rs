//! Against a real redis-server, started here on a free port and killed.

use std::net::TcpListener;
use std::time::Instant;

use bytes::Bytes;
use http::StatusCode;

use super::*;
use crate::feed::{self, Link, Name};
use crate::servers::{Kind, Server};
use crate::{Age, Audience, Clock, Invalidation, Lifetime, Memory, Tags, Tier, Tiered};

/// A request that says nothing.
static NONE: std::sync::LazyLock<http::HeaderMap> = std::sync::LazyLock::new(http::HeaderMap::new);
/// Long: the tests share few cores. What must be quick is measured apart.
const PATIENCE: Duration = Duration::from_secs(2);

fn url(port: u16) -> String {
    Kind::Redis.url(port)
}

/// One gateway's cache, and what joins it to the others'.
struct Gateway {
    cache: Tiered,
    _link: Option<Link>,
}

impl std::ops::Deref for Gateway {
    type Target = Tiered;

    fn deref(&self) -> &Tiered {
        &self.cache
    }
}

fn gateway(url: &str, patience: Duration) -> Gateway {
    let clock = Clock::start();
    let (invalidation, metrics) = (Invalidation::new(clock), Arc::new(Metrics::default()));
    let config = Config { patience, ..Config::default() };
    let name = Name { region: "here".to_owned(), instance: format!("{:x}", rand::random::<u64>()) };
    let link = Link::start(&feed::Config::default(), Some(url), &name, &invalidation, &metrics).unwrap();
    let redis = Redis::start(url, &config, Arc::clone(&metrics)).unwrap();
    let cache = Tiered::new(clock, invalidation, metrics, Memory::new(1 << 20), vec![(Tier::Redis, Arc::new(redis))]);
    Gateway { cache, _link: link }
}

fn key(id: &str) -> Key {
    Key::embed(Audience { tenant: None, scope: "vectors:read" }, "shoes", id)
}

fn entry(cache: &Tiered, body: &'static [u8]) -> Arc<Entry> {
    let tags = Tags::new(None, "shoes", None);
    let seconds = Duration::from_secs(300);
    let lifetime = Lifetime { fresh: seconds, if_error: seconds, ..Lifetime::default() };
    let stamp = cache.invalidation.begin();
    Arc::new(Entry::new(StatusCode::OK, Vec::new(), Bytes::from_static(body), stamp, lifetime, tags))
}

/// Until it is so, and at most ten seconds.
async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let waited = timeout(Duration::from_secs(10), async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    });
    assert!(waited.await.is_ok(), "never: {what}");
}

#[tokio::test]
async fn gateways_share_what_they_store() {
    let server = Server::start(Kind::Redis);
    let (a, b) = (gateway(&server.url(), PATIENCE), gateway(&server.url(), PATIENCE));
    eventually("a connects", || async {
        a.store(key("1"), entry(&a, b"one")).await;
        b.fetch(&key("1"), &NONE).await.is_some()
    })
    .await;
    let found = b.fetch(&key("1"), &NONE).await.unwrap();
    assert_eq!((&found.entry.body[..], found.tier), (&b"one"[..], Tier::Redis));
    assert!(matches!(found.age, Age::Fresh { .. }));
    assert_eq!(b.peek(&key("1"), &NONE).unwrap().tier, Tier::Memory);
    assert!(b.fetch(&key("2"), &NONE).await.is_none());
    assert!(b.metrics.snapshot().redis_misses > 0);
}

#[tokio::test]
async fn each_look_up_begins_the_hour_anew() {
    let server = Server::start(Kind::Redis);
    let cache = gateway(&server.url(), PATIENCE);
    // Stored once: what waits to be stored would begin the hour anew too.
    eventually("Redis answers", || async {
        cache.fetch(&key("2"), &NONE).await;
        cache.metrics.snapshot().redis_misses > 0
    })
    .await;
    cache.store(key("1"), entry(&cache, b"one")).await;
    eventually("stored", || async { cache.fetch(&key("1"), &NONE).await.is_some() }).await;
    let client = Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut ttl = async |command: &str, argument: Option<u64>| {
        let mut cmd = redis::cmd(command);
        cmd.arg(name(&key("1"))).arg(argument);
        cmd.query_async::<i64>(&mut connection).await.unwrap()
    };
    ttl("EXPIRE", Some(100)).await;
    assert!(ttl("TTL", None).await <= 100);
    assert!(cache.fetch(&key("1"), &NONE).await.is_some());
    assert!(ttl("TTL", None).await > 3500);
}

#[tokio::test]
async fn a_purge_reaches_the_other_gateways_and_what_is_in_redis() {
    let server = Server::start(Kind::Redis);
    let (a, b) = (gateway(&server.url(), PATIENCE), gateway(&server.url(), PATIENCE));
    eventually("shared", || async {
        a.store(key("1"), entry(&a, b"old")).await;
        b.fetch(&key("1"), &NONE).await.is_some()
    })
    .await;
    assert!(b.peek(&key("1"), &NONE).is_some());
    a.invalidation.collection_changed(None, "shoes");
    assert!(a.peek(&key("1"), &NONE).is_none() && a.fetch(&key("1"), &NONE).await.is_none());
    eventually("b learns", || async { b.peek(&key("1"), &NONE).is_none() }).await;
    assert!(b.fetch(&key("1"), &NONE).await.is_none());
    // One that starts later reads what was purged before.
    let c = gateway(&server.url(), PATIENCE);
    eventually("c learns", || async { c.invalidation.since_change(&entry(&c, b"").tags).is_some() }).await;
    assert!(c.fetch(&key("1"), &NONE).await.is_none());
}

#[tokio::test]
async fn without_redis_a_look_up_is_a_miss_that_costs_nothing() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let cache = gateway(&url(port), PATIENCE);
    let begun = Instant::now();
    for _ in 0..1000 {
        assert!(cache.fetch(&key("1"), &NONE).await.is_none());
        cache.store(key("1"), entry(&cache, b"one")).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(cache.peek(&key("1"), &NONE).is_some());
}

#[tokio::test]
async fn redis_may_die_and_come_back() {
    let server = Server::start(Kind::Redis);
    let cache = gateway(&server.url(), PATIENCE);
    let stored = || async {
        cache.store(key("1"), entry(&cache, b"one")).await;
        cache.fetch(&key("1"), &NONE).await.is_some()
    };
    eventually("stored", stored).await;
    let port = server.kill();
    let begun = Instant::now();
    for _ in 0..1000 {
        assert!(cache.fetch(&key("1"), &NONE).await.is_none());
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    let _server = Server::start_at(Kind::Redis, port);
    eventually("found again", stored).await;
}

#[tokio::test]
async fn a_redis_that_hangs_holds_nobody_up() {
    let server = Server::start(Kind::Redis);
    let cache = gateway(&server.url(), Duration::from_millis(50));
    eventually("stored", || async {
        cache.store(key("1"), entry(&cache, b"one")).await;
        cache.fetch(&key("1"), &NONE).await.is_some()
    })
    .await;
    server.signal("-STOP");
    let begun = Instant::now();
    for _ in 0..1000 {
        assert!(cache.fetch(&key("1"), &NONE).await.is_none());
    }
    let waited = begun.elapsed();
    server.signal("-CONT");
    assert!(waited < Duration::from_secs(1), "{waited:?}");
}

#[tokio::test]
async fn a_hundred_at_once_open_connections_as_they_need_them() {
    let server = Server::start(Kind::Redis);
    let cache = gateway(&server.url(), PATIENCE);
    eventually("stored", || async {
        cache.store(key("1"), entry(&cache, b"one")).await;
        cache.fetch(&key("1"), &NONE).await.is_some()
    })
    .await;
    eventually("a hundred answers at once", || async {
        let all = (0..100).map(|_| async { cache.fetch(&key("1"), &NONE).await.is_some() });
        futures::future::join_all(all).await.into_iter().all(|found| found)
    })
    .await;
}

#[tokio::test]
async fn what_is_no_entry_is_a_miss() {
    let server = Server::start(Kind::Redis);
    let cache = gateway(&server.url(), PATIENCE);
    let client = Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd("SET").arg(name(&key("1"))).arg("junk").exec_async(&mut connection).await.unwrap();
    redis::cmd("LPUSH").arg(name(&key("2"))).arg("junk").exec_async(&mut connection).await.unwrap();
    eventually("connected", || async {
        cache.store(key("3"), entry(&cache, b"one")).await;
        cache.fetch(&key("3"), &NONE).await.is_some()
    })
    .await;
    assert!(cache.fetch(&key("1"), &NONE).await.is_none());
    assert!(cache.fetch(&key("2"), &NONE).await.is_none());
}

#[tokio::test]
async fn a_url_that_is_none_is_an_error_at_the_start() {
    assert!(Redis::start("nonsense", &Config::default(), Arc::default()).is_err());
}

fn claim(left: i64, asked: u64) -> quotas::Claim {
    quotas::Claim { policy: "user", key: 7, limit: 90, left, asked, first: 90 }
}

async fn settle(gateway: &mut quotas::Quotas, left: i64, asked: u64) -> quotas::Share {
    gateway.settle(&[claim(left, asked)]).await.unwrap().shares[0]
}

#[tokio::test]
async fn the_first_to_settle_a_quota_leaves_the_others_their_part() {
    let server = Server::start(Kind::Redis);
    let open = |name: &str| quotas::Quotas::open(&server.url(), name.to_owned()).unwrap();
    let (mut a, mut b, mut c) = (open("a"), open("b"), open("c"));
    let claim = |left, asked| [quotas::Claim { first: 30, ..claim(left, asked) }];
    // Each has let a part pass, and is asked for far more.
    let mut passed = 90;
    for gateway in [&mut a, &mut b, &mut c] {
        passed += gateway.settle(&claim(-30, 1_000)).await.unwrap().shares[0].units;
    }
    // What comes back in a second, as long as this may take, besides.
    assert!(passed <= 90 + 30, "{passed} of 90");
    let mut new = open("new");
    let share = new.settle(&[quotas::Claim { key: 8, ..claim(-10, 1_000)[0] }]).await.unwrap().shares[0];
    assert_eq!(share.units, 20, "what it let pass is of its part");
    let share = new.settle(&[quotas::Claim { key: 8, ..claim(0, 1_000)[0] }]).await.unwrap().shares[0];
    assert!(share.units >= 60, "nobody else came: {share:?}");
}

#[tokio::test]
async fn gateways_that_want_the_same_quota_get_shares_by_what_they_are_asked_for() {
    let server = Server::start(Kind::Redis);
    let open = |name: &str| quotas::Quotas::open(&server.url(), name.to_owned()).unwrap();
    let [mut a, mut b, mut c] = ["a", "b", "c"].map(open);
    let alone = settle(&mut a, 0, 10).await;
    assert_eq!((alone.units, alone.sharers), (90, 1), "who is alone has all of it");
    assert_eq!(settle(&mut b, 0, 10).await.sharers, 2);
    // Each gives back what it did not use, and they come to equal shares, never more than all together.
    let mut held = [90, 0, 0];
    for _ in 0..8 {
        for (index, gateway) in [&mut a, &mut b, &mut c].into_iter().enumerate() {
            held[index] = i64::from(settle(gateway, held[index], 10).await.units);
            assert!(held.iter().sum::<i64>() <= 90, "{held:?}");
        }
    }
    assert!(held.iter().all(|units| (25..=31).contains(units)), "{held:?}");
    for (index, gateway) in [&mut a, &mut b].into_iter().enumerate() {
        settle(gateway, held[index], 0).await;
    }
    let rest = settle(&mut c, held[2], 10).await;
    assert_eq!((rest.units, rest.sharers), (90, 1), "the others have given theirs up");
    assert_eq!(c.settle(&[]).await.unwrap().gateways, 3);
}

#[tokio::test]
async fn what_was_let_pass_without_a_share_is_paid_back() {
    let server = Server::start(Kind::Redis);
    let mut gateway = quotas::Quotas::open(&server.url(), "a".to_owned()).unwrap();
    let owing = settle(&mut gateway, -50, 50).await;
    assert!((40..=45).contains(&owing.units), "{owing:?}");
    let spent = i64::from(owing.units) - 1_000;
    assert_eq!(settle(&mut gateway, spent, 50).await.units, 0, "nothing until that is paid");
}

#[tokio::test]
async fn a_redis_that_hangs_or_dies_is_told_of_in_time_and_found_again() {
    let server = Server::start(Kind::Redis);
    let mut gateway = quotas::Quotas::open(&server.url(), "a".to_owned()).unwrap();
    settle(&mut gateway, 0, 1).await;
    server.signal("-STOP");
    assert!(gateway.settle(&[claim(0, 1)]).await.is_err());
    server.signal("-CONT");
    eventually("it answers again", || async {
        let mut gateway = quotas::Quotas::open(&server.url(), "b".to_owned()).unwrap();
        gateway.settle(&[claim(0, 1)]).await.is_ok()
    })
    .await;
    let port = server.kill();
    assert!(gateway.settle(&[claim(0, 1)]).await.is_err());
    let _anew = Server::start_at(Kind::Redis, port);
    // It has forgotten the scripts, too.
    assert_eq!(settle(&mut gateway, 0, 1).await.sharers, 1);
}

#[tokio::test]
async fn a_gateway_knows_what_is_hot_at_others() {
    let server = Server::start(Kind::Redis);
    let redis = || {
        let config = Config { patience: PATIENCE, ..Config::default() };
        Redis::start(&server.url(), &config, Arc::default()).unwrap()
    };
    let (a, b) = (redis(), redis());
    let (now, half_life) = (1_800_000_000_000_000, 150_000_000);
    let told = [(b"one".to_vec(), 100.0), (b"two".to_vec(), 5.0), (vec![b'x'; trends::MAX_TREND_BYTES + 1], 9.0)];
    eventually("a tells", || async {
        a.tell_trends(&told, now).await;
        !b.trends(now).await.is_empty()
    })
    .await;
    b.tell_trends(&[(b"three".to_vec(), 50.0), (b"one".to_vec(), 2.0)], now + 3 * half_life).await;
    let known = b.trends(now + 3 * half_life).await;
    let known: Vec<_> = known.iter().map(|(question, requests)| (&question[..], (requests * 10.0).round())).collect();
    assert_eq!(known, [(&b"three"[..], 500.0), (b"one", 125.0), (b"two", 6.0)]);
    for i in 0..trends::MAX_TRENDS {
        a.tell_trends(&[(i.to_string().into_bytes(), 1e3)], now + 3 * half_life).await;
    }
    let known = b.trends(now + 3 * half_life).await;
    assert_eq!(known.len(), trends::MAX_TRENDS);
    assert!(known.iter().all(|(question, _)| question != b"one"));
}
