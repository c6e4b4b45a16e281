//! Purges, warmings, and what writes tell the cache.

use http::Method;
use nearfield_cache::{Clock, Invalidation, Purged, Tags};
use nearfield_gateway::body;
use serde_json::{Value, json};

use crate::support::{Answer, Inside, request};

fn events(answer: &Answer) -> Vec<Value> {
    let data = answer.text().split("\n\n").filter_map(|event| event.strip_prefix("data: "));
    data.map(|event| serde_json::from_str(event).unwrap()).collect()
}

#[tokio::test]
async fn warming_asks_for_everything_and_tells_how_it_went() {
    let inside = Inside::start().await;
    inside.fill(150).await;
    let ids: Vec<String> = (0..150).map(|i| format!("p{i}")).chain(["nobody".to_owned()]).collect();
    let queries = json!([{"query": [1, 2], "k": 3, "filter": {"i": 1}}, {"query_vector_id": "p1", "ef_search": 9}, {"query": [1]}]);
    let warm = json!({"collection": "c", "ids": ids, "queries": queries});
    let told = events(&inside.post("/cache/warm", warm.clone()).await);
    assert_eq!(told[0], json!({"event": "warm_start", "total": 154, "regions": ["local"], "dry_run": false}));
    assert_eq!(told[1]["event"], "warm_progress");
    assert_eq!(told[2], json!({"event": "warm_complete", "warmed": 152, "failed": 2, "hit_rate": null}), "{told:?}");
    let mut dry = warm;
    dry["dry_run"] = json!(true);
    assert_eq!(events(&inside.post("/cache/warm", dry).await)[1]["warmed"], 0);
    let elsewhere = inside.post("/cache/warm", json!({"collection": "c", "regions": ["local", "mars"]})).await;
    assert_eq!((elsewhere.status.as_u16(), elsewhere.pointers()), (400, vec!["/regions/1".to_owned()]));
    // Without a cache nobody counts what is asked for.
    let trends = events(&inside.post("/cache/warm", json!({"trends": 5})).await);
    assert_eq!((&trends[0]["total"], &trends[1]["warmed"]), (&json!(0), &json!(0)));
    for (bad, pointer) in [
        (json!({"trends": -1}), "/trends"),
        (json!({"trends": 10_001}), "/trends"),
        (json!({"trends": 5, "ids": ["a"]}), "/collection"),
        (json!({"dry_run": true}), "/collection"),
    ] {
        let refused = inside.post("/cache/warm", bad).await;
        assert_eq!((refused.status.as_u16(), refused.pointers()), (400, vec![pointer.to_owned()]));
    }
}

#[tokio::test]
async fn a_purge_must_say_what() {
    let inside = Inside::start().await;
    for (bad, pointer) in [
        (json!({}), ""),
        (json!({"all": "yes"}), "/all"),
        (json!({"all": true, "soft": 1}), "/soft"),
        (json!({"tags": ["shoes"]}), "/tags/0"),
        (json!({"spread_seconds": -1, "all": true}), "/spread_seconds"),
    ] {
        let answer = inside.post("/cache/purge", bad).await;
        assert_eq!((answer.status.as_u16(), answer.pointers()), (400, vec![pointer.to_owned()]));
    }
}

/// Sends a request that carries the cache's handle, as the cache's layer does.
async fn with(inside: &Inside, invalidation: &Invalidation, path: &str, kind: &str, body: String) -> Answer {
    let mut request = request(Method::POST, path, kind, body::full(body));
    request.extensions_mut().insert(invalidation.clone());
    inside.send(request).await
}

#[tokio::test]
async fn purges_and_writes_end_what_was_asked_before() {
    let inside = Inside::start().await;
    inside.fill(3).await;
    let invalidation = Invalidation::new(Clock::start());
    let (whole, point) = (Tags::new(None, "c", None), Tags::new(None, "c", Some("ä/b")));
    let other = Tags::new(None, "other", None);
    for (path, body, kind, ends_point_only) in [
        ("/insert", json!({"collection": "c", "vectors": [{"id": "x", "values": [1, 1]}]}), "application/json", false),
        ("/update", json!({"collection": "c", "id": "p0", "metadata": {"x": 1}}), "application/json", false),
        ("/delete", json!({"collection": "c", "ids": ["p1"]}), "application/json", false),
        ("/insert?collection=c", json!({"id": "y", "values": [1, 1]}), "application/x-ndjson", false),
        ("/cache/purge", json!({"collection": "c"}), "application/json", false),
        ("/cache/purge", json!({"tags": ["collection:c"]}), "application/json", false),
        ("/cache/purge", json!({"collection": "c", "ids": ["ä/b"]}), "application/json", true),
        ("/cache/purge", json!({"tags": ["point:c/%C3%A4%2Fb"]}), "application/json", true),
    ] {
        let stamp = invalidation.begin();
        assert!(invalidation.admits(stamp, &point) && invalidation.admits(stamp, &whole));
        let answer = with(&inside, &invalidation, path, kind, body.to_string()).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert!(!invalidation.admits(stamp, &point), "{path} {body}");
        assert_eq!(invalidation.admits(stamp, &whole), ends_point_only, "{path} {body}");
        assert!(invalidation.admits(stamp, &other), "{path} {body}");
    }
    let (stamp, soft) = (invalidation.begin(), json!({"collection": "c", "soft": true}).to_string());
    with(&inside, &invalidation, "/cache/purge", "application/json", soft).await;
    assert!(matches!(invalidation.judge(stamp, &whole), Purged::Soft(_)));
    let stamp = invalidation.begin();
    with(
        &inside,
        &invalidation,
        "/search",
        "application/json",
        json!({"collection": "c", "query": [1, 1]}).to_string(),
    )
    .await;
    assert!(invalidation.admits(stamp, &whole), "a read changes nothing");
}
