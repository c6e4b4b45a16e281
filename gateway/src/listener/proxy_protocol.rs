//! The PROXY protocol, versions 1 and 2: who the client is, said by a proxy in front before the TLS handshake.
//!
//! <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>. A peer within the trusted ranges has to send it, and
//! nobody else may: to others it is no TLS, and that is the end of it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use proxy_header::{ParseConfig, Protocol, ProxyHeader};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::layers::client_addr::Range;

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Addresses of the proxies that speak it, as CIDR ranges. Empty: nobody does.
    pub trusted: Vec<Range>,
    /// From the accepted connection to the end of the header.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { trusted: Vec::new(), timeout: Duration::from_secs(5) }
    }
}

impl Config {
    /// The client of the connection that `peer` opened. What follows the header is left in `stream`.
    ///
    /// # Errors
    /// When a trusted peer sends anything else, or nothing in time.
    pub(super) async fn client<I: AsyncRead + Unpin>(
        &self,
        peer: SocketAddr,
        stream: &mut I,
    ) -> Result<SocketAddr, Error> {
        if !self.trusted.iter().any(|range| range.contains(peer.ip().to_canonical())) {
            return Ok(peer);
        }
        let said = tokio::time::timeout(self.timeout, read(stream)).await.map_err(|_elapsed| Error::Timeout)??;
        // Its own connection: a health check (LOCAL), or a client that it cannot name (UNKNOWN).
        Ok(said.unwrap_or(peer))
    }
}

/// Why a trusted peer's connection is closed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the PROXY header is malformed")]
    Malformed,
    #[error("reading the PROXY header")]
    Read(#[from] io::Error),
    #[error("no PROXY header in time")]
    Timeout,
    #[error("the PROXY header is longer than {VERSION_2_MAX} bytes")]
    TooLong,
}

/// What every header of either version has at least: `PROXY UNKNOWN\r\n`.
const SHORTEST: usize = 15;
/// With the line's end.
const VERSION_1_MAX: usize = 107;
const VERSION_2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, command, family, length.
const VERSION_2_FIXED: usize = 16;
/// Addresses and extensions (TLS details, identifiers) of all known proxies fit many times.
const VERSION_2_MAX: usize = 4096;

