//! What a small collection costs: resident memory of a searchd before and after thousands of them.

use std::time::Duration;

use anyhow::Result;
use futures::{StreamExt, TryStreamExt};
use nearfield_proto::v1;
use nearfield_proto::v1::collections_client::CollectionsClient;
use nearfield_proto::v1::vector_search_client::VectorSearchClient;
use nearfield_testkit::grpc::{self, Credentials};

use crate::server::Server;
use crate::table::Table;

const COLLECTIONS: usize = 10_000;
const POINTS: usize = 10;
const DIMENSION: usize = 384;
const IDLE: Duration = Duration::from_secs(5);
/// Collections made at a time.
const WIDTH: usize = 64;

pub(crate) async fn run() -> Result<()> {
    let server = Server::start()?;
    let channel = grpc::searchd(&server.cluster.searchd_url(0), Credentials::none()).await?;
    let process = server.cluster.searchd(0);
    let before = process.resident_bytes()?;
    let making = futures::stream::iter(0..COLLECTIONS).map(|number| {
        let (mut collections, mut points) =
            (CollectionsClient::new(channel.clone()), VectorSearchClient::new(channel.clone()));
        async move {
            let collection = format!("c{number}");
            let settings = v1::CollectionSettings { dimension: DIMENSION as u32, ..Default::default() };
            let request = v1::CreateCollectionRequest { name: collection.clone(), settings: Some(settings) };
            collections.create(request).await?;
            let vectors = (0..POINTS).map(|i| {
                let values = (0..DIMENSION).map(|d| ((number * 31 + i * 7 + d) as f32).sin()).collect();
                let metadata = format!("{{\"kind\":\"note\",\"number\":{i},\"tags\":[\"a\",\"b{i}\"]}}").into();
                v1::Point { id: format!("p{i}"), values, metadata }
            });
            let request = v1::InsertRequest { collection, vectors: vectors.collect() };
            points.insert(request).await.map(drop)
        }
    });
    making.buffer_unordered(WIDTH).try_collect::<()>().await?;
    let after = process.resident_bytes()?;
    let each = after.saturating_sub(before) / COLLECTIONS as u64;
    let payload = (POINTS * DIMENSION * size_of::<f32>()) as u64;
    // What it costs to have them when nobody asks.
    let (cpu, window) = (process.cpu_time()?, IDLE);
    tokio::time::sleep(window).await;
    let idle = (process.cpu_time()? - cpu).as_secs_f64() / window.as_secs_f64();
    let head =
        ["collections", "points each", "before MiB", "after MiB", "bytes each", "of them vectors", "CPU while idle"];
    let mut table = Table::new(&head);
    table.row([
        COLLECTIONS.to_string(),
        POINTS.to_string(),
        (before >> 20).to_string(),
        (after >> 20).to_string(),
        each.to_string(),
        payload.to_string(),
        format!("{:.1} %", idle * 100.0),
    ]);
    table.print();
    Ok(())
}
