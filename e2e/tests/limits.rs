//! Rate limits, in a server of its own that has them on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nearfield_testkit::{
    Answer, Claims, Client, Cluster, ClusterOptions, Dev, DevOptions, PacedUpstream, Protocol, Redis, eventually,
};

use crate::space::API;

/// More than any burst that the limits of the specification let through.
const FLOOD: usize = 3000;

async fn flood(client: &Client) -> Result<(usize, Answer)> {
    let mut admitted = 0;
    for _ in 0..FLOOD / 50 {
        let requests = (0..50).map(|_| client.get(&format!("{API}/collections")).send());
        for answer in futures::future::try_join_all(requests).await? {
            if answer.status == 429 {
                return Ok((admitted, answer));
            }
            answer.expect(200)?;
            admitted += 1;
        }
    }
    anyhow::bail!("{FLOOD} requests at once, and none was limited")
}

#[tokio::test]
async fn a_flood_is_limited_and_told_when_to_come_back() -> Result<()> {
    let dev = Dev::start(&DevOptions { rate_limits: true, ..DevOptions::default() })?;
    let client = dev.client_as(Protocol::Http2, &Claims::of_tenant("limits"))?;
    let calm = client.get(&format!("{API}/collections")).send().await?;
    assert!(!calm.header("ratelimit-policy").is_empty() && !calm.header("ratelimit").is_empty(), "{:?}", calm.headers);

    let (admitted, limited) = flood(&client).await?;
    assert!(admitted >= 50, "only {admitted} requests were admitted of 100 a second");
    limited.problem(429)?;
    let wait: u64 = limited.header("retry-after").parse().context("Retry-After in seconds")?;
    assert!((1..=60).contains(&wait), "Retry-After: {wait}");
    assert!(!limited.header("ratelimit").is_empty() && !limited.header("ratelimit-policy").is_empty());

    // The limit is the address's, whatever the protocol.
    let other = dev.client_as(Protocol::Http1, &Claims::of_tenant("limits-other"))?;
    let (_, also) = flood(&other).await?;
    also.problem(429)?;
    // Health answers always: a limited load balancer would take the server out.
    client.get("/health/ready").send().await?.expect(200)?;

    let again = || async { client.get(&format!("{API}/collections")).send().await.ok().filter(|a| a.status == 200) };
    eventually("the limit lets go", Duration::from_secs(20), again).await?;
    Ok(())
}

/// Units a second of the user below.
const SHARED: f64 = 40.0;
/// What several gateways may let pass beyond one limit: of a key that is new to all of them, or when they lose sight of each
/// other.
const SLACK: f64 = 0.25;

/// Asks all gateways at once, over and over; how many requests passed each.
async fn flood_all(clients: &[Client], rounds: usize) -> Result<Vec<usize>> {
    let floods = clients.iter().map(|client| async move {
        let mut passed = 0;
        for _ in 0..rounds {
            let requests = (0..10).map(|_| client.get(&format!("{API}/collections")).send());
            let answers = futures::future::try_join_all(requests).await?;
            passed += answers.iter().filter(|answer| answer.status != 429).count();
        }
        anyhow::Ok(passed)
    });
    futures::future::try_join_all(floods).await
}

/// Times that gateways lost sight of each other so far, by their own count.
async fn losses(clusters: &[Cluster]) -> Result<f64> {
    let mut losses = 0.0;
    for cluster in clusters {
        let metrics = reqwest::get(&format!("{}/metrics", cluster.admin()?)).await?.text().await?;
        let shown =
            metrics.lines().filter(|line| line.starts_with("gateway_limit_settlements_total{outcome=\"failed\"}"));
        losses += shown.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>();
    }
    Ok(losses)
}

/// Waits until the gateway counts so many that share its quotas, itself included; 0: it is out of their sight.
async fn counts(cluster: &Cluster, gateways: usize) -> Result<()> {
    let url = format!("{}/metrics", cluster.admin()?);
    let line = format!("gateway_limits_sharing_gateways {gateways}");
    let shows = || async {
        let metrics = reqwest::get(&url).await.ok()?.text().await.ok()?;
        metrics.lines().any(|shown| shown == line).then_some(())
    };
    eventually("the gateway counts who shares", Duration::from_secs(20), shows).await
}

#[tokio::test(flavor = "multi_thread")]
async fn three_gateways_share_a_quota_while_redis_lives_dies_and_comes_back() -> Result<()> {
    let mut redis = Redis::start()?;
    let upstream = PacedUpstream::start(8, Duration::ZERO).await?;
    let plans = "{standard={user_per_second=40,tenant_per_second=1000000}}";
    let start = || {
        Cluster::start(&ClusterOptions {
            searchds: 0,
            rate_limits: true,
            upstreams: vec![upstream.url().to_owned()],
            quotas: Some(redis.url()),
            gateway: vec![("NEARFIELD_RATE_LIMIT__IP_PER_SECOND", "1000000"), ("NEARFIELD_RATE_LIMIT__PLANS", plans)],
            ..ClusterOptions::default()
        })
    };
    let clusters = [start()?, start()?, start()?];
    let mut clients = Vec::new();
    for cluster in &clusters {
        counts(cluster, clusters.len()).await?;
        clients.push(cluster.client_as(Protocol::Http2, &Claims::all())?);
    }
    let (began, mut passed) = (Instant::now(), 0);
    let mut within = |more: &[usize], losses: f64| {
        passed += more.iter().sum::<usize>();
        let most = SHARED * (began.elapsed().as_secs_f64() + 1.0 + losses) * (1.0 + SLACK);
        assert!((passed as f64) <= most, "{passed} passed, {most} at most: {more:?}");
    };
    let more = flood_all(&clients, 60).await?;
    assert!(more.iter().all(|passed| *passed > 0), "one gateway got nothing: {more:?}");
    // None, unless the machine is so busy that Redis is late.
    let late = losses(&clusters).await?;
    within(&more, late);
    redis.kill()?;
    for cluster in &clusters {
        counts(cluster, 0).await?;
    }
    // Losing sight may give each its part of one more burst.
    within(&flood_all(&clients, 60).await?, late + 1.0);
    redis.restart()?;
    for cluster in &clusters {
        counts(cluster, clusters.len()).await?;
    }
    // A Redis that starts anew has forgotten what was spent.
    within(&flood_all(&clients, 60).await?, late + 2.0);
    Ok(())
}
