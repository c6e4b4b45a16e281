//! Rate limits, in a server of its own that has them on.

use std::time::Duration;

use anyhow::{Context, Result};
use nearfield_testkit::{Answer, Claims, Client, Dev, DevOptions, Protocol, eventually};

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
