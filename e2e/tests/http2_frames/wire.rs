//! Frames and field blocks of HTTP/2 (RFC 9113, RFC 7541), byte by byte.

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const ACK: u8 = 0x1;
pub(super) const END_STREAM: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
pub(super) const PADDED: u8 = 0x8;
pub(super) const HAS_PRIORITY: u8 = 0x20;
/// A head in one frame, and no body.
pub(super) const WHOLE: u8 = END_STREAM | END_HEADERS;

/// A frame's head, of this length.
pub(super) fn start(length: u32, kind: u8, flags: u8, stream: u32) -> Vec<u8> {
    [&length.to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes()].concat()
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    [&start(payload.len() as u32, kind, flags, stream)[..], payload].concat()
}

/// A literal without indexing, without Huffman coding.
pub(super) fn line(name: &str, value: &str) -> Vec<u8> {
    let mut line = vec![0];
    for text in [name, value] {
        line.extend(length(text.len()));
        line.extend_from_slice(text.as_bytes());
    }
    line
}

/// With a prefix of seven bits (RFC 7541 section 5.1).
fn length(value: usize) -> Vec<u8> {
    if value < 0x7f {
        return vec![value as u8];
    }
    let (mut bytes, mut rest) = (vec![0x7f], value - 0x7f);
    while rest >= 0x80 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}

pub(super) fn block(lines: &[(&str, &str)]) -> Vec<u8> {
    lines.iter().flat_map(|(name, value)| line(name, value)).collect()
}

/// The pseudo-fields of a request that every server answers.
pub(super) const PROBE: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", "/health/ready")];

/// The block of [`PROBE`] and what follows.
pub(super) fn probe(more: &[(&str, &str)]) -> Vec<u8> {
    block(&[&PROBE[..], more].concat())
}

/// A frame as it came.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    /// The first one in `bytes`, which it is taken out of.
    pub(super) fn take(bytes: &mut Vec<u8>) -> Option<Self> {
        let head = bytes.first_chunk::<9>()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        if bytes.len() < 9 + length {
            return None;
        }
        let payload = bytes.drain(..9 + length).skip(9).collect();
        Some(Self { kind, flags, stream, payload })
    }

    /// The error code of GOAWAY or RST_STREAM.
    pub(super) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        self.payload.get(at..).and_then(|rest| rest.first_chunk()).map_or(u32::MAX, |code| u32::from_be_bytes(*code))
    }
}
