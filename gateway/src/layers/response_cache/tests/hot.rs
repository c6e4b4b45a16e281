//! What is asked for often: nobody waits for it, and it is known what it was.

use super::*;

/// So many as make a question hot for a while.
async fn warm_up(f: &Fixture, path: &str) {
    for _ in 0..2 * Config::default().hot.requests {
        f.get(path).await;
    }
}

/// Lets what was begun behind a caller's back come to its end.
async fn settle(f: &Fixture, asked: usize) {
    while f.asked() < asked || f.cache.0.flights.in_flight() > 0 {
        tokio::task::yield_now().await;
    }
}

fn counts(f: &Fixture) -> [u64; 3] {
    let counts = f.cache.0.tiers.metrics.snapshot();
    [counts.refreshed_ahead, counts.refreshes_failed, counts.refreshes_skipped]
}

#[tokio::test(start_paused = true)]
async fn a_hot_answer_is_had_anew_before_it_is_too_old() {
    let f = Fixture::counting();
    warm_up(&f, SEARCH).await;
    pass(20).await;
    f.get(SEARCH).await;
    assert_eq!(f.asked(), 1, "it is good for long enough");
    pass(5).await;
    for _ in 0..10 {
        assert_eq!(f.get(SEARCH).await.cache(), "nearfield; hit; ttl=5");
    }
    settle(&f, 2).await;
    let anew = f.get(SEARCH).await;
    assert_eq!((anew.body.as_str(), anew.cache()), ("{\"n\":2}", "nearfield; hit; ttl=30"));
    pass(25).await;
    f.get(SEARCH).await;
    settle(&f, 3).await;
    assert_eq!((f.asked(), counts(&f)), (3, [2, 0, 0]));
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_for_now_and_then_is_not() {
    let f = Fixture::counting();
    f.get(SEARCH).await;
    pass(29).await;
    assert!(f.get(SEARCH).await.cache().contains("hit"));
    settle(&f, 1).await;
    assert_eq!((f.asked(), counts(&f)), (1, [0, 0, 0]));
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_fails_is_not_asked_ahead_by_every_request() {
    let f = Fixture::new(|number, request| match number {
        1 => Ok(json("old")),
        _ => {
            assert!(request.extensions().get::<Deadline>().is_some(), "it has time of its own");
            Err(Error::NoRegion)
        }
    });
    warm_up(&f, SEARCH).await;
    pass(25).await;
    for second in 0..3 {
        for _ in 0..10 {
            assert_eq!(f.get(SEARCH).await.body, "old");
        }
        settle(&f, 2 + second).await;
        pass(1).await;
    }
    assert_eq!((f.asked(), counts(&f)), (4, [0, 3, 0]));
}

#[tokio::test(start_paused = true)]
async fn so_many_are_asked_ahead_at_once() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let f = Fixture::around(move |number, _| {
        let gate = Arc::clone(&opened);
        async move {
            if number > 20 {
                let _ = gate.acquire().await;
            }
            Ok(json("{}"))
        }
    });
    let paths: Vec<String> = (0..20).map(|i| format!("{SEARCH}{i}")).collect();
    for path in &paths {
        warm_up(&f, path).await;
    }
    pass(25).await;
    for path in &paths {
        assert!(f.get(path).await.cache().contains("hit"));
    }
    while f.asked() < 20 + Config::default().hot.refreshes {
        tokio::task::yield_now().await;
    }
    gate.add_permits(1_000);
    settle(&f, 36).await;
    assert_eq!((f.asked(), counts(&f)), (36, [16, 0, 4]));
}

#[tokio::test(start_paused = true)]
async fn trends_are_a_tenants_own() {
    let f = Fixture::counting();
    for (path, times) in [(SEARCH, 3), (POINT, 5), ("/api/v1/embed/a?collection=hats", 2), ("/api/v1/embed/b", 1)] {
        for _ in 0..times {
            f.send(of_tenant(Some("a"), Method::GET, path, "", &[])).await;
        }
    }
    let body = r#"{"collection":"shoes","query":[1,2]}"#;
    for _ in 0..2 {
        f.send(request(Method::POST, "/api/v1/search", body, &[("content-type", "application/json")])).await;
    }
    let paths = async |tenant, collection, most| {
        let trends = f.cache.trends(tenant, collection, most).await;
        trends.iter().map(|trend| trend.uri.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(paths(Some("a"), "", 10).await, [POINT, SEARCH, "/api/v1/embed/a?collection=hats"]);
    assert_eq!(paths(Some("a"), "", 1).await, [POINT]);
    assert_eq!(paths(Some("a"), "shoes", 10).await, [POINT, SEARCH]);
    assert_eq!(paths(Some("b"), "", 10).await, Vec::<String>::new());
    let [posted] = &f.cache.trends(None, "shoes", 10).await[..] else { panic!("one was asked for") };
    assert_eq!((&posted.method, &posted.body[..]), (&Method::POST, body.as_bytes()));
    let view = f.cache.view();
    assert_eq!((&view["hottest"][0]["tenant"], &view["hottest"][0]["requests"]), (&"a".into(), &5.0.into()));
}