/// Reads exactly the header: byte by byte where its length is not told, so that nothing of the TLS behind it is taken.
async fn read<I: AsyncRead + Unpin>(stream: &mut I) -> Result<Option<SocketAddr>, Error> {
    let mut header = vec![0; SHORTEST];
    stream.read_exact(&mut header).await?;
    if header.starts_with(VERSION_2_SIGNATURE) {
        header.push(stream.read_u8().await?);
        let rest = usize::from(u16::from_be_bytes([header[VERSION_2_FIXED - 2], header[VERSION_2_FIXED - 1]]));
        if VERSION_2_FIXED + rest > VERSION_2_MAX {
            return Err(Error::TooLong);
        }
        header.resize(VERSION_2_FIXED + rest, 0);
        stream.read_exact(&mut header[VERSION_2_FIXED..]).await?;
    } else if header.starts_with(b"PROXY ") {
        while !header.ends_with(b"\r\n") {
            if header.len() == VERSION_1_MAX {
                return Err(Error::Malformed);
            }
            header.push(stream.read_u8().await?);
        }
    } else {
        return Err(Error::Malformed);
    }
    let config = ParseConfig { include_tlvs: false, allow_v1: true, allow_v2: true };
    let (parsed, length) = ProxyHeader::parse(&header, config).map_err(|_| Error::Malformed)?;
    match parsed.proxied_address() {
        _ if length != header.len() => Err(Error::Malformed),
        Some(address) if address.protocol != Protocol::Stream => Err(Error::Malformed),
        Some(address) => Ok(Some(SocketAddr::new(address.source.ip().to_canonical(), address.source.port()))),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proxy_header::ProxiedAddress;

    use super::*;

    fn trusting() -> Config {
        Config { trusted: vec!["10.0.0.0/8".parse().unwrap()], ..Config::default() }
    }

    const PROXY: &str = "10.1.2.3:4000";

    /// Who the client is, and what is left of `bytes`.
    async fn client(peer: &str, bytes: &[u8]) -> Result<(SocketAddr, Vec<u8>), Error> {
        let mut stream = bytes;
        let client = trusting().client(peer.parse().unwrap(), &mut stream).await?;
        Ok((client, stream.to_vec()))
    }

    async fn check(header: &[u8], expected: &str) {
        let bytes = [header, b"\x16TLS"].concat();
        let (client, rest) = client(PROXY, &bytes).await.unwrap();
        assert_eq!((client.to_string().as_str(), &rest[..]), (expected, &b"\x16TLS"[..]));
    }

    fn version_2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [VERSION_2_SIGNATURE, &[0x20 | command, family], &length, payload].concat()
    }

    #[tokio::test]
    async fn both_versions_name_the_client_and_leave_what_follows() {
        check(b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 443\r\n", "192.0.2.7:5000").await;
        check(b"PROXY TCP6 2001:db8::7 2001:db8::1 5000 443\r\n", "[2001:db8::7]:5000").await;
        check(b"PROXY TCP6 ::ffff:192.0.2.7 2001:db8::1 5000 443\r\n", "192.0.2.7:5000").await;
        check(b"PROXY UNKNOWN\r\n", PROXY).await;
        check(b"PROXY UNKNOWN 1 2 3 4\r\n", PROXY).await;
        let addresses = [192, 0, 2, 7, 192, 0, 2, 1, 0x13, 0x88, 0x01, 0xbb];
        check(&version_2(1, 0x11, &addresses), "192.0.2.7:5000").await;
        // With an extension behind the addresses.
        check(&version_2(1, 0x11, &[&addresses[..], &[0x04, 0, 2, 9, 9]].concat()), "192.0.2.7:5000").await;
        check(&version_2(0, 0x00, &[]), PROXY).await;
    }

    #[tokio::test]
    async fn a_trusted_peer_has_to_send_it_and_others_may_not() {
        let hello = [0x16; 100];
        assert!(matches!(client(PROXY, &hello).await, Err(Error::Malformed)));
        let spoofed = b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 443\r\n";
        let (told, rest) = client("198.51.100.1:9", spoofed).await.unwrap();
        assert_eq!((told.to_string().as_str(), &rest[..]), ("198.51.100.1:9", &spoofed[..]));
        let (told, _) = client("[::ffff:10.1.2.3]:9", spoofed).await.unwrap();
        assert_eq!(told.to_string(), "192.0.2.7:5000");
    }

    #[tokio::test]
    async fn lengths_are_bounded() {
        let endless = [&b"PROXY UNKNOWN "[..], &[b'x'; 200]].concat();
        assert!(matches!(client(PROXY, &endless).await, Err(Error::Malformed)));
        assert!(matches!(client(PROXY, &version_2(1, 0x11, &[0; 5000])).await, Err(Error::TooLong)));
        assert!(matches!(client(PROXY, b"PROXY TCP4 192.0.2.7").await, Err(Error::Read(_))));
        // Over UDP, which this is not.
        assert!(matches!(client(PROXY, &version_2(1, 0x12, &[0; 12])).await, Err(Error::Malformed)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_says_nothing_is_given_up() {
        let (mut near, _far) = tokio::io::duplex(64);
        let refused = trusting().client(PROXY.parse().unwrap(), &mut near).await;
        assert!(matches!(refused, Err(Error::Timeout)));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(ip: std::net::IpAddr, port: u16, second: bool, rest: Vec<u8>) {
            let source = SocketAddr::new(ip, port);
            let header = ProxyHeader::with_address(ProxiedAddress::stream(source, source));
            let mut bytes = Vec::new();
            if second { header.encode_v2(&mut bytes) } else { header.encode_v1(&mut bytes) }.unwrap();
            bytes.extend_from_slice(&rest);
            let (told, left) = futures::executor::block_on(async {
                let mut stream = &bytes[..];
                (read(&mut stream).await.unwrap(), stream.to_vec())
            });
            prop_assert_eq!(told, Some(SocketAddr::new(ip.to_canonical(), port)));
            prop_assert_eq!(left, rest);
        }

        #[test]
        fn any_bytes_end_in_an_answer(version: bool, bytes: Vec<u8>) {
            let start = if version { VERSION_2_SIGNATURE } else { b"PROXY TCP" };
            let bytes = [start, &bytes].concat();
            let _told = futures::executor::block_on(read(&mut &bytes[..]));
        }
    }
}
