//! Several endpoints, of which one dies, drains, dawdles or starts late.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nearfield_gateway::{forward, websocket};
use serde_json::json;

use crate::stand_in::Running;
use crate::support::{ANY, Inside};

async fn two() -> (Inside, [Running; 2]) {
    let both = [Running::start("a", ANY.into()), Running::start("b", ANY.into())];
    let inside = Inside::around(both.iter().map(Running::url).collect(), websocket::Config::default()).await;
    (inside, both)
}

/// Two, of which the first to be asked is told by its place, under settings for a test's short times.
async fn two_with(change: impl FnOnce(&mut forward::Config)) -> (Inside, [Running; 2]) {
    let both = [Running::start("a", ANY.into()), Running::start("b", ANY.into())];
    let mut config = Inside::config(both.iter().map(Running::url).collect());
    config.health.interval = Duration::from_millis(50);
    config.health.interval_eager = Duration::from_millis(50);
    change(&mut config);
    (Inside::with(config, websocket::Config::default()).await, both)
}

/// Who answers a search; an error is a panic.
async fn asked(inside: &Inside) -> String {
    let answer = inside.post("/search", json!({"query": [1]})).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["results"][0]["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_do_not_notice_a_death() {
    let (inside, mut both) = two().await;
    let home = asked(&inside).await;
    for _ in 0..20 {
        assert_eq!(asked(&inside).await, home, "one client's reads stay together");
    }
    let victim = usize::from(home == "b");
    both[victim].kill();
    for _ in 0..200 {
        assert_ne!(asked(&inside).await, home);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_readers_do_not_notice_either() {
    let (inside, mut both) = two().await;
    let victim = usize::from(asked(&inside).await == "b");
    let inside = Arc::new(inside);
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let inside = inside.clone();
            tokio::spawn(async move {
                for _ in 0..300 {
                    asked(&inside).await;
                }
            })
        })
        .collect();
    both[victim].kill();
    for reader in readers {
        reader.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_searchd_is_left_for_the_other() {
    let (inside, both) = two().await;
    let home = asked(&inside).await;
    both[usize::from(home == "b")].draining.store(true, Ordering::Relaxed);
    for _ in 0..50 {
        assert_ne!(asked(&inside).await, home);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_was_never_sent_goes_to_the_other() {
    let (inside, mut both) = two().await;
    let insert = json!({"vectors": [{"id": "a", "values": [1]}]});
    let home = inside.post("/insert", insert.clone()).await.json()["session"].as_str().unwrap().to_owned();
    both[usize::from(home == "b")].kill();
    // The first write may find the connection broken while it is under way: then it is told, not repeated.
    let mut statuses = Vec::new();
    for _ in 0..20 {
        statuses.push(inside.post("/insert", insert.clone()).await.status.as_u16());
    }
    assert!(statuses[1..].iter().all(|status| *status == 200), "{statuses:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_anybody_it_is_503() {
    let (inside, mut both) = two().await;
    both.iter_mut().for_each(Running::kill);
    let answer = inside.post("/search", json!({"query": [1]})).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.headers.contains_key("retry-after"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_searchd_that_starts_late_is_found() {
    let mut early = Running::start("a", ANY.into());
    early.kill();
    let inside = Inside::around(vec![early.url()], websocket::Config::default()).await;
    assert!(!inside.regions.is_healthy());
    assert_eq!(inside.post("/search", json!({"query": [1]})).await.status, 503);
    let late = Running::start("late", early.address);
    let healthy = async {
        let (tell, mut told) = tokio::sync::watch::channel(false);
        let follow = inside.regions.follow(|healthy| {
            tell.send_replace(healthy);
        });
        tokio::select! {
            () = follow => {}
            _ = told.wait_for(|healthy| *healthy) => {}
        }
    };
    tokio::time::timeout(Duration::from_secs(10), healthy).await.unwrap();
    assert_eq!(asked(&inside).await, "late");
    drop(late);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_has_not_heard_of_is_asked_of_who_took_the_write() {
    let (inside, both) = two().await;
    let reads = asked(&inside).await;
    // A collection whose writes go to the other one.
    let mut names = (0..).map(|i| format!("c{i}"));
    let collection = loop {
        let name = names.next().unwrap();
        let insert = json!({"collection": name, "vectors": [{"id": "a", "values": [1]}]});
        if inside.post("/insert", insert).await.json()["session"] != reads.as_str() {
            break name;
        }
    };
    let search = json!({"collection": collection, "query": [1]});
    assert_eq!(inside.post("/search", search.clone()).await.json()["results"][0]["id"], reads.as_str());
    both[usize::from(reads == "b")].lacking.store(true, Ordering::Relaxed);
    assert_ne!(inside.post("/search", search.clone()).await.json()["results"][0]["id"], reads.as_str());
    // A session says what to wait for: whoever waited knows.
    let mut with_session = search.clone();
    with_session["session"] = json!("x");
    assert_eq!(inside.post("/search", with_session).await.status, 404);
    both[usize::from(reads == "a")].lacking.store(true, Ordering::Relaxed);
    assert_eq!(inside.post("/search", search).await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_are_kept_from_where_searches_wait_and_writes_are_not() {
    let (inside, both) = two().await;
    let insert = json!({"vectors": [{"id": "a", "values": [1]}]});
    let writes = inside.post("/insert", insert.clone()).await.json()["session"].clone();
    let home = asked(&inside).await;
    let (loaded, other) = (&both[usize::from(home == "b")], &both[usize::from(home == "a")]);
    loaded.queue_delay.store(20, Ordering::Relaxed);
    // The answer to this one tells it.
    assert_eq!(asked(&inside).await, home);
    for _ in 0..20 {
        assert_ne!(asked(&inside).await, home);
        assert_eq!(inside.post("/insert", insert.clone()).await.json()["session"], writes);
    }
    other.queue_delay.store(20, Ordering::Relaxed);
    assert_ne!(asked(&inside).await, home);
    assert_eq!(asked(&inside).await, home, "when searches wait everywhere, nobody is spared");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_search_is_asked_for_twice_and_the_loser_is_cancelled() {
    let (inside, both) = two_with(|config| config.retry.patience = Duration::from_secs(60)).await;
    let home = asked(&inside).await;
    let slow = &both[usize::from(home == "b")].slowness;
    // What is usual has to be known first.
    for _ in 0..200 {
        asked(&inside).await;
    }
    slow.millis.store(600_000, Ordering::Relaxed);
    let cancelled = slow.cancelled.load(Ordering::Relaxed);
    assert_ne!(asked(&inside).await, home, "the second one answers");
    let told = async {
        while slow.cancelled.load(Ordering::Relaxed) == cancelled {
            tokio::task::yield_now().await
        }
    };
    tokio::time::timeout(Duration::from_secs(10), told).await.unwrap();
    assert!(inside.metric("gateway_upstream_calls_total{region=\"local\",outcome=\"hedge_won\"}") >= 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hedges_stop_where_their_budget_ends() {
    let (inside, both) = two_with(|config| {
        config.hedge.budget_max = 3;
        config.hedge.budget_ratio = 0.0;
        config.outlier.enabled = false;
        config.retry.patience = Duration::from_secs(60);
    })
    .await;
    let home = asked(&inside).await;
    for _ in 0..200 {
        asked(&inside).await;
    }
    both.iter().for_each(|server| server.slowness.millis.store(50, Ordering::Relaxed));
    let answers = futures::future::join_all((0..40).map(|_| asked(&inside))).await;
    assert!(answers.contains(&home), "most are not asked for twice");
    assert!(inside.metric("gateway_upstream_calls_total{region=\"local\",outcome=\"hedged\"}") <= 3.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_one_is_left_alone_and_comes_back_little_by_little() {
    let (inside, both) = two_with(|config| {
        config.hedge.enabled = false;
        config.outlier.interval = Duration::from_millis(300);
        config.outlier.calls_min = 5;
        config.outlier.ejection = Duration::from_millis(500);
    })
    .await;
    both[0].slowness.millis.store(100, Ordering::Relaxed);
    let ejected = "gateway_upstream_ejections_total{region=\"local\",reason=\"latency\"}";
    let share = format!("gateway_upstream_share{{region=\"local\",endpoint=\"{}\"}}", both[0].url());
    let found = async {
        while inside.metric(ejected) < 1.0 {
            futures::future::join_all((0..32).map(|client| inside.asked_by(client))).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), found).await.unwrap();
    both[0].slowness.millis.store(0, Ordering::Relaxed);
    let back = async {
        while inside.metric(&share) == 1.0 {
            tokio::task::yield_now().await
        }
    };
    tokio::time::timeout(Duration::from_secs(20), back).await.unwrap();
    // Slow start holds most of its clients back for half a minute.
    let names = futures::future::join_all((0..64).map(|client| inside.asked_by(client))).await;
    assert!(names.iter().filter(|name| *name == "a").count() < 32, "{names:?}");
}

/// One call is under way while a searchd leaves by `leave`: it ends well, and no other goes there.
async fn leaves(leave: impl AsyncFnOnce(&Running)) {
    let (inside, both) = two_with(|config| config.hedge.enabled = false).await;
    let home = asked(&inside).await;
    let leaving = &both[usize::from(home == "b")];
    leaving.slowness.millis.store(900, Ordering::Relaxed);
    let inside = Arc::new(inside);
    let (begun, old) = (leaving.slowness.begun.load(Ordering::Relaxed), inside.clone());
    let last = tokio::spawn(async move { asked(&old).await });
    while leaving.slowness.begun.load(Ordering::Relaxed) == begun {
        tokio::task::yield_now().await;
    }
    leaving.slowness.millis.store(0, Ordering::Relaxed);
    leave(leaving).await;
    let left = async { while asked(&inside).await == home {} };
    tokio::time::timeout(Duration::from_secs(10), left).await.unwrap();
    let begun = leaving.slowness.begun.load(Ordering::Relaxed);
    for _ in 0..50 {
        assert_ne!(asked(&inside).await, home);
    }
    assert_eq!(leaving.slowness.begun.load(Ordering::Relaxed), begun, "nothing new");
    assert_eq!(last.await.unwrap(), home, "what was begun ended well");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_serves_no_more_finishes_what_it_has() {
    leaves(async |leaving| leaving.leave().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_goes_away_finishes_what_it_has() {
    leaves(async |leaving| leaving.go_away()).await;
}
