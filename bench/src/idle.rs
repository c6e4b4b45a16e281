//! What an idle connection costs, of each kind: resident memory of the gateway before many are opened, while they are
//! open, and after they have been closed.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use nearfield_testkit::{Client, Protocol, WebSocket};
use serde_json::json;

use crate::Arguments;
use crate::server::Server;
use crate::table::Table;

/// Handshakes under way at once.
const OPENING: usize = 16;
/// Descriptors needed beside the sockets.
const SPARE_DESCRIPTORS: u64 = 200;
/// Connections from one address: below the ports that the kernel gives out by itself.
const PER_SOURCE: usize = 20_000;
/// How long after its connections have gone a gateway may take to give their memory back.
const GIVING_BACK: Duration = Duration::from_secs(60);
/// Of what they took.
const GIVEN_BACK: f64 = 0.9;

/// A connection that nothing happens on.
enum Idle {
    /// After one request.
    Connection(Client),
    WebSocket(Box<WebSocket>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Connection,
    WebSocket,
}

const KINDS: [(&str, Kind, Protocol); 6] = [
    ("WebSocket, h1", Kind::WebSocket, Protocol::Http1),
    ("connection, h1", Kind::Connection, Protocol::Http1),
    ("connection, h2", Kind::Connection, Protocol::Http2),
    ("WebSocket, h2, a connection each", Kind::WebSocket, Protocol::Http2),
    ("connection, h3", Kind::Connection, Protocol::Http3),
    ("WebSocket, h3, a connection each", Kind::WebSocket, Protocol::Http3),
];

pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    raise_descriptor_limit(arguments.sockets as u64 + SPARE_DESCRIPTORS)?;
    let mut table = Table::new(&[
        "idle",
        "how many",
        "before MiB",
        "open MiB",
        "bytes each",
        "closed MiB",
        "given back",
        "after s",
    ]);
    for (name, kind, protocol) in KINDS {
        // A gateway of its own: what an earlier run left in its allocator would be counted.
        let server = Server::start_with(&SETTINGS)?;
        let resident = || server.cluster.gateway().resident_bytes();
        // Past the first handshakes, whatever is made once has been made.
        let warm = open(&server, kind, protocol, OPENING).await?;
        let before = resident()?;
        let mut idle = open(&server, kind, protocol, arguments.sockets).await?;
        for one in idle.iter_mut().take(OPENING) {
            one.is_alive().await?;
        }
        let open = resident()?;
        let count = idle.len();
        drop(idle);
        let closed = Instant::now();
        let taken = open.saturating_sub(before).max(1);
        let given_back = || resident().map(|now| open.saturating_sub(now) as f64 / taken as f64);
        while given_back()? < GIVEN_BACK && closed.elapsed() < GIVING_BACK {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        table.row([
            name.to_owned(),
            count.to_string(),
            (before >> 20).to_string(),
            (open >> 20).to_string(),
            (taken / count as u64).to_string(),
            (resident()? >> 20).to_string(),
            format!("{:.0} %", 100.0 * given_back()?),
            format!("{:.1}", closed.elapsed().as_secs_f64()),
        ]);
        drop(warm);
    }
    table.print();
    Ok(())
}

/// Nothing but the number of connections is to end the measurement.
const SETTINGS: [(&str, &str); 4] = [
    ("NEARFIELD_LISTENER__IDLE_TIMEOUT", "1h"),
    ("NEARFIELD_LISTENER__MAX_CONNECTIONS", "1000000"),
    ("NEARFIELD_LISTENER__MAX_CONNECTIONS_PER_CLIENT", "1000000"),
    ("NEARFIELD_SHED__MAX_STREAMS", "1000000"),
];

impl Idle {
    async fn open(client: Client, kind: Kind) -> Result<Self> {
        if kind == Kind::WebSocket {
            return Ok(Self::WebSocket(Box::new(WebSocket::connect(&client).await?)));
        }
        client.get("/health/ready").send().await?.expect(200)?;
        Ok(Self::Connection(client))
    }

    async fn is_alive(&mut self) -> Result<()> {
        match self {
            Self::WebSocket(socket) => {
                socket.send(&json!({"type": "ping", "id": "p"})).await?;
                socket.until("p", &["pong"]).await.context("the sockets are alive").map(drop)
            }
            Self::Connection(client) => client.get("/health/ready").send().await?.expect(200).map(drop),
        }
    }
}

async fn open(server: &Server, kind: Kind, protocol: Protocol, count: usize) -> Result<Vec<Idle>> {
    let client = server.client(protocol)?;
    let opening = (0..count).map(|i| {
        let source = Ipv4Addr::new(127, 0, 0, u8::try_from(1 + i / PER_SOURCE).unwrap_or(u8::MAX));
        Idle::open(client.from_source(IpAddr::V4(source)), kind)
    });
    futures::stream::iter(opening).buffer_unordered(OPENING).try_collect().await
}

/// For this process and the ones that it starts. Root may go past the limit that it was given.
pub(crate) fn raise_descriptor_limit(wanted: u64) -> Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for the kernel to fill in.
    anyhow::ensure!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0, "getrlimit");
    if limit.rlim_cur >= wanted {
        return Ok(());
    }
    let raised = libc::rlimit { rlim_cur: wanted, rlim_max: limit.rlim_max.max(wanted) };
    // SAFETY: `raised` is a valid rlimit.
    let done = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raised) } == 0;
    anyhow::ensure!(done, "{wanted} file descriptors are needed, {} are allowed", limit.rlim_max);
    Ok(())
}
