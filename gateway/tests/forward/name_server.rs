//! A real name server: dnsmasq on a free port, for the zone `test.`.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::ANY;

pub(crate) struct NameServer {
    pub(crate) address: SocketAddr,
    /// What it says its answers are good for, in seconds.
    ttl: u32,
    child: Option<Child>,
}

impl NameServer {
    /// Answers by `records`, which are options of dnsmasq.
    pub(crate) fn start(ttl: u32, records: &[String]) -> Self {
        let mut server = Self { address: free(), ttl, child: None };
        server.set(records);
        server
    }

    /// Begins anew, with other records.
    pub(crate) fn set(&mut self, records: &[String]) {
        self.stop();
        let mut command = Command::new("dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
        ]);
        command.args(["--listen-address=127.0.0.1", "--local=/test/", "--user=root", "--pid-file", "--log-facility=-"]);
        command.arg(format!("--port={}", self.address.port())).arg(format!("--local-ttl={}", self.ttl));
        let child = command.args(records).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.child = Some(child.expect("dnsmasq is needed: apt-get install dnsmasq-base"));
        let end = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(self.address).is_err() {
            assert!(Instant::now() < end, "dnsmasq does not answer");
            std::thread::yield_now();
        }
    }

    /// Nobody answers any more.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A port that is free for UDP and TCP.
fn free() -> SocketAddr {
    loop {
        let tcp = TcpListener::bind(SocketAddr::from(ANY)).unwrap();
        let address = tcp.local_addr().unwrap();
        if UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}
