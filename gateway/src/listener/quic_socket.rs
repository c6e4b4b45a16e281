//! The UDP socket under QUIC, which two processes share while one takes over from the other.
//!
//! The newer one reads it. Datagrams for the older one's connections, which it knows by their ids, it relays over a local
//! socket; the older one goes on sending by itself. So a connection lives in the process that it began in, until that
//! has drained. A full relay drops datagrams, as any network may.
//!
//! Here too is where a client is not heard that begins handshakes without an end: further in, each of its datagrams would cost
//! the keys that it is read with. When there are many, they are left to the kernel ([`Sieve`]).

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use arc_swap::ArcSwap;
use futures::task::AtomicWaker;
use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use rustix::net::{RecvFlags, SendFlags};
use tokio::io::unix::AsyncFd;

use super::door::Door;
use super::quic_ids::{Mark, begins};
use super::quic_sieve::Sieve;

/// Who reads the socket.
enum Reader {
    /// The process before, still.
    Elder,
    Own,
    /// The process after, which relays what is ours.
    Successor(AsyncFd<OwnedFd>),
}

/// An older process that drains.
pub(crate) struct Elder {
    pub(crate) mark: Mark,
    pub(crate) relay: OwnedFd,
    gone: AtomicBool,
}

impl Elder {
    pub(crate) fn new(mark: Mark, relay: OwnedFd) -> Arc<Self> {
        Arc::new(Self { mark, relay, gone: AtomicBool::new(false) })
    }
}

pub(crate) struct SharedSocket {
    socket: Arc<dyn AsyncUdpSocket>,
    reader: ArcSwap<Reader>,
    elders: ArcSwap<Vec<Arc<Elder>>>,
    door: Arc<Door>,
    sieve: Sieve,
    /// The endpoint, when it waits for another reader.
    waker: AtomicWaker,
}

impl SharedSocket {
    /// Around a socket that nobody else reads, or that `elders` still do.
    pub(super) fn new(
        socket: Arc<dyn AsyncUdpSocket>,
        elders: Vec<Arc<Elder>>,
        door: Arc<Door>,
        sieve: Sieve,
    ) -> Arc<Self> {
        let reader = if elders.is_empty() { Reader::Own } else { Reader::Elder };
        Arc::new(Self {
            socket,
            reader: ArcSwap::from_pointee(reader),
            elders: ArcSwap::from_pointee(elders),
            door,
            sieve,
            waker: AtomicWaker::new(),
        })
    }

    pub(crate) fn elders(&self) -> Vec<Arc<Elder>> {
        self.elders.load().iter().filter(|elder| !elder.gone.load(Ordering::Relaxed)).cloned().collect()
    }

    /// The older process has stopped reading.
    pub(crate) fn take(&self) {
        self.sieve.open();
        self.read_by(Reader::Own);
    }

    /// Reads no more from the network, but what a newer process relays. Needs a tokio runtime around it.
    ///
    /// # Errors
    /// A relay that cannot be waited for.
    pub(crate) fn give(&self, relay: OwnedFd) -> io::Result<()> {
        // SAFETY: an `OwnedFd` is open until it is dropped, and is always the same descriptor.
        let relay = unsafe { AsyncFd::register(relay) }?;
        self.read_by(Reader::Successor(relay));
        Ok(())
    }

    fn read_by(&self, reader: Reader) {
        self.reader.store(Arc::new(reader));
        self.waker.wake();
    }

    /// Whether a datagram is for this process's endpoint. One that is an elder's is relayed.
    fn keeps(&self, elders: &[Arc<Elder>], datagram: &[u8], meta: &RecvMeta) -> bool {
        match elders.iter().find(|elder| elder.mark.is_on(datagram)) {
            Some(elder) => {
                elder.send(datagram, meta);
                false
            }
            None => {
                let client = meta.addr.ip();
                let heard = !begins(datagram) || self.door.hears(client);
                if !heard {
                    self.sieve.unheard(client);
                }
                heard
            }
        }
    }
}

