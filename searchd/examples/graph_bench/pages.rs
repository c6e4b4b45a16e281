//! Huge pages, as a collection has them that has been there for some minutes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// The system looks for pages to put together every ten seconds.
const SETTLED: Duration = Duration::from_secs(25);
const PATIENCE: Duration = Duration::from_secs(240);
const INTERVAL: Duration = Duration::from_millis(500);

/// Waits until the system puts no more of this process's memory together into huge pages, and says how much it did. A graph asks for
/// them once it is filled, and gets them by and by.
pub(crate) fn settle() -> Result<()> {
    let (started, before) = (Instant::now(), huge_kib()?);
    let (mut last, mut since) = (before, started);
    while since.elapsed() < SETTLED && started.elapsed() < PATIENCE {
        std::thread::sleep(INTERVAL);
        let now = huge_kib()?;
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    let (mib, waited) = (|kib: u64| kib as f64 / 1024.0, started.elapsed().as_secs());
    println!("  {:.0} MiB in huge pages, {:.0} MiB after {waited} s", mib(before), mib(last));
    Ok(())
}

fn huge_kib() -> Result<u64> {
    let path = "/proc/self/smaps_rollup";
    let text = std::fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("AnonHugePages:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).context("AnonHugePages in smaps_rollup")
}
