//! Binding: a TCP and a UDP socket on the same number for each address, before anything else starts, so that a taken
//! port is an error of the start and port 0 gives one number for both.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};

use super::Elder;
use crate::handover::Listening;

/// A bound address.
pub struct Bound {
    /// As it was asked for; its port may be 0.
    pub asked: SocketAddr,
    pub addr: SocketAddr,
    pub tcp: TcpListener,
    /// Absent when HTTP/3 is off.
    pub udp: Option<BoundUdp>,
}

pub struct BoundUdp {
    pub socket: UdpSocket,
    /// Processes that still read it, or get what is theirs relayed; none unless it was handed over.
    pub(crate) elders: Vec<Arc<Elder>>,
}

impl BoundUdp {
    fn alone(socket: UdpSocket) -> Self {
        Self { socket, elders: Vec::new() }
    }
}

/// The sockets for `addrs`: those that an older process has handed over, and new ones where it had none. What it had beyond
/// them is closed.
pub(crate) fn adopt(addrs: &[SocketAddr], udp: bool, handed: Vec<Listening>) -> Result<Vec<Bound>, Error> {
    let mut handed: Vec<_> = handed.into_iter().map(Some).collect();
    let mut take = |asked: SocketAddr| {
        let fits = |one: &Listening| one.asked == asked || one.addr == asked;
        handed.iter_mut().find(|one| one.as_ref().is_some_and(fits)).and_then(Option::take)
    };
    let found: Vec<_> = addrs.iter().map(|&asked| (asked, take(asked))).collect();
    let missing: Vec<_> = found.iter().filter(|(_, one)| one.is_none()).map(|(asked, _)| *asked).collect();
    let mut new = bind(&missing, udp)?.into_iter();
    let bound = found.into_iter().filter_map(|(asked, one)| match one {
        Some(one) => Some(adopted(one, asked, udp).map_err(|source| Error { addr: asked, source })),
        None => new.next().map(Ok),
    });
    bound.collect()
}

fn adopted(one: Listening, asked: SocketAddr, udp: bool) -> io::Result<Bound> {
    let elder = |(mark, relay)| Elder::new(mark, relay);
    let udp = match one.udp {
        _ if !udp => None,
        Some(handed) => {
            let elders = handed.elders.into_iter().map(elder).collect();
            Some(BoundUdp { socket: handed.socket.into(), elders })
        }
        None => Some(BoundUdp::alone(bind_udp(one.addr)?)),
    };
    Ok(Bound { asked, addr: one.addr, tcp: one.tcp.into(), udp })
}

/// What could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("binding {addr}")]
pub struct Error {
    pub addr: SocketAddr,
    #[source]
    pub source: io::Error,
}

/// A free TCP number whose UDP twin is taken is common enough on a busy machine to need more than one try.
const PORT_ZERO_TRIES: usize = 32;
const BACKLOG: i32 = 4096;

/// Binds each of `addrs`, over UDP too when `udp`. Port 0 is resolved once: all addresses that ask for it get the
/// same number.
pub fn bind(addrs: &[SocketAddr], udp: bool) -> Result<Vec<Bound>, Error> {
    let mut tries = 0;
    loop {
        tries += 1;
        match bind_once(addrs, udp) {
            Err(e) if e.source.kind() == io::ErrorKind::AddrInUse && tries < PORT_ZERO_TRIES && any_zero(addrs) => {}
            done => return done,
        }
    }
}

fn any_zero(addrs: &[SocketAddr]) -> bool {
    addrs.iter().any(|a| a.port() == 0)
}

fn bind_once(addrs: &[SocketAddr], udp: bool) -> Result<Vec<Bound>, Error> {
    let mut chosen = 0;
    let mut bound = Vec::with_capacity(addrs.len());
    for &asked in addrs {
        let mut addr = asked;
        if asked.port() == 0 {
            addr.set_port(chosen);
        }
        let mut one = bind_pair(addr, udp).map_err(|source| Error { addr, source })?;
        one.asked = asked;
        if asked.port() == 0 {
            chosen = one.addr.port();
        }
        bound.push(one);
    }
    Ok(bound)
}

fn bind_pair(addr: SocketAddr, udp: bool) -> io::Result<Bound> {
    let tcp = socket(addr, Type::STREAM, Protocol::TCP)?;
    // Without it a restart waits for the old process's connections to leave TIME_WAIT.
    tcp.set_reuse_address(true)?;
    tcp.bind(&addr.into())?;
    tcp.listen(BACKLOG)?;
    let tcp: TcpListener = tcp.into();
    let addr = tcp.local_addr()?;
    let udp = if udp { Some(BoundUdp::alone(bind_udp(addr)?)) } else { None };
    Ok(Bound { asked: addr, addr, tcp, udp })
}

fn bind_udp(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket(addr, Type::DGRAM, Protocol::UDP)?;
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

fn socket(addr: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), kind, Some(protocol))?;
    if addr.is_ipv6() {
        // 0.0.0.0 and [::] may then both be listed.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_zero_is_one_number_for_tcp_and_udp_and_all_addresses() {
        let addrs = [SocketAddr::from(([127, 0, 0, 1], 0)), SocketAddr::from(([127, 0, 0, 2], 0))];
        let bound = bind(&addrs, true).unwrap();
        let port = bound[0].addr.port();
        assert_ne!(port, 0);
        for one in &bound {
            assert_eq!(one.addr.port(), port);
            assert_eq!(one.udp.as_ref().unwrap().socket.local_addr().unwrap(), one.addr);
        }
    }

    #[test]
    fn a_taken_port_is_named() {
        let first = bind(&[SocketAddr::from(([127, 0, 0, 1], 0))], true).unwrap();
        let error = bind(&[first[0].addr], true).err().unwrap();
        assert_eq!(error.addr, first[0].addr);
    }
}
