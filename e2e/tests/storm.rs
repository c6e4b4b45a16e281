//! What a storm of connections took goes back to the system when it is over.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use nearfield_testkit::{Claims, Cluster, ClusterOptions, Protocol, WebSocket, eventually};

const SOCKETS: usize = 800;
/// Handshakes under way at once: enough that every worker takes part.
const AT_ONCE: usize = 8;
/// The least that they take together: a storm that nobody noticed would prove nothing.
const TAKEN_MIN: u64 = 8 << 20;
/// Of what they took. The rest is what the process has learned meanwhile, and pages that others share.
const GIVEN_BACK: f64 = 0.75;
/// After their end.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn what_idle_connections_took_goes_back() -> Result<()> {
    let cluster = Cluster::start(&ClusterOptions { searchds: 1, ..ClusterOptions::default() })?;
    let client = cluster.client_as(Protocol::Http1, &Claims::of_tenant("storm"))?;
    let allocated = || cluster.gateway().anonymous_bytes();
    let open = |count| {
        let opening = (0..count).map(|_| WebSocket::connect(&client));
        futures::stream::iter(opening).buffer_unordered(AT_ONCE).try_collect::<Vec<_>>()
    };
    // Whatever is made once has been made with the first.
    let warm = open(AT_ONCE).await?;
    let before = allocated()?;
    let sockets = open(SOCKETS).await?;
    let taken = allocated()?.checked_sub(before).context("they take memory")?;
    ensure!(taken >= TAKEN_MIN, "{taken} bytes");
    drop(sockets);
    let left = (taken as f64 * (1.0 - GIVEN_BACK)) as u64;
    let is_back = || async { allocated().is_ok_and(|now| now <= before + left).then_some(()) };
    let back = eventually("what they took goes back", PATIENCE, is_back).await;
    drop(warm);
    back.with_context(|| format!("{taken} bytes were taken, {:?} are there of {before}", allocated()))
}
