//! The TCP side: pingora accepts, rustls shakes hands, [`connection`](super::connection) speaks HTTP.
//!
//! TLS is done here rather than by pingora's acceptor so that the configuration can be swapped whole and the
//! handshake has a timeout of its own.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use pingora_core::apps::ServerApp;
use pingora_core::protocols::Stream;
use pingora_core::server::ShutdownWatch;
use tokio_rustls::TlsAcceptor;

use super::connection::{self, Peer, Shared};
use super::tls::{self, Certificates};

pub(super) struct App {
    pub(super) certificates: Arc<Certificates>,
    pub(super) shared: Arc<Shared>,
}

#[async_trait]
impl ServerApp for App {
    async fn process_new(self: &Arc<Self>, mut stream: Stream, _shutdown: &ShutdownWatch) -> Option<Stream> {
        // Before the handshake, which is the dear part. The place is kept as long as this task is or, once a WebSocket
        // has taken the connection over, as long as the socket.
        let place = self.shared.door.enter()?;
        let admitted = self.shared.drain.admit();
        let peer = stream.get_socket_digest().and_then(|d| d.peer_addr().and_then(|a| a.as_inet().copied()))?;
        let peer = match self.shared.config.proxy_protocol.client(peer, &mut stream).await {
            Ok(client) => client,
            Err(error) => {
                tracing::debug!(%peer, error = &error as &dyn std::error::Error, "connection refused");
                return None;
            }
        };
        if !self.shared.door.admits(peer.ip()) {
            return None;
        }
        let place = place.of(peer.ip(), &self.shared.door)?;
        let material = self.certificates.current();
        // Boxed, so that its room is given back when it is done.
        let handshake = Box::pin(TlsAcceptor::from(material.tcp.clone()).accept(stream));
        let stream = match tokio::time::timeout(self.certificates.handshake_timeout(), handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%peer, error = &error as &dyn std::error::Error, "handshake failed");
                return None;
            }
            Err(_elapsed) => {
                tracing::debug!(%peer, "handshake timed out");
                return None;
            }
        };
        let session = stream.get_ref().1;
        let http2 = session.alpn_protocol() == Some(b"h2");
        let peer = Peer { addr: canonical(peer), identity: tls::identity(session.peer_certificates()), early: None };
        // A task of its own, as large as it has to be: pingora's has room for what it has done before, for as long as it lasts.
        // The stream is boxed because a future has room for each place that it is moved to.
        let (stream, shared) = (Box::new(stream), self.shared.clone());
        tokio::spawn(async move {
            connection::serve(stream, place, http2, peer, shared).await;
            drop(admitted);
        });
        None
    }
}

/// An IPv4 client of a dual-stack socket, as IPv4.
pub(super) fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}
