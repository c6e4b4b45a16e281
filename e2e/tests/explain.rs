//! `explain`: what a search tells of itself, over every way in that has one answer.

use anyhow::{Context, Result};
use nearfield_testkit::{Answer, WebSocket};
use serde_json::{Value, json};

use crate::space::{API, Space, ids, points};

const COUNT: usize = 300;

async fn filled(name: &str) -> Result<Space> {
    let space = Space::new(name)?;
    space.fill("c", json!({"dimension": 4}), &points(61, COUNT, 4)).await?;
    Ok(space)
}

/// `left_out` is 1 where the query is a point itself.
fn check(explained: &Value, filtered: bool, left_out: u64) {
    assert_eq!(explained["points"], COUNT, "{explained}");
    assert!(["rows", "scan"].contains(&explained["plan"].as_str().unwrap_or_default()), "{explained}");
    assert_eq!(explained["filter"].is_object(), filtered, "{explained}");
    assert_eq!(explained["cache"]["filter"].is_string(), filtered, "{explained}");
    let segments = explained["segments"].as_array().map(Vec::as_slice).unwrap_or_default();
    assert_eq!(segments.len(), 1, "{explained}");
    assert_eq!((&segments[0]["segment"], &segments[0]["rows"]), (&json!("head"), &json!(COUNT)), "{explained}");
    assert!(segments[0]["why"].as_str().is_some_and(|why| why.contains("µs")), "{explained}");
    let compared = json!(explained["filter"]["admitted"].as_u64().unwrap_or(COUNT as u64) - left_out);
    assert_eq!((&explained["rescored"], &explained["distances"]), (&compared, &compared), "{explained}");
    for phase in ["wait", "open", "filter", "search", "gather"] {
        assert!(explained["phases_us"][phase].is_u64(), "{phase}: {explained}");
    }
}

fn is_uncached(answer: &Answer) {
    assert_eq!(answer.header("cache-control"), "no-store");
    assert!(!answer.header("cache-status").contains("hit"), "{}", answer.header("cache-status"));
}

#[tokio::test]
async fn an_explained_search_finds_the_same_and_is_never_kept() -> Result<()> {
    let space = filled("explain-rest").await?;
    let plain = json!({"collection": "c", "query": [1, 0, 0.5, 0], "k": 7, "filter": {"type": "task"}});
    let mut explained = plain.clone();
    explained["explain"] = json!(true);
    let expected = space.client.post(&format!("{API}/search")).json(&plain).send().await?.expect(200)?;
    assert!(expected.get("explain").is_none(), "{expected}");
    for _ in 0..2 {
        let answer = space.client.post(&format!("{API}/search")).json(&explained).send().await?;
        is_uncached(&answer);
        let answer = answer.expect(200)?;
        assert_eq!(ids(&answer), ids(&expected));
        check(&answer["explain"], true, 0);
        // Asked for before, with nothing written since: both caches have it, and say so.
        assert_eq!(answer["explain"]["cache"], json!({"result": "hit", "filter": "hit"}));
    }
    let get = "/api/v1/search?collection=c&query_vector_id=p0003&k=5&explain=true";
    for _ in 0..2 {
        let answer = space.client.get(get).send().await?;
        is_uncached(&answer);
        check(&answer.expect(200)?["explain"], false, 1);
    }
    let again = space.client.get("/api/v1/search?collection=c&query_vector_id=p0003&k=5").send().await?;
    assert!(again.expect(200)?.get("explain").is_none());
    for wrong in ["/api/v1/search?collection=c&query_vector_id=p0003&explain=yes", "explain"] {
        let answer = if wrong == "explain" {
            let body = json!({"collection": "c", "query": [1, 0, 0, 0], "explain": 1});
            space.client.post(&format!("{API}/search")).json(&body).send().await?
        } else {
            space.client.get(wrong).send().await?
        };
        answer.problem(400)?;
    }
    Ok(())
}

#[tokio::test]
async fn each_search_of_a_batch_and_of_a_websocket_is_explained_where_asked() -> Result<()> {
    let space = filled("explain-others").await?;
    let search = |explain: bool| json!({"collection": "c", "query": [1, 0, 0.5, 0], "k": 3, "explain": explain});
    let body = json!({"searches": [search(true), search(false)]});
    let batch = space.client.post(&format!("{API}/search/batch")).json(&body).send().await?.expect(200)?;
    check(&batch["responses"][0]["explain"], false, 0);
    assert!(batch["responses"][1].get("explain").is_none(), "{batch}");

    let mut socket = WebSocket::connect(&space.client).await?;
    let mut message = search(true);
    (message["type"], message["id"], message["stream"]) = (json!("search"), json!("q1"), json!(false));
    socket.send(&message).await?;
    let messages = socket.until("q1", &["results", "error"]).await?;
    check(&messages.first().context("an answer")?["explain"], false, 0);
    // A stream of hits has no place for it, and goes on without.
    (message["id"], message["stream"]) = (json!("q2"), json!(true));
    socket.send(&message).await?;
    let messages = socket.until("q2", &["search_complete", "error"]).await?;
    assert_eq!(messages.last().context("an end")?["total_results"], 3);
    socket.close().await
}
