//! Real servers that a feed goes over, each started on a free port and killed when it is dropped.

// A test binary and an example are made of this, neither of all of it.
#![allow(clippy::unwrap_used, dead_code)]

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

/// What stands behind a feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Nats,
    Redis,
}

pub(crate) struct Server {
    kind: Kind,
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Server {
    pub(crate) fn start(kind: Kind) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self::start_at(kind, port)
    }

    /// Empty, whatever was at this port before.
    pub(crate) fn start_at(kind: Kind, port: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (program, ready) = match kind {
            Kind::Nats => ("nats-server", "Server is ready"),
            Kind::Redis => ("redis-server", "Ready to accept connections"),
        };
        // Debian puts servers where not everybody's PATH leads.
        let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new(program);
        command.env("PATH", path).stdout(Stdio::piped()).stderr(Stdio::piped());
        let port_text = port.to_string();
        match kind {
            Kind::Nats => command.args(["-a", "127.0.0.1", "-p", &port_text, "-js", "-sd"]).arg(dir.path()),
            Kind::Redis => command
                .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--loglevel", "notice"])
                .args(["--port", &port_text, "--dir"])
                .arg(dir.path()),
        };
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{program} does not start ({error}); on Debian: apt-get install {program}"));
        let log: Box<dyn std::io::Read + Send> = match kind {
            Kind::Nats => Box::new(child.stderr.take().unwrap()),
            Kind::Redis => Box::new(child.stdout.take().unwrap()),
        };
        let mut log = BufReader::new(log).lines();
        let is_ready = log.any(|line| line.unwrap().contains(ready));
        assert!(is_ready, "{program} ended");
        // Read on, or it would block on a full pipe.
        std::thread::spawn(move || log.for_each(drop));
        Self { kind, child, port, dir }
    }

    pub(crate) fn kill(mut self) -> u16 {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.port
    }

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        self.kind.url(self.port)
    }
}

impl Kind {
    pub(crate) fn url(self, port: u16) -> String {
        match self {
            Self::Nats => format!("nats://127.0.0.1:{port}"),
            Self::Redis => format!("redis://127.0.0.1:{port}/"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.dir.path();
    }
}
