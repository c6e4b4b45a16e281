//! Purges between fifteen gateways all over the globe. `cargo run --release --example purges` prints how long they take.

#[path = "support/reach.rs"]
mod reach;
#[path = "support/servers.rs"]
mod servers;
#[path = "support/way.rs"]
mod way;

use std::time::Duration;

use reach::Plan;
use servers::Kind;

async fn nothing_comes_back(kind: Kind) {
    let delays = (Duration::from_millis(20), Duration::from_millis(300));
    let report = reach::measure(&Plan { kind, gateways: 15, purges: 8, delays, loss: 20 }).await;
    assert_eq!(report.reached.len(), 8 * 14, "each purge has reached each other gateway");
    assert!(report.fills > 10_000, "{} fills: no race", report.fills);
    assert_eq!(report.resurrections, 0, "of {} fills", report.fills);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_was_purged_comes_back_over_long_ways_to_redis() {
    nothing_comes_back(Kind::Redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_was_purged_comes_back_over_long_ways_to_nats() {
    nothing_comes_back(Kind::Nats).await;
}
