//! More is written than can be indexed, seen through the gateway: writes wait, then are refused in so many words with a time
//! to come again, searches go on, and writes are taken when there is room.

use std::time::Duration;

use anyhow::{Context, Result};
use nearfield_testkit::{Claims, Cluster, ClusterOptions, Protocol, eventually};
use serde_json::{Value, json};

use crate::space::{API, Space, ids, points};

const WAIT: Duration = Duration::from_secs(60);
const DIMENSION: usize = 8;
/// Points of one insert; two of them are more than may wait.
const BLOCK: usize = 60;

fn block(number: usize) -> Value {
    let rename = |(i, mut point): (usize, Value)| {
        point["id"] = json!(format!("b{number}-{i:03}"));
        point
    };
    let vectors: Vec<Value> = points(number as u64, BLOCK, DIMENSION).into_iter().enumerate().map(rename).collect();
    json!({"collection": "c", "vectors": vectors})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_much_to_be_indexed_makes_writers_wait_and_come_again() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let data: &'static str = directory.path().to_str().context("a path of text")?.to_owned().leak();
    let options = ClusterOptions {
        searchds: 1,
        searchd: vec![
            ("NEARFIELD_STORAGE__DATA_DIR", data),
            ("NEARFIELD_ENGINE__WAITING_BYTES", "3200"),
            ("NEARFIELD_LOG__LEVEL", "off"),
        ],
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(&options)?;
    let claims = Claims::of_tenant("backlog");
    let space = Space::with(cluster.client_as(Protocol::Http2, &claims)?, cluster.token(&claims)?);
    space.create("c", json!({"dimension": DIMENSION})).await?;
    // Where segments go there is a file: nothing is sealed.
    let obstacle = directory.path().join("collections");
    fs_err::write(&obstacle, "")?;
    let insert = |number: usize, patience: &'static str| {
        let request = space.client.post(&format!("{API}/insert")).json(&block(number));
        request.header("x-request-timeout", patience).send()
    };
    insert(0, "10s").await?.expect(200)?;
    let refused = || async {
        let answer = insert(1, "500ms").await.ok()?;
        // The gateway keeps the deadline, too, and may be the first to say so.
        (answer.status != 504).then_some(answer)
    };
    let refusal = eventually("a refusal in so many words", WAIT, refused).await?;
    let problem = refusal.problem(503)?;
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("engine.waiting_bytes")), "{problem}");
    assert!(!refusal.header("retry-after").is_empty());
    let point = &block(0)["vectors"][7];
    let found = space.search(json!({"collection": "c", "query": point["values"], "k": 1})).await?;
    assert_eq!(ids(&found), [point["id"].as_str().context("an id")?]);
    fs_err::remove_file(&obstacle)?;
    let inserted = insert(1, "30s").await?.expect(200)?;
    let point = &block(1)["vectors"][3];
    let search = json!({"collection": "c", "query": point["values"], "k": 1, "session": inserted["session"]});
    let found = space.client.post(&format!("{API}/search")).json(&search).send().await?.expect(200)?;
    assert_eq!(ids(&found), [point["id"].as_str().context("an id")?]);
    Ok(())
}
