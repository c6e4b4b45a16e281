//! A disk that runs full under a running searchd, seen through the gateway: writes are refused in so many words, searches go
//! on, and writes are taken again when there is room.

use std::time::Duration;

use anyhow::{Context, Result};
use nearfield_proto::v1;
use nearfield_proto::v1::vector_search_client::VectorSearchClient;
use nearfield_testkit::grpc::{self, Credentials};
use nearfield_testkit::{Claims, Cluster, ClusterOptions, Protocol, eventually};
use serde_json::{Value, json};
use tonic::Code;

use crate::small_disk::SmallDisk;
use crate::space::{API, Space, ids, points};

const WAIT: Duration = Duration::from_secs(60);
const DIMENSION: usize = 64;
/// Points of one insert.
const BLOCK: usize = 100;

fn block(number: usize) -> Value {
    let rename = |(i, mut point): (usize, Value)| {
        point["id"] = json!(format!("b{number:05}-{i:03}"));
        point
    };
    let vectors: Vec<Value> = points(number as u64, BLOCK, DIMENSION).into_iter().enumerate().map(rename).collect();
    json!({"collection": "c", "vectors": vectors})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_writes_searches_go_on_and_room_lets_writes_in_again() -> Result<()> {
    let Some(disk) = SmallDisk::mount(8)? else {
        println!("without a mount there is no disk to fill: searchd's own tests do it by a limit on files");
        return Ok(());
    };
    let data: &'static str = disk.path().join("data").to_str().context("a path of text")?.to_owned().leak();
    let options = ClusterOptions {
        searchds: 1,
        searchd: vec![
            ("NEARFIELD_STORAGE__DATA_DIR", data),
            ("NEARFIELD_STORAGE__RESERVE_BYTES", "0"),
            ("NEARFIELD_LOG__LEVEL", "off"),
        ],
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(&options)?;
    let claims = Claims::of_tenant("full");
    let space = Space::with(cluster.client_as(Protocol::Http2, &claims)?, cluster.token(&claims)?);
    space.create("c", json!({"dimension": DIMENSION})).await?;
    let mut stored = 0;
    let refusal = loop {
        let answer = space.client.post(&format!("{API}/insert")).json(&block(stored)).send().await?;
        if answer.status != 200 {
            break answer;
        }
        stored += 1;
        anyhow::ensure!(stored < 2_000, "the disk never became full");
    };
    assert!(stored > 0);
    let problem = refusal.problem(503)?;
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("the disk is full")), "{problem}");
    assert!(!refusal.header("retry-after").is_empty());

    let credentials = Credentials::bearer(&space.token)?;
    let mut client = VectorSearchClient::new(grpc::gateway(&cluster.https()?, &cluster.ca(), credentials).await?);
    let large = v1::Point { id: "large".into(), values: vec![1.0; DIMENSION], metadata: metadata(60_000) };
    let request = v1::InsertRequest { collection: "c".into(), vectors: vec![large; 1] };
    let mut refused = client.insert(request.clone()).await;
    // Smaller than the block that was refused, so there may be room for some of them.
    for i in 0..200 {
        let Ok(_) = refused else { break };
        let point = v1::Point { id: format!("large-{i}"), ..request.vectors[0].clone() };
        refused = client.insert(v1::InsertRequest { vectors: vec![point], ..request.clone() }).await;
    }
    let status = refused.err().context("a full disk takes no more")?;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("the disk is full"), "{status:?}");

    // What was stored is found, each of it.
    for number in [0, stored / 2, stored - 1] {
        let point = &block(number)["vectors"][7];
        let found = space.search(json!({"collection": "c", "query": point["values"], "k": 1})).await?;
        assert_eq!(ids(&found), [point["id"].as_str().context("an id")?]);
    }
    disk.grow(64)?;
    let again = || async {
        let answer = space.client.post(&format!("{API}/insert")).json(&block(stored)).send().await.ok()?;
        (answer.status == 200).then(|| answer.json()).and_then(Result::ok)
    };
    let inserted = eventually("writes are taken again", WAIT, again).await?;
    let point = &block(stored)["vectors"][3];
    let search = json!({"collection": "c", "query": point["values"], "k": 1, "session": inserted["session"]});
    let found = space.client.post(&format!("{API}/search")).json(&search).send().await?.expect(200)?;
    assert_eq!(ids(&found), [point["id"].as_str().context("an id")?]);
    Ok(())
}

fn metadata(bytes: usize) -> bytes::Bytes {
    json!({"filler": "x".repeat(bytes)}).to_string().into()
}
