//! QUIC without HTTP/3 on it: streams that carry bytes of a test's own choosing.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;

use super::connection::Way;
use super::{Protocol, http3, tls};

/// A connection, with the endpoint that it ends with.
pub struct Quic {
    pub connection: quinn::Connection,
    _endpoint: quinn::Endpoint,
}

impl Quic {
    /// To the server at `addr`, trusting the CA in `ca`, by HTTP/3's name (ALPN).
    pub async fn connect(addr: SocketAddr, ca: &Path) -> Result<Self> {
        crate::install_crypto_provider();
        let tls = Arc::new(tls::config(Some(ca), Protocol::Http3)?);
        let (endpoint, connection) = http3::quic(Way { to: addr, from: None }, &addr.ip().to_string(), &tls).await?;
        Ok(Self { connection, _endpoint: endpoint })
    }
}
