//! Bytes of one's own choosing over a TLS connection to the shared server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use nearfield_testkit::{Protocol, tls};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::space::dev;

/// How long the first byte of an answer may take, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Without a byte for so long after the first one, nothing more is expected.
const QUIET: Duration = Duration::from_millis(300);
const MOST: usize = 1 << 20;

pub(crate) fn address() -> Result<SocketAddr> {
    Ok(dev()?.client(Protocol::Http2)?.addr())
}

/// A configuration for many connections.
pub(crate) fn connector(protocol: Protocol) -> Result<TlsConnector> {
    Ok(TlsConnector::from(Arc::new(tls::config(Some(&dev()?.ca()), protocol)?)))
}

pub(crate) async fn connect(connector: &TlsConnector) -> Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address()?).await?;
    stream.set_nodelay(true)?;
    Ok(connector.connect(ServerName::try_from("127.0.0.1")?, stream).await?)
}

/// What came, and whether the server closed behind it.
pub(crate) struct Heard {
    pub(crate) bytes: Vec<u8>,
    pub(crate) closed: bool,
}

/// Reads until the server closes, or is quiet after it has said something.
pub(crate) async fn listen(stream: &mut TlsStream<TcpStream>) -> Heard {
    let mut bytes = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        let patience = if bytes.is_empty() { PATIENCE } else { QUIET };
        match tokio::time::timeout(patience, stream.read(&mut buffer)).await {
            Ok(Ok(n)) if n > 0 && bytes.len() < MOST => bytes.extend_from_slice(&buffer[..n]),
            Ok(_) => return Heard { bytes, closed: true },
            Err(_quiet) => return Heard { bytes, closed: false },
        }
    }
}

/// Writes all of it, unless the server has hung up already, which what it said tells.
pub(crate) async fn say(stream: &mut TlsStream<TcpStream>, bytes: &[u8]) {
    let _ = tokio::time::timeout(PATIENCE, async {
        stream.write_all(bytes).await?;
        stream.flush().await
    })
    .await;
}
