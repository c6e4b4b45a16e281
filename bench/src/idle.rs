//! What an idle connection costs, of each kind: resident memory of the gateway before many are opened, while they are
//! open, and after they have been closed.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
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

/// What is opened, how, and how many KiB it may take.
struct Row {
    name: &'static str,
    kind: Kind,
    protocol: Protocol,
    goal: Option<u64>,
}

const fn row(name: &'static str, kind: Kind, protocol: Protocol, goal: Option<u64>) -> Row {
    Row { name, kind, protocol, goal }
}

const ROWS: [Row; 6] = [
    row("WebSocket, h1", Kind::WebSocket, Protocol::Http1, Some(20)),
    row("connection, h1", Kind::Connection, Protocol::Http1, None),
    row("connection, h2", Kind::Connection, Protocol::Http2, Some(20)),
    row("WebSocket, h2, a connection each", Kind::WebSocket, Protocol::Http2, None),
    row("connection, h3", Kind::Connection, Protocol::Http3, Some(48)),
    row("WebSocket, h3, a connection each", Kind::WebSocket, Protocol::Http3, None),
];

/// What one row measured.
struct Weighed {
    before: u64,
    open: u64,
    closed: u64,
    each: u64,
    given_back: f64,
    after: Duration,
}

pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    raise_descriptor_limit(arguments.sockets as u64 + SPARE_DESCRIPTORS)?;
    let head = [
        "idle",
        "gateway",
        "how many",
        "before MiB",
        "open MiB",
        "KiB each",
        "goal",
        "closed MiB",
        "given back",
        "after s",
    ];
    let mut table = Table::new(&head);
    let programs = [("now", None), ("beside", arguments.beside.clone())];
    let programs = programs.into_iter().filter(|(name, program)| *name == "now" || program.is_some());
    let programs: Vec<_> = programs.collect();
    let wanted = |row: &&Row| arguments.only.as_ref().is_none_or(|only| row.name.starts_with(only));
    for row in ROWS.iter().filter(wanted) {
        for (name, program) in &programs {
            let weighed = weigh(row, program.clone(), arguments.sockets).await?;
            let each = weighed.each as f64 / 1024.0;
            // A row takes a minute where not all is given back: whoever waits is told what there is.
            println!("{}, {name}: {each:.1} KiB each, {:.0} % given back", row.name, weighed.given_back * 100.0);
            table.row([
                row.name.to_owned(),
                (*name).to_owned(),
                arguments.sockets.to_string(),
                (weighed.before >> 20).to_string(),
                (weighed.open >> 20).to_string(),
                format!("{each:.1}"),
                row.goal.map_or_else(|| "–".to_owned(), |goal| format!("≤ {goal}")),
                (weighed.closed >> 20).to_string(),
                format!("{:.0} %", 100.0 * weighed.given_back),
                format!("{:.1}", weighed.after.as_secs_f64()),
            ]);
        }
    }
    println!();
    table.print();
    Ok(())
}

async fn weigh(row: &Row, program: Option<PathBuf>, sockets: usize) -> Result<Weighed> {
    // A gateway of its own: what an earlier run left in its allocator would be counted.
    let server = Server::start_program(program, &SETTINGS)?;
    let resident = || server.cluster.gateway().resident_bytes();
    // Past the first handshakes, whatever is made once has been made.
    let warm = open(&server, row.kind, row.protocol, OPENING).await?;
    let before = resident()?;
    let mut idle = open(&server, row.kind, row.protocol, sockets).await?;
    for one in idle.iter_mut().take(OPENING) {
        one.is_alive().await?;
    }
    let open = resident()?;
    let each = open.saturating_sub(before) / idle.len().max(1) as u64;
    drop(idle);
    let gone = Instant::now();
    let taken = open.saturating_sub(before).max(1);
    let given_back = || resident().map(|now| open.saturating_sub(now) as f64 / taken as f64);
    while given_back()? < GIVEN_BACK && gone.elapsed() < GIVING_BACK {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(warm);
    Ok(Weighed { before, open, each, given_back: given_back()?, closed: resident()?, after: gone.elapsed() })
}

/// Nothing but the number of connections is to end the measurement: 100,000 take longer to open than a silent one stays.
const SETTINGS: [(&str, &str); 6] = [
    ("NEARFIELD_LISTENER__IDLE_TIMEOUT", "1h"),
    ("NEARFIELD_WEBSOCKET__PING_INTERVAL", "1h"),
    ("NEARFIELD_WEBSOCKET__IDLE_TIMEOUT", "2h"),
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
