//! A field section of HTTP/3 (QPACK, RFC 9204), walked line by line without decoding it, to find `:protocol`.
//!
//! The gateway's SETTINGS allow no dynamic table, so each line stands for itself; and a Huffman code has one form for a
//! text, so two comparisons find a name.

use std::ops::Range;

use bytes::BufMut;

/// The `:protocol` of an extended CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    WebSocket,
    /// Any other.
    Unknown,
}

impl Protocol {
    /// As hyper tells it over HTTP/2.
    pub(super) fn extension(self) -> hyper::ext::Protocol {
        hyper::ext::Protocol::from_static(match self {
            Self::WebSocket => "websocket",
            Self::Unknown => "unknown",
        })
    }
}

/// A text, and the same in QPACK's Huffman code (RFC 7541 appendix B).
struct Coded {
    plain: &'static [u8],
    huffman: &'static [u8],
}

const PROTOCOL: Coded = Coded { plain: b":protocol", huffman: &[0xb9, 0x5d, 0x87, 0x49, 0xc8, 0x7a, 0x3f] };
const WEBSOCKET: Coded = Coded { plain: b"websocket", huffman: &[0xf0, 0x58, 0xd0, 0x72, 0x75, 0x2a, 0x7f] };

impl Coded {
    fn is(&self, text: Text<'_>) -> bool {
        text.bytes == if text.huffman { self.huffman } else { self.plain }
    }
}

/// A string as it stands in a line.
#[derive(Clone, Copy)]
struct Text<'a> {
    bytes: &'a [u8],
    huffman: bool,
}

/// Where the line of `:protocol` stands in a field section, and what it says. `None` when there is none, and for what is no
/// field section.
pub(super) fn protocol(section: &[u8]) -> Option<(Range<usize>, Protocol)> {
    // Required Insert Count and Base: zero without a dynamic table.
    let (0, at) = integer(section, 0, 8)? else { return None };
    let (_, mut at) = integer(section, at, 7)?;
    while at < section.len() {
        let start = at;
        let (name, value, end) = line(section, at)?;
        if let (Some(name), Some(value)) = (name, value)
            && PROTOCOL.is(name)
        {
            let protocol = if WEBSOCKET.is(value) { Protocol::WebSocket } else { Protocol::Unknown };
            return Some((start..end, protocol));
        }
        at = end;
    }
    None
}

type Line<'a> = (Option<Text<'a>>, Option<Text<'a>>, usize);

/// A line's literal name and value, where it has them, and where it ends (RFC 9204 section 4.5).
fn line(section: &[u8], at: usize) -> Option<Line<'_>> {
    let first = *section.get(at)?;
    if first & 0x80 != 0 {
        // Indexed.
        let (_, at) = integer(section, at, 6)?;
        return Some((None, None, at));
    }
    if first & 0x40 != 0 {
        // A name by its index.
        let (_, at) = integer(section, at, 4)?;
        let (value, at) = text(section, at, 7)?;
        return Some((None, Some(value), at));
    }
    if first & 0x20 != 0 {
        let (name, at) = text(section, at, 3)?;
        let (value, at) = text(section, at, 7)?;
        return Some((Some(name), Some(value), at));
    }
    // Both other forms are of the dynamic table.
    None
}

/// A string whose length has a prefix of `bits` bits, below the bit that says whether it is Huffman coded.
fn text(section: &[u8], at: usize, bits: u32) -> Option<(Text<'_>, usize)> {
    let huffman = section.get(at)? & (1 << bits) != 0;
    let (length, at) = integer(section, at, bits)?;
    let end = at.checked_add(usize::try_from(length).ok()?)?;
    Some((Text { bytes: section.get(at..end)?, huffman }, end))
}

/// A prefixed integer (RFC 7541 section 5.1).
fn integer(bytes: &[u8], at: usize, bits: u32) -> Option<(u64, usize)> {
    let full = (1u64 << bits) - 1;
    let mut value = u64::from(*bytes.get(at)?) & full;
    let mut at = at + 1;
    if value < full {
        return Some((value, at));
    }
    let mut shift = 0;
    loop {
        let byte = *bytes.get(at)?;
        at += 1;
        // RFC 9204 section 4.1.1: 62 bits are enough for everybody.
        if shift > 56 {
            return None;
        }
        value = value.checked_add(u64::from(byte & 0x7f) << shift)?;
        shift += 7;
        if byte & 0x80 == 0 {
            return Some((value, at));
        }
    }
}

/// A variable-length integer at `at`, and where it ends (RFC 9000 section 16).
pub(super) fn varint(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let first = *bytes.get(at)?;
    let end = at + (1 << (first >> 6));
    let mut value = u64::from(first & 0x3f);
    for byte in bytes.get(at + 1..end)? {
        value = value << 8 | u64::from(*byte);
    }
    Some((value, end))
}

/// Writes `value`, below 2⁶², as a variable-length integer.
pub(super) fn put_varint(out: &mut impl BufMut, value: u64) {
    match value {
        0..0x40 => out.put_u8(value as u8),
        0x40..0x4000 => out.put_u16(value as u16 | 0x4000),
        0x4000..0x4000_0000 => out.put_u32(value as u32 | 0x8000_0000),
        _ => out.put_u64(value | 0xc000_0000_0000_0000),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A line with a literal name.
    fn literal(name: (&[u8], bool), value: (&[u8], bool)) -> Vec<u8> {
        let mut line = Vec::new();
        let first = if name.1 { 0x28 } else { 0x20 };
        match name.0.len() {
            n @ 0..7 => line.push(first | n as u8),
            n => line.extend_from_slice(&[first | 7, (n - 7) as u8]),
        }
        line.extend_from_slice(name.0);
        line.push(value.0.len() as u8 | if value.1 { 0x80 } else { 0 });
        line.extend_from_slice(value.0);
        line
    }

    #[test]
    fn the_protocol_is_found_in_every_coding() {
        // `:method CONNECT`, `:path` by its name's index, `:scheme https`.
        let before = [&[0, 0, 0xcf, 0x51, 3][..], b"/ws", &[0xd7]].concat();
        for name in [(PROTOCOL.plain, false), (PROTOCOL.huffman, true)] {
            for value in [(WEBSOCKET.plain, false), (WEBSOCKET.huffman, true), (&b"connect-udp"[..], false)] {
                let line = literal(name, value);
                let section = [&before[..], &line, &literal((b"x-custom-header", false), (b"v", false))].concat();
                let expected = if value.0 == b"connect-udp" { Protocol::Unknown } else { Protocol::WebSocket };
                assert_eq!(protocol(&section), Some((before.len()..before.len() + line.len(), expected)));
            }
        }
        assert_eq!(protocol(&before), None);
        let other = [&before[..], &literal((b"x-protocol", false), (b"websocket", false))].concat();
        assert_eq!(protocol(&other), None);
    }

    #[test]
    fn a_section_that_needs_a_dynamic_table_is_left_alone() {
        let line = literal((PROTOCOL.plain, false), (WEBSOCKET.plain, false));
        assert_eq!(protocol(&[&[1, 0][..], &line].concat()), None);
        assert_eq!(protocol(&[&[0, 0, 0x10][..], &line].concat()), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_walked_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some((line, _)) = protocol(&bytes) {
                prop_assert!(line.end <= bytes.len());
            }
        }

        #[test]
        fn integers_come_back(value in 0..1u64 << 62) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            prop_assert_eq!(varint(&bytes, 0), Some((value, bytes.len())));
        }
    }
}
