//! The response cache as clients and CDNs see it (RFC 9111, RFC 9211), and what it must never do.

use std::time::Duration;

use anyhow::{Context, Result};
use nearfield_testkit::{Answer, Claims, Cluster, ClusterOptions, Protocol, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::space::{API, Space, ids, points};

async fn filled(name: &str) -> Result<Space> {
    let space = Space::new(name)?;
    space.fill("c", json!({"dimension": 4}), &points(31, 50, 4)).await?;
    Ok(space)
}

fn is_hit(answer: &Answer) -> bool {
    let status = answer.header("cache-status");
    assert!(!status.is_empty(), "no Cache-Status on {}", answer.status);
    status.split(';').any(|part| part.trim() == "hit")
}

const GET: &str = "/api/v1/search?collection=c&query_vector_id=p0003&k=5";

#[tokio::test]
async fn the_second_search_comes_from_the_cache() -> Result<()> {
    let space = filled("caching-hit").await?;
    let first = space.client.get(GET).send().await?;
    assert!(!is_hit(&first), "{}", first.header("cache-status"));
    let second = space.client.get(GET).send().await?;
    assert!(is_hit(&second), "{}", second.header("cache-status"));
    assert_eq!(second.body, first.body);
    assert!(second.header("age").parse::<u64>().is_ok(), "Age: {:?}", second.header("age"));
    assert_ne!(second.header("x-request-id"), first.header("x-request-id"), "a request id is never cached");
    for answer in [&first, &second] {
        assert!(answer.header("cache-control").contains("max-age"), "{}", answer.header("cache-control"));
        assert!(answer.header("etag").starts_with(['"', 'W']), "ETag: {}", answer.header("etag"));
        assert!(!answer.header("cache-tag").is_empty() && !answer.header("cdn-cache-control").is_empty());
    }
    Ok(())
}

#[tokio::test]
async fn equal_searches_share_an_entry_however_they_are_written() -> Result<()> {
    let space = filled("caching-key").await?;
    space.client.get(GET).send().await?.expect(200)?;
    for same in [
        "/api/v1/search?k=5&query_vector_id=p0003&collection=c",
        "/api/v1/search?collection=c&query_vector_id=p0003&k=5&utm_source=mail",
        "/api/v1/search?collection=%63&query_vector_id=p0003&k=5",
    ] {
        let answer = space.client.get(same).send().await?;
        assert!(is_hit(&answer), "{same}: {}", answer.header("cache-status"));
    }
    for other in [
        "/api/v1/search?collection=c&query_vector_id=p0003&k=6",
        "/api/v1/search?collection=c&query_vector_id=p0004&k=5",
    ] {
        assert!(!is_hit(&space.client.get(other).send().await?), "{other}");
    }
    for protocol in [Protocol::Http1, Protocol::Http3] {
        assert!(is_hit(&space.client(protocol)?.get(GET).send().await?), "{protocol:?}");
    }
    let post = |body| space.client.post(&format!("{API}/search")).json(&body).send();
    post(json!({"collection": "c", "query": [1, 0.5, 0, 0], "k": 3, "filter": {"type": "task", "done": true}})).await?;
    let again =
        json!({"filter": {"done": true, "type": "task"}, "k": 3, "query": [1.0, 5e-1, 0, 0.0], "collection": "c"});
    let answer = post(again).await?;
    assert!(is_hit(&answer), "{}", answer.header("cache-status"));
    Ok(())
}

#[tokio::test]
async fn an_etag_saves_the_body() -> Result<()> {
    let space = filled("caching-etag").await?;
    for path in [GET, "/api/v1/embed/p0001?collection=c"] {
        let first = space.client.get(path).send().await?;
        let etag = first.header("etag").to_owned();
        assert!(!etag.is_empty(), "{path}");
        for condition in [etag.clone(), format!("\"other\", {etag}"), "*".to_owned()] {
            let answer = space.client.get(path).header("if-none-match", &condition).send().await?;
            assert_eq!((answer.status.as_u16(), answer.body.len()), (304, 0), "{path} {condition}");
            assert_eq!(answer.header("etag"), etag);
        }
        let other = space.client.get(path).header("if-none-match", "\"other\"").send().await?;
        assert_eq!(other.status, 200, "{path}");
    }
    Ok(())
}

#[tokio::test]
async fn a_write_is_never_hidden_for_long() -> Result<()> {
    let space = filled("caching-write").await?;
    let path = format!("{API}/embed/p0007?collection=c");
    space.client.get(&path).send().await?.expect(200)?;
    assert!(is_hit(&space.client.get(&path).send().await?));
    space.write("update", json!({"collection": "c", "id": "p0007", "metadata": {"fresh": true}})).await?;
    // An update purges by key: even a reader without a session sees it at this gateway.
    let read = space.client.get(&path).send().await?.expect(200)?;
    assert_eq!(read["metadata"]["fresh"], true, "{read}");
    space.write("delete", json!({"collection": "c", "ids": ["p0007"]})).await?;
    space.client.get(&path).send().await?.problem(404)?;
    Ok(())
}

#[tokio::test]
async fn writes_and_refusals_of_callers_are_not_stored() -> Result<()> {
    let space = filled("caching-none").await?;
    let insert = json!({"collection": "c", "vectors": points(32, 1, 4)});
    let answer = space.client.post(&format!("{API}/insert")).json(&insert).send().await?;
    assert!(answer.header("cache-control").contains("no-store"), "{}", answer.header("cache-control"));
    assert!(answer.header("etag").is_empty());
    let refused = space.client.clone().without_credentials().get(GET).send().await?;
    refused.problem(401)?;
    assert!(refused.header("cache-control").contains("no-store"));
    Ok(())
}

#[tokio::test]
async fn no_answer_crosses_from_tenant_to_tenant() -> Result<()> {
    let a = filled("caching-tenant-a").await?;
    let b = Space::new("caching-tenant-b")?;
    a.client.get(GET).send().await?.expect(200)?;
    assert!(is_hit(&a.client.get(GET).send().await?));
    let other = b.client.get(GET).send().await?;
    assert!(!is_hit(&other));
    other.problem(404)?;
    // The other way: B's 404, now perhaps cached, is not A's.
    assert!(!ids(&a.client.get(GET).send().await?.expect(200)?).is_empty());
    let open = crate::space::dev()?.client(Protocol::Http2)?.get(GET).send().await?;
    open.problem(401)?;
    let control = a.client.get(GET).send().await?;
    let shared = control.header("cache-control").contains("public");
    assert!(!shared, "a tenant's answer may not be stored by shared caches: {}", control.header("cache-control"));
    Ok(())
}

#[tokio::test]
async fn no_cache_asks_the_origin() -> Result<()> {
    let space = filled("caching-no-cache").await?;
    space.client.get(GET).send().await?.expect(200)?;
    let answer = space.client.get(GET).header("cache-control", "no-cache").send().await?;
    assert!(!is_hit(&answer), "{}", answer.header("cache-status"));
    Ok(())
}

#[tokio::test]
async fn concurrent_misses_are_one_answer() -> Result<()> {
    let space = filled("caching-coalesce").await?;
    let requests = (0..40).map(|_| space.client.get(GET).send());
    let answers = futures::future::try_join_all(requests).await?;
    for answer in &answers {
        assert_eq!(answer.body, answers[0].body);
        answer.expect(200)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_purge_empties_what_it_names() -> Result<()> {
    let space = filled("caching-purge").await?;
    space.client.get(GET).send().await?.expect(200)?;
    assert!(is_hit(&space.client.get(GET).send().await?));
    let purge = space.client.post(&format!("{API}/cache/purge")).json(&json!({"collection": "c"})).send().await?;
    purge.expect(200)?;
    assert!(!is_hit(&space.client.get(GET).send().await?));
    let reader = crate::space::dev()?
        .token(&Claims { scope: "vectors:read".to_owned(), ..Claims::of_tenant("caching-purge") })?;
    let refused = space.client.post(&format!("{API}/cache/purge")).bearer(&reader).json(&json!({"all": true}));
    refused.send().await?.problem(403)?;
    Ok(())
}

#[tokio::test]
async fn what_is_asked_for_the_most_is_warmed_after_a_purge() -> Result<()> {
    let space = filled("caching-trends").await?;
    let posted = json!({"collection": "c", "query": [1, 2, 3, 4], "k": 3});
    let post = || space.client.post(&format!("{API}/search")).json(&posted).send();
    // Right after a write answers are kept for a moment only.
    let settled = || async {
        let answer = space.client.get(GET).send().await.ok()?;
        answer.header("cache-control").contains("max-age=30").then_some(())
    };
    eventually("the collection has settled", Duration::from_secs(30), settled).await?;
    for _ in 0..3 {
        post().await?.expect(200)?;
    }
    let purge = json!({"collection": "c", "soft": true});
    space.client.post(&format!("{API}/cache/purge")).json(&purge).send().await?.expect(200)?;
    let events = warm(&space, json!({"trends": 10})).await?;
    assert_eq!(events[0]["total"], 2, "{events:?}");
    assert_eq!(events[1], json!({"event": "warm_complete", "warmed": 2, "failed": 0, "hit_rate": 1.0}));
    assert!(is_hit(&post().await?) && is_hit(&space.client.get(GET).send().await?));
    Ok(())
}

/// The events of a warming.
async fn warm(space: &Space, asked: Value) -> Result<Vec<Value>> {
    let answer = space.client.post(&format!("{API}/cache/warm")).json(&asked).send().await?;
    let text = String::from_utf8(answer.body.to_vec())?;
    anyhow::ensure!(answer.status == 200, "{text}");
    let events = text.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
    Ok(events.map(serde_json::from_str).collect::<Result<_, _>>()?)
}

#[tokio::test]
async fn a_new_gateway_knows_from_redis_what_was_hot() -> Result<()> {
    let mut cluster = Cluster::start(&ClusterOptions { searchds: 1, redis: true, ..ClusterOptions::default() })?;
    let claims = Claims::of_tenant("trends");
    let space = |cluster: &Cluster| {
        anyhow::Ok(Space::with(cluster.client_as(Protocol::Http2, &claims)?, cluster.token(&claims)?))
    };
    let before = space(&cluster)?;
    before.fill("c", json!({"dimension": 4}), &points(31, 50, 4)).await?;
    for _ in 0..3 {
        before.client.get(GET).send().await?.expect(200)?;
    }
    let url = cluster.redis.as_ref().context("a Redis")?.url();
    let address = url.trim_start_matches("redis://").to_owned();
    let told = || async {
        let mut stream = tokio::net::TcpStream::connect(&address).await.ok()?;
        stream.write_all(b"EXISTS nearfield:trends:1\r\n").await.ok()?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await.ok()?;
        (&answer == b":1\r\n").then_some(())
    };
    eventually("the region is told", Duration::from_secs(60), told).await?;
    cluster.restart_gateway()?;
    let after = space(&cluster)?;
    // It may not have reached Redis yet.
    let known = || async {
        let events = warm(&after, json!({"trends": 10, "dry_run": true})).await.ok()?;
        (events[0]["total"] == 1).then_some(())
    };
    eventually("it knows one question", Duration::from_secs(30), known).await?;
    let events = warm(&after, json!({"trends": 10, "collection": "c"})).await?;
    assert_eq!((&events[1]["warmed"], &events[1]["failed"]), (&json!(1), &json!(0)), "{events:?}");
    assert_eq!(warm(&after, json!({"trends": 10, "collection": "other"})).await?[0]["total"], 0);
    Ok(())
}
