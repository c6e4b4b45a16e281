//! What an idle WebSocket costs: resident memory of the gateway before and after many are opened.

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use nearfield_testkit::{Protocol, WebSocket};
use serde_json::json;

use crate::Arguments;
use crate::server::Server;
use crate::table::Table;

/// Handshakes under way at once.
const OPENING: usize = 16;
/// Descriptors needed beside the sockets.
const SPARE_DESCRIPTORS: u64 = 200;

pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    raise_descriptor_limit(arguments.sockets as u64 + SPARE_DESCRIPTORS)?;
    let mut table = Table::new(&["idle WebSockets", "over", "before MiB", "after MiB", "bytes each"]);
    for protocol in [Protocol::Http1, Protocol::Http2] {
        // A gateway of its own: what an earlier run left in its allocator would be counted.
        let server = Server::start()?;
        // Past the first handshakes, whatever is made once has been made.
        let warm = open(&server, protocol, OPENING).await?;
        let before = server.cluster.gateway().resident_bytes()?;
        let mut sockets = open(&server, protocol, arguments.sockets).await?;
        for socket in sockets.iter_mut().take(OPENING) {
            socket.send(&json!({"type": "ping", "id": "p"})).await?;
            socket.until("p", &["pong"]).await.context("the sockets are alive")?;
        }
        let after = server.cluster.gateway().resident_bytes()?;
        table.row([
            sockets.len().to_string(),
            format!("TLS, {}", if protocol == Protocol::Http1 { "h1" } else { "h2, a connection each" }),
            (before >> 20).to_string(),
            (after >> 20).to_string(),
            (after.saturating_sub(before) / sockets.len() as u64).to_string(),
        ]);
        drop(warm);
    }
    table.print();
    Ok(())
}

async fn open(server: &Server, protocol: Protocol, count: usize) -> Result<Vec<WebSocket>> {
    let client = server.client(protocol)?;
    let opening = (0..count).map(|_| WebSocket::connect(&client));
    futures::stream::iter(opening).buffer_unordered(OPENING).try_collect().await
}

/// For this process and the ones that it starts.
fn raise_descriptor_limit(wanted: u64) -> Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for the kernel to fill in.
    anyhow::ensure!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0, "getrlimit");
    if limit.rlim_cur < wanted {
        limit.rlim_cur = wanted.min(limit.rlim_max);
        // SAFETY: `limit` is a valid rlimit.
        anyhow::ensure!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } == 0, "setrlimit");
    }
    anyhow::ensure!(limit.rlim_cur >= wanted, "{wanted} file descriptors are needed, {} are allowed", limit.rlim_max);
    Ok(())
}
