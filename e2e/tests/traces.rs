//! Spans as a collector gets them: from the edge to the index, below the caller's own, and none that the caller did not want.

use std::collections::HashMap;
use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use nearfield_testkit::{
    Claims, Client, Cluster, ClusterOptions, Collected, Collector, Protocol, WebSocket, eventually, metrics,
};
use serde_json::json;

use crate::space::{API, Space, points};

const WAIT: Duration = Duration::from_secs(30);
/// Spans are exported as soon as that.
const SOON: (&str, &str) = ("OTEL_BSP_SCHEDULE_DELAY", "50");
/// The caller's own span.
const CALLER: &str = "00f067aa0ba902b7";
/// Spans that may wait for the collector.
const WAITING_MAX: u64 = 2048;

fn exporting(endpoint: &str, redis: bool) -> Result<Cluster> {
    Cluster::start(&ClusterOptions {
        searchds: 1,
        redis,
        otlp: Some(endpoint.to_owned()),
        gateway: vec![SOON],
        searchd: vec![SOON],
        ..ClusterOptions::default()
    })
}

/// A search that was never asked before, as a part of the trace.
async fn search(client: &Client, number: usize, trace: &str, sampled: bool) -> Result<()> {
    let parent = format!("00-{trace}-{CALLER}-0{}", u8::from(sampled));
    let body = json!({"collection": "c", "query": [number, 1, 2, 3], "k": 3});
    let request = client.post(&format!("{API}/search")).json(&body).header("traceparent", &parent);
    request.send().await?.expect(200).map(drop)
}

/// What each span is and the way up from it, to the caller's: `HNSW search < …`.
fn ways(spans: &[Collected]) -> Vec<String> {
    let by_id: HashMap<&str, &Collected> = spans.iter().map(|span| (span.id.as_str(), span)).collect();
    let way = |span: &Collected| {
        let mut names = vec![format!("{}: {}", span.service, span.name)];
        let mut parent = span.parent.as_str();
        while let Some(above) = by_id.get(parent) {
            names.push(format!("{}: {}", above.service, above.name));
            parent = above.parent.as_str();
        }
        names.push(if parent == CALLER { "caller".to_owned() } else { format!("? {parent}") });
        names.join(" < ")
    };
    spans.iter().map(way).collect()
}

#[tokio::test]
async fn spans_of_both_tiers_hang_below_the_callers() -> Result<()> {
    let collector = Collector::start().await?;
    let cluster = exporting(collector.url(), true)?;
    let claims = Claims::of_tenant("spans");
    let space = Space::with(cluster.client_as(Protocol::Http2, &claims)?, cluster.token(&claims)?);
    space.fill("c", json!({"dimension": 4}), &points(122, 20, 4)).await?;

    let (unwanted, wanted) = ("0af7651916cd43dd8448eb211c80319c", "4bf92f3577b34da6a3ce929d0e0e4736");
    search(&space.client, 1, unwanted, false).await?;
    search(&space.client, 2, wanted, true).await?;
    let edge = "gateway: POST search < caller";
    let upstream = format!("gateway: upstream < {edge}");
    let expected = [
        edge.to_owned(),
        format!("gateway: cache look-up < {edge}"),
        format!("gateway: Redis look-up < {edge}"),
        format!("gateway: serialization < {edge}"),
        upstream.clone(),
        format!("searchd: VectorSearch/Search < {upstream}"),
        format!("searchd: HNSW search < searchd: VectorSearch/Search < {upstream}"),
    ];
    let complete = || async {
        let ways = ways(&collector.of_trace(wanted));
        expected.iter().all(|expected| ways.contains(expected)).then_some(())
    };
    eventually("every span comes", WAIT, complete)
        .await
        .with_context(|| format!("{:#?}", ways(&collector.of_trace(wanted))))?;
    for admin in [cluster.admin()?, cluster.searchd(0).address("admin")?] {
        let text = metrics::page(&admin, "/metrics", "application/openmetrics-text").await?;
        let exemplar = text.lines().find(|line| line.contains(&format!("# {{trace_id=\"{wanted}\"}}")));
        ensure!(exemplar.is_some_and(|line| line.contains("seconds_bucket{")), "no exemplar in {text}");
        let text = metrics::page(&admin, "/metrics", "text/plain; version=0.0.4").await?;
        ensure!(!text.contains("trace_id") && text.contains("seconds_bucket{"), "{text}");
    }
    let socketed = "00000000000000000000000000c0ffee";
    let opened = space.client.separate().with_header("traceparent", &format!("00-{socketed}-{CALLER}-01"));
    let mut socket = WebSocket::connect(&opened).await?;
    socket
        .send(&json!({"type": "search", "id": "q", "collection": "c", "query": [3, 1, 2, 3], "stream": false}))
        .await?;
    socket.until("q", &["results"]).await?;
    let way = "searchd: VectorSearch/Search < gateway: upstream < gateway: WebSocket message < ";
    let complete = || async { ways(&collector.of_trace(socketed)).iter().any(|w| w.starts_with(way)).then_some(()) };
    eventually("a WebSocket's message is in its trace", WAIT, complete)
        .await
        .with_context(|| format!("{:#?}", ways(&collector.of_trace(socketed))))?;
    // A process exports in order: what was to come of the one before has come.
    assert!(collector.of_trace(unwanted).is_empty(), "{:#?}", collector.of_trace(unwanted));

    let series = "otlp_spans_total{outcome=\"exported\"}";
    assert!(cluster.gateway_metric(series).await? >= 5);
    Ok(())
}

#[tokio::test]
async fn a_collector_that_hangs_costs_spans_and_nothing_else() -> Result<()> {
    // Whoever connects waits for ever.
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let cluster = exporting(&format!("http://{}", silent.local_addr()?), false)?;
    let client = cluster.client(Protocol::Http2)?;
    // A span each, and twice as many as may wait beside those of the export under way.
    let asked = (0..3 * WAITING_MAX).map(|_| async { client.get("/health/ready").send().await?.expect(200).map(drop) });
    futures::stream::iter(asked).buffer_unordered(50).try_collect::<()>().await?;
    let dropped = cluster.gateway_metric("otlp_spans_total{outcome=\"dropped\"}").await?;
    let waiting = cluster.gateway_metric("otlp_spans_waiting").await?;
    assert!(dropped > 0 && waiting <= WAITING_MAX, "{dropped} dropped, {waiting} wait");
    let failed = || async {
        let failed = cluster.gateway_metric("otlp_spans_total{outcome=\"failed\"}").await.ok()?;
        (failed > 0).then_some(())
    };
    eventually("exports that take too long fail", WAIT, failed).await?;
    client.get("/health/ready").send().await?.expect(200)?;
    Ok(())
}
