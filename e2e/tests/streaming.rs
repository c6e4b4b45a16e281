//! Streamed searches that nobody reads on: the first hits are there, and what comes behind them is not even looked up.

use std::time::Duration;

use anyhow::{Context, Result};
use nearfield_proto::v1;
use nearfield_proto::v1::vector_search_client::VectorSearchClient;
use nearfield_testkit::grpc::{self, Credentials};
use nearfield_testkit::{Claims, Cluster, ClusterOptions, Protocol, SseReader, WebSocket, vectors};
use serde_json::{Value, json};

use crate::space::{API, Space, ids};

const DIMENSION: usize = 512;
/// Their numbers take more than all windows and buffers on the way hold together.
const POINTS: usize = 8_000;

async fn filled() -> Result<(Cluster, Space)> {
    let quiet = vec![("NEARFIELD_LOG__LEVEL", "warn")];
    let options = ClusterOptions { searchds: 1, searchd: quiet.clone(), gateway: quiet, ..ClusterOptions::default() };
    let cluster = Cluster::start(&options)?;
    let claims = Claims::of_tenant("stream");
    let space = Space::with(cluster.client_as(Protocol::Http2, &claims)?, cluster.token(&claims)?);
    space.create("c", json!({"dimension": DIMENSION})).await?;
    let all = vectors::clustered(77, POINTS, DIMENSION, 5);
    for (number, block) in all.chunks(500).enumerate() {
        let point = |(i, values): (usize, &Vec<f32>)| json!({"id": format!("p{:05}", number * 500 + i), "values": vectors::base64(values), "metadata": {"i": i}});
        space.insert("c", &block.iter().enumerate().map(point).collect::<Vec<_>>()).await?;
    }
    Ok((cluster, space))
}

/// Hits that searchd has looked up for streams.
async fn looked_up(cluster: &Cluster) -> Result<usize> {
    let admin = cluster.searchd(0).address("admin")?;
    let text = reqwest::get(format!("{admin}/metrics")).await?.text().await?;
    let line = text.lines().find(|line| line.starts_with("nearfield_searchd_streamed_hits_total "));
    Ok(line.and_then(|line| line.rsplit_once(' ')).context("the counter")?.1.parse()?)
}

/// Other searches are answered while the stream stands still; and what was looked up for it is not all.
async fn check_held_back(cluster: &Cluster, space: &Space, before: usize) -> Result<()> {
    for i in 0..30 {
        let query = vec![i as f32 + 1.0; DIMENSION];
        let found = space.search(json!({"collection": "c", "query": query, "k": 3})).await?;
        assert_eq!(ids(&found).len(), 3);
    }
    let now = looked_up(cluster).await?;
    assert!((128..POINTS).contains(&(now - before)), "{} of {POINTS} were looked up", now - before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_hits_come_while_the_last_are_not_looked_up() -> Result<()> {
    tokio::time::timeout(Duration::from_secs(280), async {
        let (cluster, space) = filled().await?;
        let query = vec![0.25f32; DIMENSION];
        let body = json!({"collection": "c", "query": query, "k": POINTS, "session": space.session(),
            "include": ["metadata", "values"]});

        let before = looked_up(&cluster).await?;
        let request = space.client.separate().post(&format!("{API}/stream/search")).json(&body);
        let mut reader = SseReader::new(request.send_streaming().await?);
        assert_eq!(reader.json().await?.context("an event")?["event"], "search_start");
        assert_eq!(reader.json().await?.context("an event")?["event"], "result");
        check_held_back(&cluster, &space, before).await?;
        let rest = reader.all().await?;
        let streamed: Vec<&Value> = rest.iter().filter(|event| event["event"] == "result").collect();
        assert_eq!(
            (streamed.len() + 1, rest.last().map(|last| &last["total_results"])),
            (POINTS, Some(&json!(POINTS)))
        );
        assert_eq!(looked_up(&cluster).await? - before, POINTS);
        // A reader that leaves ends it.
        let before = looked_up(&cluster).await?;
        let request = space.client.separate().post(&format!("{API}/stream/search")).json(&body);
        let mut reader = SseReader::new(request.send_streaming().await?);
        reader.json().await?;
        drop(reader);
        check_held_back(&cluster, &space, before).await?;

        let before = looked_up(&cluster).await?;
        let mut socket = WebSocket::connect(&space.client.separate()).await?;
        let mut message = body.clone();
        (message["type"], message["id"], message["stream"]) = (json!("search"), json!("q"), json!(true));
        socket.send(&message).await?;
        assert_eq!(socket.json().await?["type"], "result");
        check_held_back(&cluster, &space, before).await?;
        let rest = socket.until("q", &["search_complete", "error"]).await?;
        assert_eq!((rest.len(), &rest[rest.len() - 1]["total_results"]), (POINTS, &json!(POINTS)));

        let before = looked_up(&cluster).await?;
        let credentials = Credentials::bearer(&space.token)?;
        let mut client = VectorSearchClient::new(grpc::gateway(&cluster.https()?, &cluster.ca(), credentials).await?);
        let request = v1::SearchRequest {
            collection: "c".into(),
            query,
            k: POINTS as i32,
            include: vec!["values".into()],
            ..Default::default()
        };
        let mut stream = client.stream_search(request).await?.into_inner();
        let first = stream.message().await?.context("a hit")?;
        assert!(!first.last && first.values.len() == DIMENSION);
        check_held_back(&cluster, &space, before).await?;
        let mut count = 1;
        while let Some(hit) = stream.message().await? {
            count += 1;
            assert_eq!((hit.last, hit.total_results > 0), (count == POINTS, count == POINTS));
        }
        assert_eq!(count, POINTS);
        Ok(())
    })
    .await?
}
