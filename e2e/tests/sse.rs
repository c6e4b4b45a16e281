//! Searches as server-sent events.

use anyhow::{Context, Result};
use nearfield_testkit::{Client, Protocol, SseReader};
use serde_json::{Value, json};

use crate::space::{API, Space, points};

async fn events(client: &Client, body: &Value) -> Result<Vec<Value>> {
    let request = client.post(&format!("{API}/stream/search")).header("accept", "text/event-stream").json(body);
    let answer = request.send_streaming().await?;
    if answer.status != 200 {
        anyhow::bail!("refused: {}", answer.collect().await?.text());
    }
    anyhow::ensure!(
        answer.header("content-type").starts_with("text/event-stream"),
        "{}",
        answer.header("content-type")
    );
    anyhow::ensure!(answer.header("cache-control").contains("no-cache"), "{}", answer.header("cache-control"));
    SseReader::new(answer).all().await
}

fn check(events: &[Value], expected: &Value) -> Result<()> {
    let (first, rest) = events.split_first().context("events")?;
    let (last, hits) = rest.split_last().context("more than one event")?;
    assert_eq!(first["event"], "search_start", "{first}");
    assert!(first["query_id"].as_str().is_some_and(|id| !id.is_empty()), "{first}");
    assert_eq!(
        (&last["event"], &last["total_results"]),
        (&json!("search_complete"), &expected["total_results"]),
        "{last}"
    );
    let results = expected["results"].as_array().context("results")?;
    assert_eq!(hits.len(), results.len());
    for (hit, result) in hits.iter().zip(results) {
        assert_eq!(hit["event"], "result", "{hit}");
        assert_eq!((&hit["vector_id"], &hit["metadata"]), (&result["id"], &result["metadata"]));
        let (a, b) = (hit["score"].as_f64().context("a score")?, result["score"].as_f64().context("a score")?);
        assert!((a - b).abs() < 1e-6, "{a} {b}");
    }
    Ok(())
}

#[tokio::test]
async fn the_stream_is_the_search_over_every_protocol() -> Result<()> {
    let space = Space::new("sse-same")?;
    space.fill("c", json!({"dimension": 4}), &points(41, 300, 4)).await?;
    let body = json!({"collection": "c", "query": [1, 0, -1, 0.5], "k": 120, "filter": {"done": true}, "session": space.session()});
    let expected = space.search(body.clone()).await?;
    for protocol in Protocol::ALL {
        check(&events(&space.client(protocol)?, &body).await?, &expected)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_browser_streams_by_get() -> Result<()> {
    let space = Space::new("sse-get")?;
    space.fill("c", json!({"dimension": 4}), &points(42, 60, 4)).await?;
    let expected = space.search(json!({"collection": "c", "query_vector_id": "p0009", "k": 20})).await?;
    let path = format!("{API}/stream/search?collection=c&query_vector_id=p0009&k=20");
    let session = space.session().context("a session")?;
    // Browsers ask for compression with everything; an event may not wait in a compressor.
    let request =
        space.client.get(&path).header("accept", "text/event-stream").header("accept-encoding", "gzip, br, zstd");
    let answer = request.header("nearfield-session", &session).send_streaming().await?;
    assert_eq!((answer.status.as_u16(), answer.header("content-encoding")), (200, ""));
    check(&SseReader::new(answer).all().await?, &expected)
}

#[tokio::test]
async fn a_search_without_a_hit_completes() -> Result<()> {
    let space = Space::new("sse-empty")?;
    space.create("c", json!({"dimension": 2})).await?;
    let events = events(&space.client, &json!({"collection": "c", "query": [1, 0]})).await?;
    assert_eq!(events.len(), 2, "{events:?}");
    assert_eq!(events[1]["total_results"], 0);
    Ok(())
}

#[tokio::test]
async fn a_stream_that_cannot_start_is_a_plain_refusal() -> Result<()> {
    let space = Space::new("sse-refused")?;
    space.create("c", json!({"dimension": 2})).await?;
    let check = async |body: Value, status: u16| -> Result<()> {
        let request = space.client.post(&format!("{API}/stream/search")).header("accept", "text/event-stream");
        let answer = request.json(&body).send().await?;
        if answer.status == 200 {
            // Known only after the start: the failure is the stream's last event.
            let text = answer.text();
            assert!(text.contains("\"event\":\"error\"") && text.contains(&format!("\"status\":{status}")), "{text}");
        } else {
            answer.problem(status)?;
        }
        Ok(())
    };
    check(json!({"collection": "c", "query": [1]}), 400).await?;
    check(json!({"collection": "c", "query": [1, 0], "k": 0}), 400).await?;
    check(json!({"collection": "nowhere", "query": [1, 0]}), 404).await?;
    check(json!({"collection": "c", "query_vector_id": "nobody"}), 404).await?;
    Ok(())
}

#[tokio::test]
async fn a_reader_that_leaves_costs_nothing() -> Result<()> {
    let space = Space::new("sse-leaves")?;
    space.fill("c", json!({"dimension": 4}), &points(43, 500, 4)).await?;
    let body = json!({"collection": "c", "query": [1, 0, 0, 0], "k": 500, "session": space.session()});
    for protocol in Protocol::ALL {
        for _ in 0..5 {
            let client = space.client(protocol)?;
            let request =
                client.post(&format!("{API}/stream/search")).header("accept", "text/event-stream").json(&body);
            let mut reader = SseReader::new(request.send_streaming().await?);
            assert_eq!(reader.json().await?.context("an event")?["event"], "search_start");
        }
        assert_eq!(space.client(protocol)?.get("/health/ready").send().await?.status, 200);
    }
    Ok(())
}
