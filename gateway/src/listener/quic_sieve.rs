//! Keeps out of the process what it would not hear: of a client that sends first datagrams without an end, the kernel drops
//! them at the socket, in the time of whoever sends them.
//!
//! To read one and drop it costs the gateway about what it costs to send one, so a core that floods would take one of ours. A
//! socket filter (classic BPF, which needs no privilege) looks at the source and at the one byte that says what a datagram is.
//! Only Initials are dropped so: what belongs to a connection passes, from the same address too. Where there are no such
//! filters, datagrams are dropped in the process as before.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use socket2::Socket;

use crate::layers::rate_limit::by_address;
use crate::layers::rate_limit::limiter::Key;

/// Datagrams of a client that were not heard, after which the kernel drops more of them.
const UNHEARD_MIN: u32 = 100;
/// Clients that are kept out at once. The program that they make has a bounded length; others are dropped in the process.
const MOST: usize = 16;
/// How long the kernel drops them. Then who still floods is counted anew.
const LASTS: Duration = Duration::from_secs(1);

/// Clones are the same.
#[derive(Clone)]
pub(super) struct Sieve(Arc<Inner>);

struct Inner {
    socket: Socket,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Of the last who were not heard, how often each was.
    unheard: Vec<(Key, IpAddr, u32)>,
    /// A task that lets all in again is under way.
    ends: bool,
}

impl Sieve {
    /// For `socket`, which may be another descriptor of the same.
    pub(super) fn new(socket: Socket) -> Self {
        Self(Arc::new(Inner { socket, known: Mutex::default() }))
    }

    /// Lets everybody in: what another process has left at the socket is not ours.
    pub(super) fn open(&self) {
        self.let_in(&mut self.0.known.lock());
    }

    fn let_in(&self, known: &mut Known) {
        known.unheard.clear();
        // There may be none.
        let _none = program::detach(&self.0.socket);
    }

    /// A first datagram of `client` was not heard. Needs a tokio runtime around it.
    pub(super) fn unheard(&self, client: IpAddr) {
        let key = by_address::client(client);
        let mut known = self.0.known.lock();
        if known.unheard.len() < MOST && known.unheard.iter().all(|(other, ..)| *other != key) {
            known.unheard.push((key, client, 0));
        }
        let Some((.., count)) = known.unheard.iter_mut().find(|(other, ..)| *other == key) else { return };
        *count = count.saturating_add(1);
        if *count == UNHEARD_MIN {
            let out = known.unheard.iter().filter(|(.., count)| *count >= UNHEARD_MIN).map(|(_, client, _)| *client);
            if let Err(error) = program::attach(&self.0.socket, &out.collect::<Vec<_>>()) {
                tracing::debug!(error = &error as &dyn std::error::Error, "the kernel takes no filter");
            }
        }
        if !std::mem::replace(&mut known.ends, true) {
            let sieve = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(LASTS).await;
                // Under one lock: a filter that came in between would have nobody to take it away.
                let mut known = sieve.0.known.lock();
                sieve.let_in(&mut known);
                known.ends = false;
            });
        }
    }
}

#[cfg(target_os = "linux")]
mod program {
    use socket2::SockFilter;

    use super::*;

    /// What a filter sees begins with the UDP header.
    const FIRST_BYTE: u32 = 8;
    /// A long header, and of its kinds the Initial, in version 1 (RFC 9000 section 17.2).
    const KIND: u32 = 0xb0;
    const INITIAL: u32 = 0x80;
    /// Where the IP header has the source's address.
    const SOURCE_V4: u32 = 12;
    const SOURCE_V6: u32 = 8;
    const WORD: u32 = 4;
    const PASS: u32 = u32::MAX;
    const DROP: u32 = 0;

