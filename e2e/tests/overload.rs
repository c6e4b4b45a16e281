//! More than can be served: those who matter more go first, nobody waits long for nothing, and health answers.

use std::time::Duration;

use anyhow::Result;
use nearfield_testkit::{Answer, Claims, Client, Cluster, ClusterOptions, PacedUpstream, Protocol, eventually};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::space::API;

const PATIENCE: Duration = Duration::from_secs(60);

/// A gateway with room for two calls, whose upstream answers when it is told to.
async fn start(queue: &[(&'static str, &'static str)]) -> Result<(Cluster, PacedUpstream)> {
    let upstream = PacedUpstream::holding().await?;
    let mut settings = vec![
        ("NEARFIELD_SHED__ADAPTIVE__ENABLED", "false"),
        ("NEARFIELD_SHED__MAX_READS", "2"),
        // The upstream is slow on purpose: nothing is asked of it twice.
        ("NEARFIELD_UPSTREAM__HEDGE__ENABLED", "false"),
        ("NEARFIELD_UPSTREAM__RETRY__PATIENCE", "5m"),
    ];
    settings.extend(queue);
    let cluster = Cluster::start(&ClusterOptions {
        searchds: 0,
        upstreams: vec![upstream.url().to_owned()],
        gateway: settings,
        ..ClusterOptions::default()
    })?;
    Ok((cluster, upstream))
}

fn search(client: &Client, number: usize) -> JoinHandle<Result<Answer>> {
    let request = client.post(&format!("{API}/search"));
    let body = json!({"collection": "overload", "query": [number, 1], "k": 1});
    tokio::spawn(async move { request.json(&body).send().await })
}

async fn metric(cluster: &Cluster, line: &str) -> Result<Option<f64>> {
    let text = reqwest::get(format!("{}/metrics", cluster.admin()?)).await?.text().await?;
    Ok(text.lines().find_map(|l| l.strip_prefix(line)?.trim().parse().ok()))
}

async fn waiting(cluster: &Cluster, number: f64) -> Result<()> {
    let line = "gateway_admission_waiting{class=\"read\"}";
    let holds = || async { metric(cluster, line).await.ok().flatten().filter(|waiting| *waiting == number) };
    eventually("so many requests wait", PATIENCE, holds).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_matters_more_is_served_first_and_nothing_admitted_is_dropped() -> Result<()> {
    let patient = ("NEARFIELD_SHED__QUEUE__PATIENCE", "5m");
    let calm = ("NEARFIELD_SHED__QUEUE__INTERVAL", "5m");
    let (cluster, upstream) = start(&[patient, calm]).await?;
    let normal = cluster.client_as(Protocol::Http2, &Claims::all())?;
    let premium = Claims { plan: Some("premium".to_owned()), ..Claims::all() };
    let premium = cluster.client_as(Protocol::Http2, &premium)?;
    let mut admitted = vec![search(&normal, 1), search(&normal, 2)];
    eventually("both places are taken", PATIENCE, || async { (upstream.running() == 2).then_some(()) }).await?;
    let second = search(&normal, 3);
    waiting(&cluster, 1.0).await?;
    let first = search(&premium, 4);
    waiting(&cluster, 2.0).await?;
    // Health needs no place.
    normal.get("/health/ready").send().await?.expect(200)?;
    upstream.let_go(1);
    eventually("the next has its place", PATIENCE, || async { (upstream.asked() == 3).then_some(()) }).await?;
    upstream.let_go(2);
    // Three may be answered: the two that had a place, and the one that matters more.
    admitted.push(first);
    for answer in admitted {
        answer.await??.expect(200)?;
    }
    assert!(!second.is_finished());
    upstream.let_go(1);
    second.await??.expect(200)?;
    assert_eq!(upstream.asked(), 4);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_who_matters_least_and_says_when_to_come_back() -> Result<()> {
    let patient = ("NEARFIELD_SHED__QUEUE__PATIENCE", "5m");
    let short = ("NEARFIELD_SHED__QUEUE__MAX_WAITING", "1");
    let (cluster, upstream) = start(&[patient, short, ("NEARFIELD_SHED__QUEUE__INTERVAL", "5m")]).await?;
    let normal = cluster.client_as(Protocol::Http2, &Claims::all())?;
    let sheddable = normal.clone().with_header("nearfield-criticality", "sheddable");
    let premium = Claims { plan: Some("premium".to_owned()), ..Claims::all() };
    let premium = cluster.client_as(Protocol::Http2, &premium)?;
    let mut admitted = vec![search(&normal, 1), search(&normal, 2)];
    eventually("both places are taken", PATIENCE, || async { (upstream.running() == 2).then_some(()) }).await?;
    let gives_way = search(&sheddable, 3);
    waiting(&cluster, 1.0).await?;
    admitted.push(search(&premium, 4));
    let refused = gives_way.await??;
    refused.problem(503)?;
    let wait: u64 = refused.header("retry-after").parse()?;
    assert!((1..=3).contains(&wait), "Retry-After: {wait}");
    search(&normal, 5).await??.problem(503)?;
    let line = "gateway_requests_shed_total{class=\"read\",criticality=\"sheddable\",reason=\"queue_full\"}";
    assert_eq!(metric(&cluster, line).await?, Some(1.0));
    upstream.let_go(3);
    for answer in admitted {
        answer.await??.expect(200)?;
    }
    let claims_more = normal.with_header("nearfield-criticality", "urgent");
    search(&claims_more, 6).await??.problem(400)?;
    Ok(())
}
