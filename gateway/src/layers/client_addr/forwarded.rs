//! The addresses that hops write into `X-Forwarded-For` and `Forwarded` (RFC 7239), read from the right.
//!
//! The right end is what the nearest hop wrote; everything to its left may be the client's invention. Reading from the
//! right, byte by byte, no quote or stray byte that a client put in front can change what stands behind it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::{HeaderMap, HeaderName};
use serde::Deserialize;

/// Which of the two headers the hops in front write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Header {
    #[serde(rename = "forwarded")]
    Forwarded,
    #[default]
    #[serde(rename = "x-forwarded-for")]
    XForwardedFor,
}

impl Header {
    fn name(self) -> HeaderName {
        match self {
            Self::Forwarded => http::header::FORWARDED,
            Self::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
        }
    }

    /// What each hop wrote, the nearest first: an address, or none where it wrote something else (`unknown`, an
    /// obfuscated name).
    pub(super) fn hops(self, headers: &HeaderMap) -> impl Iterator<Item = Option<SocketAddr>> {
        let lines = headers.get_all(self.name()).into_iter().rev();
        // RFC 9110 section 5.6.1.2: empty elements of a list do not count.
        let elements = lines.flat_map(|line| Elements(Some(line.as_bytes()))).filter(|element| !element.is_empty());
        elements.map(move |element| match self {
            Self::Forwarded => forwarded_for(element),
            Self::XForwardedFor => node(std::str::from_utf8(element).ok()?),
        })
    }
}

/// The elements of a comma-separated list, from the right; a comma in quotes separates nothing.
struct Elements<'a>(Option<&'a [u8]>);

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.0?;
        let mut quoted = false;
        for (at, byte) in rest.iter().enumerate().rev() {
            match byte {
                b'"' if !is_escaped(rest, at) => quoted = !quoted,
                b',' if !quoted => {
                    self.0 = Some(&rest[..at]);
                    return Some(rest[at + 1..].trim_ascii());
                }
                _ => {}
            }
        }
        self.0 = None;
        Some(rest.trim_ascii())
    }
}

/// An odd number of backslashes stands before it.
fn is_escaped(bytes: &[u8], at: usize) -> bool {
    bytes[..at].iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// The `for` parameter of an element `for=…;proto=…`.
fn forwarded_for(element: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(element).ok()?;
    // No address has a semicolon, nor what may stand beside it in quotes: a host, a protocol, a name.
    let mut named = text.split(';').filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = named.find(|(name, _)| name.eq_ignore_ascii_case("for"))?;
    let bare = match value.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"')?,
        None => value,
    };
    node(bare)
}

