//! A way for datagrams between a client and a gateway. What the client sends before it knows anything of the server goes
//! through at once; what the server says, and what the client says behind it, wait until they are let go.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Longer than any datagram of QUIC's on loopback.
const DATAGRAM: usize = 65_536;

pub(crate) struct Way {
    pub(crate) addr: SocketAddr,
    /// What the client sent before it could know anything of the server.
    pub(crate) first: Arc<Mutex<Vec<Vec<u8>>>>,
    back: CancellationToken,
    there: CancellationToken,
    _task: AbortOnDropHandle<()>,
}

impl Way {
    pub(crate) async fn to(gateway: SocketAddr) -> Self {
        let client_side = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server_side = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        server_side.connect(gateway).await.unwrap();
        let addr = client_side.local_addr().unwrap();
        let first = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let (back, there) = (CancellationToken::new(), CancellationToken::new());
        let task = tokio::spawn(pass((client_side, server_side), first.clone(), (there.clone(), back.clone())));
        Self { addr, first, back, there, _task: AbortOnDropHandle::new(task) }
    }

    /// Lets go what the server says.
    pub(crate) fn answer(&self) {
        self.back.cancel();
    }

    /// Lets go what the client says behind its first flight.
    pub(crate) fn finish(&self) {
        self.there.cancel();
    }
}

/// Datagrams that wait; none: they do not wait any more.
type Waiting = Option<Vec<Vec<u8>>>;

async fn pass(
    (client, server): (UdpSocket, UdpSocket),
    first: Arc<Mutex<Vec<Vec<u8>>>>,
    (there, back): (CancellationToken, CancellationToken),
) {
    let (mut asked, mut answered) = (vec![0; DATAGRAM], vec![0; DATAGRAM]);
    let (mut going, mut coming): (Waiting, Waiting) = (Some(Vec::new()), Some(Vec::new()));
    let mut peer = None;
    loop {
        tokio::select! {
            // Whoever has gone is not written to.
            Ok((length, from)) = client.recv_from(&mut asked) => {
                peer = Some(from);
                let datagram = &asked[..length];
                match &mut going {
                    Some(waiting) if !is_of_first_flight(datagram) => waiting.push(datagram.to_vec()),
                    Some(_) => {
                        first.lock().push(datagram.to_vec());
                        let _gone = server.send(datagram).await;
                    }
                    None => {
                        let _gone = server.send(datagram).await;
                    }
                }
            }
            Ok(length) = server.recv(&mut answered) => match (&mut coming, peer) {
                (Some(waiting), _) => waiting.push(answered[..length].to_vec()),
                (None, Some(peer)) => {
                    let _gone = client.send_to(&answered[..length], peer).await;
                }
                (None, None) => {}
            },
            () = there.cancelled(), if going.is_some() => {
                for datagram in going.take().unwrap_or_default() {
                    let _gone = server.send(&datagram).await;
                }
            }
            () = back.cancelled(), if coming.is_some() => {
                let Some(peer) = peer else { continue };
                for datagram in coming.take().unwrap_or_default() {
                    let _gone = client.send_to(&datagram, peer).await;
                }
            }
        }
    }
}

/// Whether its packets are all Initial or 0-RTT (RFC 9000 section 17.2).
fn is_of_first_flight(mut datagram: &[u8]) -> bool {
    const LONG: u8 = 0x80;
    const KIND: u8 = 0x30;
    const INITIAL: u8 = 0x00;
    const EARLY: u8 = 0x10;
    while let Some(&first) = datagram.first() {
        let kind = first & KIND;
        if first & LONG == 0 || ![INITIAL, EARLY].contains(&kind) {
            return false;
        }
        // Past the version, then both connection ids.
        let mut rest = &datagram[5..];
        for _ in 0..2 {
            rest = &rest[1 + usize::from(rest[0])..];
        }
        if kind == INITIAL {
            let token = varint(&mut rest);
            rest = &rest[token..];
        }
        let length = varint(&mut rest);
        datagram = &rest[length..];
    }
    true
}

/// RFC 9000 section 16.
fn varint(bytes: &mut &[u8]) -> usize {
    let length = 1 << (bytes[0] >> 6);
    let (mut value, rest) = (usize::from(bytes[0] & 0x3f), &bytes[length..]);
    for byte in &bytes[1..length] {
        value = value << 8 | usize::from(*byte);
    }
    *bytes = rest;
    value
}
