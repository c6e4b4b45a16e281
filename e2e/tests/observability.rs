//! What an operator sees: metrics, health, logs that join up with a trace.

use std::time::Duration;

use anyhow::{Context, Result};
use nearfield_testkit::{Claims, Cluster, ClusterOptions, Protocol, eventually};
use serde_json::{Value, json};

use crate::space::{API, Space, dev, points};

async fn metrics(admin: &str) -> Result<String> {
    Ok(reqwest::get(format!("{admin}/metrics")).await?.error_for_status()?.text().await?)
}

/// Requests or calls answered, of every kind.
fn counted(metrics: &str) -> u64 {
    let counter = |name: &str| name.contains("_requests_total{") || name.contains("_calls_total{");
    let samples = metrics.lines().filter_map(|line| line.rsplit_once(' ')).filter(|(name, _)| counter(name));
    samples.filter_map(|(_, value)| value.parse::<u64>().ok()).sum()
}

#[tokio::test]
async fn both_tiers_count_what_they_do() -> Result<()> {
    let cluster = Cluster::start(&ClusterOptions { searchds: 1, ..ClusterOptions::default() })?;
    let claims = Claims::of_tenant("metrics");
    let space = Space::with(cluster.client_as(Protocol::Http2, &claims)?, cluster.token(&claims)?);
    space.fill("c", json!({"dimension": 4}), &points(121, 50, 4)).await?;
    for i in 0..10 {
        let body = json!({"collection": "c", "query": [i, 1, 1, 1]});
        space.client.post(&format!("{API}/search")).json(&body).send().await?.expect(200)?;
    }
    for (tier, admin) in [("gateway", cluster.admin()?), ("searchd", cluster.searchd(0).address("admin")?)] {
        let text = metrics(&admin).await?;
        assert!(text.contains("# TYPE"), "{tier}: {text}");
        assert!(text.contains("_bucket{"), "{tier}: a latency histogram: {text}");
        assert!(text.trim_end().ends_with("# EOF"), "{tier}: OpenMetrics ends with EOF");
        assert!(counted(&text) >= 12, "{tier}: {text}");
        for path in ["health/live", "health/ready"] {
            assert_eq!(reqwest::get(format!("{admin}/{path}")).await?.status(), 200, "{tier} {path}");
        }
        assert_eq!(reqwest::get(format!("{admin}/nothing")).await?.status(), 404, "{tier}");
    }
    Ok(())
}

#[tokio::test]
async fn a_trace_runs_from_the_client_to_the_index() -> Result<()> {
    let cluster = Cluster::start(&ClusterOptions { searchds: 1, ..ClusterOptions::default() })?;
    let claims = Claims::of_tenant("traces");
    let space = Space::with(cluster.client_as(Protocol::Http2, &claims)?, cluster.token(&claims)?);
    space.fill("c", json!({"dimension": 4}), &points(122, 5, 4)).await?;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let body = json!({"collection": "c", "query": [5, 4, 3, 2]});
    let request = space.client.post(&format!("{API}/search")).json(&body).header("traceparent", &parent);
    let answer = request.send().await?;
    answer.expect(200)?;
    let id = answer.header("x-request-id").to_owned();
    for (tier, process) in [("gateway", cluster.gateway()), ("searchd", cluster.searchd(0))] {
        let told = || async { process.log().into_iter().find(|line| line.contains(trace)) };
        eventually(&format!("{tier} logs the trace"), Duration::from_secs(5), told)
            .await
            .with_context(|| process.tail(20))?;
    }
    let access = cluster.gateway().log().into_iter().find(|line| line.contains(&id));
    let access = access.context("the access log has the request id")?;
    let line: Value = serde_json::from_str(&access).context("a log line is JSON")?;
    assert!(line.is_object(), "{access}");
    Ok(())
}

#[tokio::test]
async fn a_bad_traceparent_is_passed_over() -> Result<()> {
    let client = dev()?.client_as(Protocol::Http2, &Claims::of_tenant("traces-bad"))?;
    for bad in ["", "00", "00-xyz-1-1", &"0".repeat(3000), "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"] {
        client.get(&format!("{API}/collections")).header("traceparent", bad).send().await?.expect(200)?;
    }
    Ok(())
}

#[tokio::test]
async fn no_secret_reaches_the_log() -> Result<()> {
    let dev = dev()?;
    let token = dev.token(&Claims::of_tenant("logs-secret"))?;
    let client = dev.client(Protocol::Http2)?;
    client.get(&format!("{API}/collections")).bearer(&token).send().await?.expect(200)?;
    client.get(&format!("{API}/collections")).bearer("not-a-token-but-secret").send().await?.problem(401)?;
    client.get(&format!("{API}/collections")).header("x-api-key", "a-key-that-is-secret").send().await?.problem(401)?;
    let signature = token.rsplit('.').next().context("a signature")?;
    for line in dev.process().log() {
        for secret in [signature, "not-a-token-but-secret", "a-key-that-is-secret"] {
            assert!(!line.contains(secret), "{line}");
        }
    }
    Ok(())
}