/// Drops those of the datagrams in `buffer` that are not to be kept, and closes the gaps.
fn retain(buffer: &mut [u8], meta: &mut RecvMeta, mut keeps: impl FnMut(&[u8], &RecvMeta) -> bool) {
    let (mut read, mut kept) = (0, 0);
    while read < meta.len {
        let end = (read + meta.stride.max(1)).min(meta.len);
        if keeps(&buffer[read..end], meta) {
            if kept < read {
                buffer.copy_within(read..end, kept);
            }
            kept += end - read;
        }
        read = end;
    }
    meta.len = kept;
}

impl Elder {
    fn send(&self, datagram: &[u8], meta: &RecvMeta) {
        let header = Header::of(meta).encode();
        let parts = [io::IoSlice::new(&header), io::IoSlice::new(datagram)];
        let mut nothing = rustix::net::SendAncillaryBuffer::default();
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match rustix::net::sendmsg(&self.relay, &parts, &mut nothing, flags) {
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::NOBUFS) => {}
            // It has drained.
            Err(_closed) => self.gone.store(true, Ordering::Relaxed),
        }
    }
}

/// Datagrams of a connection that one system call takes. quinn keeps room for as many, of the largest size, with each connection for
/// as long as it lasts; answers have one or two, and twice as many would be 6 KB of an idle connection.
const SEGMENTS: usize = 4;

/// What is known of a relayed datagram beside its bytes.
struct Header {
    source: SocketAddr,
    ecn: u8,
    destination: Option<IpAddr>,
}

const HEADER_LEN: usize = 40;
const V4: u8 = 1;
const HAS_DESTINATION: u8 = 2;
const DESTINATION_V4: u8 = 4;

impl Header {
    fn of(meta: &RecvMeta) -> Self {
        Self { source: meta.addr, ecn: meta.ecn.map_or(0, |ecn| ecn as u8), destination: meta.dst_ip }
    }

    fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let scope = if let SocketAddr::V6(v6) = self.source { v6.scope_id() } else { 0 };
        bytes[0] = u8::from(self.source.is_ipv4()) * V4;
        bytes[1] = self.ecn;
        bytes[2..4].copy_from_slice(&self.source.port().to_be_bytes());
        bytes[4..8].copy_from_slice(&scope.to_be_bytes());
        bytes[8..24].copy_from_slice(&wide(self.source.ip()));
        if let Some(destination) = self.destination {
            bytes[0] |= HAS_DESTINATION;
            bytes[0] |= u8::from(destination.is_ipv4()) * DESTINATION_V4;
            bytes[24..40].copy_from_slice(&wide(destination));
        }
        bytes
    }

    fn decode(bytes: &[u8; HEADER_LEN]) -> Self {
        let [kind, ecn, port @ .., _, _, _, _] = *bytes.first_chunk::<8>().unwrap_or(&[0; 8]);
        let word = |at: usize| bytes[at..at + 4].try_into().map_or(0, u32::from_be_bytes);
        let ip = |at: usize, is_v4| narrow(bytes[at..at + 16].try_into().unwrap_or_default(), is_v4);
        let port = u16::from_be_bytes(port);
        let source = match ip(8, kind & V4 != 0) {
            IpAddr::V6(v6) => SocketAddr::V6(SocketAddrV6::new(v6, port, 0, word(4))),
            v4 => SocketAddr::new(v4, port),
        };
        let destination = (kind & HAS_DESTINATION != 0).then(|| ip(24, kind & DESTINATION_V4 != 0));
        Self { source, ecn, destination }
    }
}

