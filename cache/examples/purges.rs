//! Prints how long purges take between fifteen gateways, 20 to 300 ms from their feed with 2 % of packets lost, over a real
//! Redis and a real NATS, and fails where the goal is missed: half of them within 150 ms beyond the way, all within
//! 5 s, nothing that comes back. `cargo run --release -p nearfield-cache --example purges [PURGES]`.

#[path = "../tests/support/reach.rs"]
mod reach;
#[path = "../tests/support/servers.rs"]
mod servers;
#[path = "../tests/support/way.rs"]
mod way;

use std::process::ExitCode;
use std::time::Duration;

use reach::{Plan, Report};
use servers::Kind;

const HALF_BEYOND: Duration = Duration::from_millis(150);
const ALL: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> ExitCode {
    let purges = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(100);
    println!(
        "| feed | purges | gateways | beyond the way: p50, p99 ms | in all: p50, p99, most ms | fills | came back |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let mut is_met = true;
    for kind in [Kind::Redis, Kind::Nats] {
        let delays = (Duration::from_millis(20), Duration::from_millis(300));
        let plan = Plan { kind, gateways: 15, purges, delays, loss: 20 };
        let report = reach::measure(&plan).await;
        let ms = |times: &[Duration], share: f64| Report::quantile(times, share).as_millis();
        let (beyond, reached) = (&report.beyond, &report.reached);
        println!(
            "| {kind:?} | {purges} | {} | {}, {} | {}, {}, {} | {} | {} |",
            plan.gateways,
            ms(beyond, 0.5),
            ms(beyond, 0.99),
            ms(reached, 0.5),
            ms(reached, 0.99),
            ms(reached, 1.0),
            report.fills,
            report.resurrections,
        );
        is_met &= Report::quantile(beyond, 0.5) <= HALF_BEYOND
            && Report::quantile(reached, 1.0) <= ALL
            && report.resurrections == 0;
    }
    if is_met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
