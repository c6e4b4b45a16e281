//! Binding: a TCP and a UDP socket on the same number for each address, before anything else starts, so that a taken
//! port is an error of the start and port 0 gives one number for both.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

/// A bound address.
pub struct Bound {
    pub addr: SocketAddr,
    pub tcp: TcpListener,
    /// Absent when HTTP/3 is off.
    pub udp: Option<UdpSocket>,
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
        let one = bind_pair(addr, udp).map_err(|source| Error { addr, source })?;
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
    let udp = if udp {
        let socket = socket(addr, Type::DGRAM, Protocol::UDP)?;
        socket.bind(&addr.into())?;
        Some(socket.into())
    } else {
        None
    };
    Ok(Bound { addr, tcp, udp })
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
            assert_eq!(one.udp.as_ref().unwrap().local_addr().unwrap(), one.addr);
        }
    }

    #[test]
    fn a_taken_port_is_named() {
        let first = bind(&[SocketAddr::from(([127, 0, 0, 1], 0))], true).unwrap();
        let error = bind(&[first[0].addr], true).err().unwrap();
        assert_eq!(error.addr, first[0].addr);
    }
}