/// An address, with a port or without (0): `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`,
/// `[2001:db8::1]:80`.
fn node(text: &str) -> Option<SocketAddr> {
    let bare = text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 0));
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok();
    let with_port = || {
        // The port may be obfuscated (`_x`); the address still stands.
        let (host, port) = text.rsplit_once(':')?;
        let ip = match host.strip_prefix('[') {
            Some(rest) => IpAddr::V6(rest.strip_suffix(']')?.parse().ok()?),
            None => IpAddr::V4(host.parse::<Ipv4Addr>().ok()?),
        };
        let port = if port.starts_with('_') { 0 } else { port.parse().ok()? };
        Some(SocketAddr::new(ip, port))
    };
    let found = bare.or_else(|| bracketed().map(|ip| SocketAddr::new(ip.into(), 0))).or_else(with_port)?;
    Some(SocketAddr::new(found.ip().to_canonical(), found.port()))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn hops(header: Header, lines: &[&[u8]]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header.name(), HeaderValue::from_bytes(line).unwrap());
        }
        header.hops(&headers).map(|hop| hop.map_or_else(|| "-".to_owned(), |addr| addr.to_string())).collect()
    }

    #[test]
    fn every_form_of_an_address_is_read() {
        let line = b"192.0.2.1, 192.0.2.2:80 ,2001:db8::1,,[2001:db8::2], [2001:db8::3]:443, ::ffff:10.0.0.1";
        let read = hops(Header::XForwardedFor, &[line]);
        let expected =
            ["10.0.0.1:0", "[2001:db8::3]:443", "[2001:db8::2]:0", "[2001:db8::1]:0", "192.0.2.2:80", "192.0.2.1:0"];
        assert_eq!(read, expected);
        for none in ["unknown", "_hidden", "10.0.0", "1.2.3.4:99999", "[::1", "::1]", "fe80::1%eth0", "1.2.3.4 5", "\""]
        {
            assert_eq!(hops(Header::XForwardedFor, &[none.as_bytes()]), ["-"], "{none}");
        }
    }

    #[test]
    fn the_examples_of_rfc_7239_are_read() {
        let check = |line: &str, expected: &[&str]| {
            assert_eq!(hops(Header::Forwarded, &[line.as_bytes()]), expected, "{line}");
        };
        check("for=\"_gazonk\"", &["-"]);
        check("For=\"[2001:db8:cafe::17]:4711\"", &["[2001:db8:cafe::17]:4711"]);
        check("for=192.0.2.60;proto=http;by=203.0.113.43", &["192.0.2.60:0"]);
        check("for=192.0.2.43, for=198.51.100.17", &["198.51.100.17:0", "192.0.2.43:0"]);
        check("for=192.0.2.43, for=\"[2001:db8:cafe::17]\"", &["[2001:db8:cafe::17]:0", "192.0.2.43:0"]);
        check("for=\"192.0.2.43:_port\"", &["192.0.2.43:0"]);
        check("proto=https;host=\"a,b\"", &["-"]);
        check("for=unknown", &["-"]);
    }

    #[test]
    fn an_open_quote_of_the_client_swallows_nothing() {
        assert_eq!(hops(Header::Forwarded, &[b"for=\"1.1.1.1, for=192.0.2.7"])[0], "192.0.2.7:0");
        assert_eq!(hops(Header::Forwarded, &[b"for=\"\\", b"for=\"192.0.2.7\""])[0], "192.0.2.7:0");
        assert_eq!(hops(Header::XForwardedFor, &[b"\xff\xfe, 192.0.2.7"])[0], "192.0.2.7:0");
    }

    fn header_bytes() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![Just(b'"'), Just(b'\\'), Just(b','), Just(b';'), Just(b'='), 32..=126u8, 128..=255u8];
        proptest::collection::vec(byte, 0..64)
    }

    fn address() -> impl Strategy<Value = SocketAddr> {
        (any::<IpAddr>(), 1..=u16::MAX).prop_map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port))
    }

    proptest! {
        #[test]
        fn what_a_client_wrote_does_not_change_what_the_hop_wrote(
            before in header_bytes(),
            hop in address(),
            lines in any::<bool>(),
        ) {
            for (header, written) in
                [(Header::XForwardedFor, hop.to_string()), (Header::Forwarded, format!("for=\"{hop}\";proto=https"))]
            {
                let joined = [&before[..], b", ", written.as_bytes()].concat();
                let read = match lines {
                    true => hops(header, &[&before, written.as_bytes()]),
                    false => hops(header, &[&joined]),
                };
                prop_assert_eq!(&read[0], &hop.to_string());
            }
        }

        #[test]
        fn an_address_is_read_back_in_each_of_its_forms(addr in address()) {
            let ip = addr.ip();
            let forms = match ip {
                IpAddr::V4(_) => vec![ip.to_string(), addr.to_string()],
                IpAddr::V6(_) => vec![ip.to_string(), format!("[{ip}]"), addr.to_string()],
            };
            for form in forms {
                prop_assert_eq!(node(&form).map(|read| read.ip()), Some(ip), "{}", form);
            }
        }
    }
}
