//! Runs `nearfield` to its end.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use anyhow::{Context, Result, ensure};
use nearfield_testkit::{Dev, DevOptions, binary};

/// A server that tests share, without rate limits.
pub(crate) fn dev() -> Result<&'static Dev> {
    static DEV: LazyLock<Result<Dev, String>> =
        LazyLock::new(|| Dev::start(&DevOptions::default()).map_err(|e| format!("{e:#}")));
    DEV.as_ref().map_err(|e| anyhow::anyhow!("the shared server: {e}"))
}

/// What a run said.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) success: bool,
    pub(crate) out: String,
    pub(crate) error: String,
}

impl Run {
    /// Its standard output, if all went well.
    pub(crate) fn ok(self) -> Result<String> {
        ensure!(self.success, "it failed: {}", self.error);
        Ok(self.out)
    }

    /// What it complained about.
    pub(crate) fn refusal(self) -> Result<String> {
        ensure!(!self.success, "it should have failed: {}", self.out);
        ensure!(self.error.starts_with("nearfield: ") || self.error.starts_with("error: "), "{}", self.error);
        Ok(self.error)
    }
}

/// `nearfield` with `arguments`.
pub(crate) fn nearfield<A: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = A>) -> Result<Run> {
    let mut command = Command::new(binary("nearfield")?);
    run(command.args(arguments))
}

/// `nearfield` with `arguments` as somebody with the data directory `data`.
pub(crate) fn with_data(data: &Path, arguments: &[&str]) -> Result<Run> {
    let mut command = Command::new(binary("nearfield")?);
    run(command.args(arguments).arg("--data-dir").arg(data))
}

/// `nearfield` with `arguments` against a development server.
pub(crate) fn against(dev: &Dev, arguments: &[&str]) -> Result<Run> {
    let mut command = Command::new(binary("nearfield")?);
    let state = dev.data().join("state");
    run(command
        .args(arguments)
        .args(["--url", &dev.https()?])
        .arg("--data-dir")
        .arg(dev.data())
        .env("XDG_STATE_HOME", state))
}

fn run(command: &mut Command) -> Result<Run> {
    let output = command.stdin(Stdio::null()).output().context("running nearfield")?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Run { success: output.status.success(), out: text(output.stdout), error: text(output.stderr) })
}
