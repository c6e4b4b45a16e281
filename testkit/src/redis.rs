//! A real redis-server on a free port, without persistence.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::process::{Process, free_port};

const START: Duration = Duration::from_secs(10);

pub struct Redis {
    process: Process,
    port: u16,
    directory: TempDir,
}

impl Redis {
    pub fn start() -> Result<Self> {
        Self::start_on(free_port()?)
    }

    fn start_on(port: u16) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let process = Self::spawn(port, &directory)?;
        Ok(Self { process, port, directory })
    }

    fn spawn(port: u16, directory: &TempDir) -> Result<Process> {
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        command.arg("--dir").arg(directory.path());
        let process =
            Process::spawn("redis-server", command).context("redis-server is needed: apt-get install redis-server")?;
        let end = Instant::now() + START;
        while ping(port).is_err() {
            if !process.is_running() || Instant::now() > end {
                bail!("redis-server does not answer:\n{}", process.tail(20));
            }
            std::thread::yield_now();
        }
        Ok(process)
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// kill -9.
    pub fn kill(&self) -> Result<()> {
        self.process.kill()
    }

    /// Starts it anew on its old port, empty.
    pub fn restart(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process = Self::spawn(self.port, &self.directory)?;
        Ok(())
    }

    /// How many keys it holds.
    pub fn keys(&self) -> Result<u64> {
        let answer = command(self.port, "DBSIZE")?;
        answer.trim().trim_start_matches(':').parse().with_context(|| format!("DBSIZE answered {answer:?}"))
    }
}

fn ping(port: u16) -> Result<()> {
    let answer = command(port, "PING")?;
    anyhow::ensure!(answer.starts_with("+PONG"), "PING answered {answer:?}");
    Ok(())
}

/// One inline command whose answer is one line.
fn command(port: u16, command: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(format!("{command}\r\n").as_bytes())?;
    let mut answer = [0; 128];
    let n = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..n]).into_owned())
}