    fn load_byte(at: u32) -> SockFilter {
        SockFilter::new((libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16, 0, 0, at)
    }

    fn load_of_ip(at: u32) -> SockFilter {
        let at = (libc::SKF_NET_OFF as u32).wrapping_add(at);
        SockFilter::new((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, 0, 0, at)
    }

    fn and(mask: u32) -> SockFilter {
        SockFilter::new((libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16, 0, 0, mask)
    }

    /// Goes so many steps further than the next.
    fn equal(value: u32, then: u8, otherwise: u8) -> SockFilter {
        SockFilter::new((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, then, otherwise, value)
    }

    fn end(with: u32) -> SockFilter {
        SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, with)
    }

    /// Drops Initials that come from `clients`, who are of the socket's own family: IPv4 addresses, or networks of 64 bits.
    pub(super) fn attach(socket: &Socket, clients: &[IpAddr]) -> io::Result<()> {
        let mut steps = vec![load_byte(FIRST_BYTE), and(KIND), equal(INITIAL, 1, 0), end(PASS)];
        for client in clients {
            match client {
                IpAddr::V4(v4) => {
                    steps.extend([load_of_ip(SOURCE_V4), equal(u32::from(*v4), 0, 1), end(DROP)]);
                }
                IpAddr::V6(v6) => {
                    let network = (u128::from(*v6) >> 64) as u64;
                    let (high, low) = ((network >> 32) as u32, network as u32);
                    steps.extend([load_of_ip(SOURCE_V6), equal(high, 0, 3)]);
                    steps.extend([load_of_ip(SOURCE_V6 + WORD), equal(low, 0, 1), end(DROP)]);
                }
            }
        }
        steps.push(end(PASS));
        socket.attach_filter(&steps)
    }

    pub(super) fn detach(socket: &Socket) -> io::Result<()> {
        socket.detach_filter()
    }
}

#[cfg(not(target_os = "linux"))]
mod program {
    use super::*;

    pub(super) fn attach(_socket: &Socket, _clients: &[IpAddr]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn detach(_socket: &Socket) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    const INITIAL: &[u8] = &[0xc3, 0, 0, 0, 1];
    const HANDSHAKE: &[u8] = &[0xe3, 0, 0, 0, 1];
    const SHORT: &[u8] = &[0x43, 0, 0, 0, 1];

    /// What comes through, of what was sent from each address.
    fn received(socket: &UdpSocket, sent: &[(&str, &[u8])]) -> Vec<(String, u8)> {
        let to = socket.local_addr().unwrap();
        for (from, datagram) in sent {
            UdpSocket::bind((*from, 0)).unwrap().send_to(datagram, to).unwrap();
        }
        let mut buffer = [0; 100];
        std::iter::from_fn(|| socket.recv_from(&mut buffer).ok().map(|(_, from)| (from.ip().to_string(), buffer[0])))
            .collect()
    }

    fn listen(addr: &str) -> Option<(UdpSocket, Sieve)> {
        let socket = UdpSocket::bind((addr, 0)).ok()?;
        // Over loopback what was sent is there.
        socket.set_nonblocking(true).unwrap();
        let sieve = Sieve::new(socket.try_clone().unwrap().into());
        Some((socket, sieve))
    }

    #[tokio::test(start_paused = true)]
    async fn initials_of_who_sends_too_many_are_dropped_for_a_while_and_nothing_else_is() {
        let (socket, sieve) = listen("127.0.0.1").unwrap();
        let client = |last: u8| IpAddr::from([127, 0, 0, last]);
        (1..UNHEARD_MIN).for_each(|_| sieve.unheard(client(2)));
        assert_eq!(received(&socket, &[("127.0.0.2", INITIAL)]).len(), 1, "few were not heard");
        (0..UNHEARD_MIN).for_each(|_| sieve.unheard(client(3)));
        sieve.unheard(client(2));
        let sent = [
            ("127.0.0.2", INITIAL),
            ("127.0.0.3", INITIAL),
            ("127.0.0.4", INITIAL),
            ("127.0.0.2", HANDSHAKE),
            ("127.0.0.3", SHORT),
        ];
        let expected = [("127.0.0.4", INITIAL), ("127.0.0.2", HANDSHAKE), ("127.0.0.3", SHORT)];
        let expected = expected.map(|(from, datagram)| (from.to_owned(), datagram[0]));
        assert_eq!(received(&socket, &sent), expected);
        tokio::task::yield_now().await;
        tokio::time::advance(LASTS).await;
        while sieve.0.known.lock().ends {
            tokio::task::yield_now().await;
        }
        assert_eq!(received(&socket, &sent[..2]).len(), 2, "they are heard again");
    }

    #[tokio::test]
    async fn a_network_of_ipv6_is_one_client() {
        // Where there is no IPv6 nobody floods over it.
        let Some((socket, sieve)) = listen("::1") else { return };
        (0..UNHEARD_MIN).for_each(|_| sieve.unheard("2001:db8::1".parse().unwrap()));
        assert_eq!(received(&socket, &[("::1", INITIAL)]).len(), 1);
        (0..UNHEARD_MIN).for_each(|_| sieve.unheard("::2".parse().unwrap()));
        let kept = received(&socket, &[("::1", INITIAL), ("::1", SHORT)]);
        assert_eq!(kept, [("::1".to_owned(), SHORT[0])]);
        sieve.open();
        assert_eq!(received(&socket, &[("::1", INITIAL)]).len(), 1);
    }

    #[tokio::test]
    async fn so_many_clients_are_kept_out_and_no_more() {
        let (socket, sieve) = listen("127.0.0.1").unwrap();
        let clients = (0..=MOST as u8).map(|number| format!("127.0.1.{number}")).collect::<Vec<_>>();
        for client in &clients {
            (0..UNHEARD_MIN).for_each(|_| sieve.unheard(client.parse().unwrap()));
        }
        let sent: Vec<_> = clients.iter().map(|client| (&**client, INITIAL)).collect();
        assert_eq!(received(&socket, &sent), [(clients[MOST].clone(), INITIAL[0])]);
    }
}
