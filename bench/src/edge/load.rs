//! Requests from `h2load`, a process of its own that costs much less than what it asks.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

const CONNECTIONS: usize = 4;
/// In flight on each connection.
const STREAMS: usize = 10;
/// Without a byte for so long, a connection has failed.
const STALLED: &str = "20s";
/// Requests that cost more are asked less often.
const FEWER: usize = 8;

pub(crate) struct Load {
    url: String,
    requests: usize,
    headers: Vec<String>,
    body: Option<PathBuf>,
    is_http1: bool,
}

impl Load {
    pub(crate) fn new(url: String, requests: usize) -> Self {
        Self { url, requests, headers: Vec::new(), body: None, is_http1: false }
    }

    #[must_use]
    pub(crate) fn with(mut self, header: &str) -> Self {
        self.headers.push(header.to_owned());
        self
    }

    #[must_use]
    pub(crate) fn http1(mut self) -> Self {
        self.is_http1 = true;
        self
    }

    #[must_use]
    pub(crate) fn fewer(mut self) -> Self {
        self.requests = (self.requests / FEWER).max(1);
        self
    }

    pub(crate) fn posting(mut self, directory: &Path, body: &str) -> Result<Self> {
        let file = directory.join(format!("body-{}.json", body.len()));
        fs_err::write(&file, body)?;
        self.body = Some(file);
        Ok(self)
    }

    /// Asks all, and returns how many were answered with a 2xx: all of them.
    pub(crate) fn run(&self) -> Result<usize> {
        let mut command = Command::new("h2load");
        command.args(["-t", "1", "-c", &CONNECTIONS.to_string(), "-n", &self.requests.to_string()]);
        command.args(["--connection-inactivity-timeout", STALLED]);
        match self.is_http1 {
            true => command.args(["--h1", "-m", "1"]),
            false => command.args(["-m", &STREAMS.to_string()]),
        };
        for header in &self.headers {
            command.args(["-H", header]);
        }
        if let Some(body) = &self.body {
            command.arg("-d").arg(body);
        }
        let output = command.arg(&self.url).output().context("h2load is needed: apt-get install nghttp2-client")?;
        let said = String::from_utf8_lossy(&output.stdout);
        let line = said.lines().find(|line| line.starts_with("status codes:")).context("h2load's status codes")?;
        let answered: usize = line
            .trim_start_matches("status codes:")
            .split_whitespace()
            .next()
            .and_then(|number| number.parse().ok())
            .context("a number of 2xx")?;
        ensure!(answered == self.requests, "{}: {line}", self.url);
        Ok(answered)
    }
}