fn wide(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn narrow(octets: [u8; 16], is_v4: bool) -> IpAddr {
    let v6 = Ipv6Addr::from(octets);
    if is_v4 { v6.to_canonical() } else { IpAddr::V6(v6) }
}

fn receive(relay: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<RecvMeta>> {
    let mut header = [0; HEADER_LEN];
    let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(buffer)];
    let mut nothing = rustix::net::RecvAncillaryBuffer::default();
    let read = rustix::net::recvmsg(relay, &mut parts, &mut nothing, RecvFlags::DONTWAIT)?.bytes;
    // The successor is gone when there is nothing.
    let Some(len) = read.checked_sub(HEADER_LEN) else { return Ok(None) };
    let Header { source, ecn, destination } = Header::decode(&header);
    let ecn = if ecn == 0 { None } else { EcnCodepoint::from_bits(ecn) };
    let mut meta = RecvMeta::default();
    (meta.addr, meta.len, meta.stride, meta.ecn, meta.dst_ip) = (source, len, len, ecn, destination);
    Ok(Some(meta))
}

impl AsyncUdpSocket for SharedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.socket.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        // Before the reader is looked at: whoever changes it then wakes this.
        self.waker.register(cx.waker());
        let reader = self.reader.load();
        match &**reader {
            Reader::Elder => Poll::Pending,
            Reader::Own => {
                let received = ready!(self.socket.poll_recv(cx, bufs, meta))?;
                let elders = self.elders.load();
                for (buffer, meta) in bufs.iter_mut().zip(meta).take(received) {
                    retain(buffer, meta, |datagram, meta| self.keeps(&elders, datagram, meta));
                }
                if elders.iter().any(|elder| elder.gone.load(Ordering::Relaxed)) {
                    self.elders.store(Arc::new(self.elders()));
                }
                Poll::Ready(Ok(received))
            }
            Reader::Successor(relay) => {
                let (Some(buffer), Some(meta)) = (bufs.first_mut(), meta.first_mut()) else { return Poll::Pending };
                loop {
                    let mut guard = ready!(relay.poll_read_ready(cx))?;
                    match guard.try_io(|relay| receive(relay.get_ref(), buffer)) {
                        Ok(Ok(Some(received))) => {
                            *meta = received;
                            return Poll::Ready(Ok(1));
                        }
                        // Nothing comes any more; what is left drains by its timeouts.
                        Ok(Ok(None)) => return Poll::Pending,
                        Ok(Err(error)) => return Poll::Ready(Err(error)),
                        Err(_would_block) => {}
                    }
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments().min(SEGMENTS)
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

impl fmt::Debug for SharedSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSocket").field("socket", &self.socket).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    #[test]
    fn what_is_known_of_a_datagram_survives_the_relay() {
        let v6 = SocketAddr::V6(SocketAddrV6::new("fe80::7".parse().unwrap(), 9, 0, 3));
        let sources = ["192.0.2.1:4433".parse().unwrap(), "[2001:db8::1]:1".parse().unwrap(), v6];
        let destinations = [None, Some("192.0.2.9".parse().unwrap()), Some("::1".parse().unwrap())];
        for source in sources {
            for destination in destinations {
                let back = Header::decode(&Header { source, ecn: 2, destination }.encode());
                assert_eq!((back.source, back.ecn, back.destination), (source, 2, destination));
            }
        }
    }

    #[test]
    fn an_elders_datagrams_are_taken_out_of_a_batch_and_come_out_of_its_relay() {
        use quinn::ConnectionIdGenerator;
        let (mine, theirs) = (Mark::random().unwrap(), Mark::random().unwrap());
        let (sending, receiving) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::NONBLOCK, None).unwrap();
        let elder = Elder::new(theirs, sending);
        let datagram = |mut mark: Mark, text: &[u8]| [&[0x40][..], &mark.generate_cid(), text].concat();
        let parts = [datagram(theirs, b"one"), datagram(mine, b"two"), datagram(theirs, b"thr"), datagram(mine, b"f")];
        let mut batch = parts.concat();
        let mut meta = RecvMeta::default();
        (meta.addr, meta.len, meta.stride) = ("192.0.2.1:4433".parse().unwrap(), batch.len(), 12);
        retain(&mut batch, &mut meta, |datagram, meta| {
            let theirs = elder.mark.is_on(datagram);
            if theirs {
                elder.send(datagram, meta);
            }
            !theirs
        });
        assert_eq!(batch[..meta.len], [&parts[1][..], &parts[3]].concat());
        let mut buffer = [0; 100];
        for expected in [&parts[0], &parts[2]] {
            let received = receive(&receiving, &mut buffer).unwrap().unwrap();
            assert_eq!((&buffer[..received.len], received.addr), (&expected[..], meta.addr));
        }
        assert_eq!(receive(&receiving, &mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(receiving);
        elder.send(&parts[0], &meta);
        assert!(elder.gone.load(Ordering::Relaxed), "it has drained");
    }
}
