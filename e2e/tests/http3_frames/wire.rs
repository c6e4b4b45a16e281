//! Frames and field sections of HTTP/3 (RFC 9114, RFC 9204), byte by byte.

pub(super) const DATA: u64 = 0x0;
pub(super) const HEADERS: u64 = 0x1;
pub(super) const CANCEL_PUSH: u64 = 0x3;
pub(super) const SETTINGS: u64 = 0x4;
pub(super) const PUSH_PROMISE: u64 = 0x5;
pub(super) const GOAWAY: u64 = 0x7;
pub(super) const MAX_PUSH_ID: u64 = 0xd;
/// PRIORITY, PING, WINDOW_UPDATE and CONTINUATION of HTTP/2.
pub(super) const OF_HTTP2: [u64; 4] = [0x2, 0x6, 0x8, 0x9];
/// Of no meaning (RFC 9114 section 7.2.8).
pub(super) const GREASE: u64 = 0x21;

pub(super) const CONTROL: u64 = 0x0;
pub(super) const PUSH: u64 = 0x1;
pub(super) const ENCODER: u64 = 0x2;
pub(super) const DECODER: u64 = 0x3;

/// RFC 9000 section 16.
pub(super) fn varint(value: u64) -> Vec<u8> {
    match value {
        0..0x40 => vec![value as u8],
        0x40..0x4000 => (value as u16 | 0x4000).to_be_bytes().to_vec(),
        0x4000..0x4000_0000 => (value as u32 | 0x8000_0000).to_be_bytes().to_vec(),
        _ => (value | 0xc000_0000_0000_0000).to_be_bytes().to_vec(),
    }
}

/// The head of a frame of this length.
pub(super) fn start(kind: u64, length: u64) -> Vec<u8> {
    [varint(kind), varint(length)].concat()
}

pub(super) fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    [&start(kind, payload.len() as u64)[..], payload].concat()
}

/// A line with a literal name, without Huffman coding.
pub(super) fn line(name: &str, value: &str) -> Vec<u8> {
    let mut line = prefixed(0x20, 3, name.len());
    line.extend_from_slice(name.as_bytes());
    line.extend(prefixed(0, 7, value.len()));
    line.extend_from_slice(value.as_bytes());
    line
}

/// An integer with a prefix of `bits` bits (RFC 7541 section 5.1).
fn prefixed(first: u8, bits: u32, value: usize) -> Vec<u8> {
    let full = (1 << bits) - 1;
    if value < full {
        return vec![first | value as u8];
    }
    let (mut bytes, mut rest) = (vec![first | full as u8], value - full);
    while rest >= 0x80 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}

/// A section of these lines.
pub(super) fn section(lines: &[(&str, &str)]) -> Vec<u8> {
    let lines = lines.iter().flat_map(|(name, value)| line(name, value));
    [0, 0].into_iter().chain(lines).collect()
}

/// The pseudo-fields of a request that every server answers.
pub(super) const PROBE: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", "/health/ready")];

/// HEADERS with [`PROBE`] and what follows.
pub(super) fn probe(more: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, &section(&[&PROBE[..], more].concat()))
}

/// HEADERS of a request whose body is read to its end.
pub(super) fn post(token: &str) -> Vec<u8> {
    let bearer = format!("Bearer {token}");
    let lines = [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", "/api/v1/search"),
        ("content-type", "application/json"),
        ("authorization", &bearer),
    ];
    frame(HEADERS, &section(&lines))
}
