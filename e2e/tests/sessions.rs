//! A session token proves a write to whoever reads with it.

use anyhow::{Context, Result};
use serde_json::json;

use crate::space::{API, Space};

#[tokio::test]
async fn a_read_with_the_session_sees_the_write_past_every_cache() -> Result<()> {
    let space = Space::new("sessions-read")?;
    space.create("c", json!({"dimension": 2})).await?;
    space.insert("c", &[json!({"id": "anchor", "values": [1, 0]})]).await?;
    let path = format!("{API}/search?collection=c&query_vector_id=anchor&k=100");
    for i in 0..30 {
        // Fills the caches with an answer that is about to be wrong.
        space.client.get(&path).send().await?.expect(200)?;
        let id = format!("p{i}");
        let answer = space.insert("c", &[json!({"id": id, "values": [1, i]})]).await?;
        let session = answer["session"].as_str().context("a session")?;
        let by_header = space.client.get(&path).header("nearfield-session", session).send().await?.expect(200)?;
        assert!(by_header.to_string().contains(&format!("\"{id}\"")), "write {i} is missing: {by_header}");
        let body = json!({"collection": "c", "query": [1, i], "k": 100, "session": session});
        let by_body = space.client.post(&format!("{API}/search")).json(&body).send().await?.expect(200)?;
        assert_eq!(by_body["total_results"], i + 2, "{by_body}");
    }
    Ok(())
}

#[tokio::test]
async fn a_session_reads_updates_and_deletes_too() -> Result<()> {
    let space = Space::new("sessions-delete")?;
    space.create("c", json!({"dimension": 2})).await?;
    for round in 0..10 {
        space.insert("c", &[json!({"id": "a", "values": [1, 0], "metadata": {"round": round}})]).await?;
        assert_eq!(space.get("/embed/a?collection=c").await?.expect(200)?["metadata"]["round"], round);
        space.write("update", json!({"collection": "c", "id": "a", "metadata": {"updated": true}})).await?;
        assert_eq!(space.get("/embed/a?collection=c").await?.expect(200)?["metadata"]["updated"], true);
        space.write("delete", json!({"collection": "c", "ids": ["a"]})).await?;
        space.get("/embed/a?collection=c").await?.problem(404)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_session_that_is_none_is_400() -> Result<()> {
    let space = Space::new("sessions-bad")?;
    space.create("c", json!({"dimension": 2})).await?;
    for bad in ["nonsense", "!!!", "AAAA", &"A".repeat(5000)] {
        let body = json!({"collection": "c", "query": [1, 0], "session": bad});
        space.client.post(&format!("{API}/search")).json(&body).send().await?.problem(400)?;
        let path = format!("{API}/embed/a?collection=c");
        space.client.get(&path).header("nearfield-session", bad).send().await?.problem(400)?;
    }
    Ok(())
}
