//! Searches as server-sent events.

use http::Method;
use http_body_util::BodyExt;
use nearfield_gateway::body;
use serde_json::{Value, json};

use crate::support::{Inside, request};

fn events(text: &str) -> Vec<Value> {
    let data = text.split("\n\n").filter(|event| !event.is_empty() && !event.starts_with(':'));
    data.map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap()).collect()
}

#[tokio::test]
async fn the_events_are_the_search() {
    let inside = Inside::start().await;
    inside.fill(300).await;
    let search = json!({"collection": "c", "query": [1, 0], "k": 250});
    let expected = inside.post("/search", search.clone()).await.json();
    for answer in [
        inside.post("/stream/search", search).await,
        inside.get("/stream/search?collection=c&query_vector_id=p0&k=250").await,
    ] {
        assert_eq!(answer.headers["content-type"], "text/event-stream");
        assert_eq!(answer.headers["cache-control"], "no-cache");
        let events = events(answer.text());
        assert_eq!(events.len(), 252);
        assert_eq!(events[0]["event"], "search_start");
        assert_eq!(events[251], json!({"event": "search_complete", "total_results": 250}));
        assert_eq!(events[1]["event"], "result");
    }
    let streamed = inside.post("/stream/search", json!({"collection": "c", "query": [1, 0], "k": 250})).await;
    for (event, hit) in events(streamed.text())[1..].iter().zip(expected["results"].as_array().unwrap()) {
        assert_eq!(
            (&event["vector_id"], &event["score"], &event["metadata"]),
            (&hit["id"], &hit["score"], &hit["metadata"])
        );
    }
}

#[tokio::test]
async fn a_search_that_cannot_start_is_an_ordinary_refusal() {
    let inside = Inside::start().await;
    inside.fill(1).await;
    let refused = async |body: Value| inside.post("/stream/search", body).await.status.as_u16();
    assert_eq!(refused(json!({"collection": "none", "query": [1, 0]})).await, 404);
    assert_eq!(refused(json!({"collection": "c", "query": [1]})).await, 400);
    assert_eq!(refused(json!({"collection": "c", "query_vector_id": "nobody"})).await, 404);
}

#[tokio::test]
async fn no_hit_is_an_end_too() {
    let inside = Inside::start().await;
    inside.fill(0).await;
    let answer = inside.post("/stream/search", json!({"collection": "c", "query": [1, 0]})).await;
    let events = events(answer.text());
    assert_eq!((events.len(), &events[1]["total_results"]), (2, &json!(0)), "{events:?}");
}

#[tokio::test]
async fn the_start_is_sent_at_once() {
    let inside = Inside::start().await;
    inside.fill(5).await;
    let body = body::full(json!({"collection": "c", "query": [1, 0]}).to_string());
    let mut response = inside.raw(request(Method::POST, "/stream/search", "application/json", body)).await.unwrap();
    let first = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first.starts_with(b"data: {\"event\":\"search_start\",\"query_id\":\""), "{first:?}");
}
