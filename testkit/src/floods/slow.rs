//! Floods that do next to nothing, on many connections. A round ends when the server has closed all of them.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::join_all;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::{Target, connect, http2, until_closed};
use crate::client::Protocol;

/// Connections of a round.
const AT_ONCE: usize = 40;
/// Between two bytes.
const DRIP: Duration = Duration::from_millis(100);
/// Requests on each connection whose answers nobody takes.
const UNREAD: usize = 100;
/// Connections that are opened at most, by one who wants all there are.
const MOST: usize = 5_000;
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Sends `first`, then a byte now and then, until the server closes.
async fn drip(target: &Target, protocol: Protocol, first: Vec<u8>, byte: Option<u8>) -> Result<()> {
    let (read, mut write) = tokio::io::split(connect(target, protocol).await?);
    let sending = async {
        write.write_all(&first).await?;
        let mut drips = tokio::time::interval(DRIP);
        loop {
            drips.tick().await;
            if let Some(byte) = byte {
                write.write_all(&[byte]).await?;
                write.flush().await?;
            }
        }
    };
    until_closed(sending, read).await;
    Ok(())
}

async fn all(rounds: impl Iterator<Item = impl Future<Output = Result<()>>>) -> Result<()> {
    join_all(rounds).await.into_iter().collect()
}

pub(super) async fn headers(target: &Target) -> Result<()> {
    all((0..AT_ONCE).map(|i| {
        if i % 2 == 0 {
            drip(target, Protocol::Http1, b"GET / HTTP/1.1\r\nHost: x\r\nx-slow: ".to_vec(), Some(b'x'))
        } else {
            drip(target, Protocol::Http2, http2::begun(), Some(0))
        }
    }))
    .await
}

pub(super) async fn body(target: &Target) -> Result<()> {
    let head = format!(
        "POST /api/v1/search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\
         Authorization: Bearer {}\r\n\r\n",
        target.token
    );
    all((0..AT_ONCE).map(|_| drip(target, Protocol::Http1, head.clone().into_bytes(), Some(b' ')))).await
}

pub(super) async fn read(target: &Target) -> Result<()> {
    all((0..AT_ONCE).map(|_| drip(target, Protocol::Http2, http2::unread(UNREAD), None))).await
}

/// Opens connections and keeps them until one is refused.
pub(super) async fn connections(target: &Target) -> Result<()> {
    let mut kept: Vec<TlsStream<TcpStream>> = Vec::new();
    while kept.len() < MOST {
        match tokio::time::timeout(HANDSHAKE, connect(target, Protocol::Http2)).await {
            Ok(Ok(stream)) => kept.push(stream),
            Ok(Err(_)) | Err(_) => {
                ensure!(!kept.is_empty(), "not even one is let in");
                return Ok(());
            }
        }
    }
    // All were let in: they are kept until time is up.
    std::future::pending().await
}
