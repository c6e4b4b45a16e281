//! A field section of HTTP/3 (QPACK, RFC 9204), walked line by line without decoding it: for `:protocol`, and for pseudo-fields
//! that h3 takes where they must not be.
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

/// Why a field section is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is none, or needs a dynamic table.
    Undecodable,
    /// Its message is malformed (RFC 9114 section 4.1.2).
    Malformed,
}

/// A text, and the same in QPACK's Huffman code (RFC 7541 appendix B).
struct Coded {
    plain: &'static [u8],
    huffman: &'static [u8],
}

const AUTHORITY: Coded = Coded { plain: b":authority", huffman: &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f] };
const PATH: Coded = Coded { plain: b":path", huffman: &[0xb9, 0x58, 0xd3, 0x3f] };
const METHOD: Coded = Coded { plain: b":method", huffman: &[0xb9, 0x49, 0x53, 0x39, 0xe4] };
const SCHEME: Coded = Coded { plain: b":scheme", huffman: &[0xb8, 0x82, 0x4e, 0x5a, 0x4b] };
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

impl Text<'_> {
    fn begins_with_colon(&self) -> bool {
        match self.bytes.first() {
            // A colon's code is 1011100.
            Some(first) if self.huffman => first & 0xfe == 0xb8,
            Some(first) => *first == b':',
            None => false,
        }
    }
}

#[derive(Clone, Copy)]
enum Name<'a> {
    /// In the static table (RFC 9204 appendix A).
    Indexed(u64),
    Literal(Text<'a>),
}

/// A request's pseudo-fields; each is a bit of those that were seen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pseudo {
    Authority = 1,
    Path = 2,
    Method = 4,
    Scheme = 8,
    Protocol = 16,
}

enum Field {
    Regular,
    Pseudo(Pseudo),
    /// Of answers, or of nothing that is known.
    Foreign,
}

impl Name<'_> {
    fn field(&self) -> Field {
        match self {
            Self::Indexed(0) => Field::Pseudo(Pseudo::Authority),
            Self::Indexed(1) => Field::Pseudo(Pseudo::Path),
            Self::Indexed(15..=21) => Field::Pseudo(Pseudo::Method),
            Self::Indexed(22..=23) => Field::Pseudo(Pseudo::Scheme),
            Self::Indexed(24..=28 | 63..=71) => Field::Foreign,
            Self::Indexed(_) => Field::Regular,
            Self::Literal(name) if !name.begins_with_colon() => Field::Regular,
            Self::Literal(name) => {
                const NAMES: [(Coded, Pseudo); 5] = [
                    (AUTHORITY, Pseudo::Authority),
                    (PATH, Pseudo::Path),
                    (METHOD, Pseudo::Method),
                    (SCHEME, Pseudo::Scheme),
                    (PROTOCOL, Pseudo::Protocol),
                ];
                let known = NAMES.iter().find(|(coded, _)| coded.is(*name));
                known.map_or(Field::Foreign, |(_, pseudo)| Field::Pseudo(*pseudo))
            }
        }
    }
}

/// Where the line of `:protocol` stands in the field section of a request's head, and what it says; `None` when there is none.
///
/// # Errors
/// A section that h3 would take though it must not be: with a pseudo-field twice, behind a regular one, or of answers.
pub(super) fn head(section: &[u8]) -> Result<Option<(Range<usize>, Protocol)>, Fault> {
    let mut at = prefix(section).ok_or(Fault::Undecodable)?;
    let (mut seen, mut behind_regular, mut malformed, mut protocol) = (0, false, false, None);
    while at < section.len() {
        let Line { name, value, end } = line(section, at).ok_or(Fault::Undecodable)?;
        match name.field() {
            Field::Regular => behind_regular = true,
            Field::Foreign => malformed = true,
            Field::Pseudo(pseudo) => {
                malformed |= behind_regular || seen & pseudo as u8 != 0;
                seen |= pseudo as u8;
                if pseudo == Pseudo::Protocol {
                    let named = value.filter(|value| WEBSOCKET.is(*value));
                    protocol = Some((at..end, named.map_or(Protocol::Unknown, |_| Protocol::WebSocket)));
                }
            }
        }
        at = end;
    }
    if malformed { Err(Fault::Malformed) } else { Ok(protocol) }
}

/// Looks at the field section of trailers, which have no pseudo-fields (RFC 9114 section 4.3).
///
/// # Errors
/// A section that has some.
pub(super) fn trailers(section: &[u8]) -> Result<(), Fault> {
    let mut at = prefix(section).ok_or(Fault::Undecodable)?;
    let mut malformed = false;
    while at < section.len() {
        let Line { name, end, .. } = line(section, at).ok_or(Fault::Undecodable)?;
        malformed |= !matches!(name.field(), Field::Regular);
        at = end;
    }
    if malformed { Err(Fault::Malformed) } else { Ok(()) }
}

/// Where the lines begin, behind Required Insert Count and Base: both are zero without a dynamic table, and a base below zero
/// is none (RFC 9204 section 4.5.1).
fn prefix(section: &[u8]) -> Option<usize> {
    let (0, at) = integer(section, 0, 8)? else { return None };
    let is_negative = section.get(at)? & 0x80 != 0;
    let (_, at) = integer(section, at, 7)?;
    (!is_negative).then_some(at)
}

struct Line<'a> {
    name: Name<'a>,
    /// None for one that is in the static table with its name.
    value: Option<Text<'a>>,
    end: usize,
}

/// The last entry of the static table.
const STATIC_MAX: u64 = 98;

/// The line at `at` (RFC 9204 section 4.5). None for one that refers to the dynamic table.
fn line(section: &[u8], at: usize) -> Option<Line<'_>> {
    let first = *section.get(at)?;
    if first & 0x80 != 0 {
        // Indexed.
        let (index, end) = integer(section, at, 6)?;
        let is_static = first & 0x40 != 0 && index <= STATIC_MAX;
        return is_static.then_some(Line { name: Name::Indexed(index), value: None, end });
    }
    if first & 0x40 != 0 {
        // A name by its index.
        let (index, at) = integer(section, at, 4)?;
        let (value, end) = text(section, at, 7)?;
        let is_static = first & 0x10 != 0 && index <= STATIC_MAX;
        return is_static.then_some(Line { name: Name::Indexed(index), value: Some(value), end });
    }
    if first & 0x20 != 0 {
        let (name, at) = text(section, at, 3)?;
        let (value, end) = text(section, at, 7)?;
        return Some(Line { name: Name::Literal(name), value: Some(value), end });
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
                assert_eq!(head(&section), Ok(Some((before.len()..before.len() + line.len(), expected))));
            }
        }
        assert_eq!(head(&before), Ok(None));
        let other = [&before[..], &literal((b"x-protocol", false), (b"websocket", false))].concat();
        assert_eq!(head(&other), Ok(None));
    }

    #[test]
    fn a_section_that_needs_a_dynamic_table_is_not_decodable() {
        let line = literal((PROTOCOL.plain, false), (WEBSOCKET.plain, false));
        for section in [
            &[1, 0][..],
            &[0, 0, 0x10],
            // A base below zero, entries of a dynamic table, one past the end of the static one.
            &[0, 0x80],
            &[0, 0, 0x80],
            &[0, 0, 0x41, 1, b'v'],
            &[0, 0, 0xff, 36],
        ] {
            let section = [section, &line].concat();
            assert_eq!(head(&section), Err(Fault::Undecodable), "{section:?}");
            assert_eq!(trailers(&section), Err(Fault::Undecodable), "{section:?}");
        }
    }

    /// A line for each pseudo-field, in each way to name it.
    fn pseudo_lines() -> Vec<Vec<u8>> {
        let literals = [&AUTHORITY, &PATH, &METHOD, &SCHEME, &PROTOCOL].into_iter().flat_map(|name| {
            [literal((name.plain, false), (b"v", false)), literal((name.huffman, true), (b"v", false))]
        });
        let indexed = [[0xc1], [0xd1], [0xd7]].into_iter().map(|line| line.to_vec());
        literals.chain(indexed).chain([vec![0x50, 1, b'a'], vec![0x51, 1, b'/'], vec![0x5f, 0, 1, b'G']]).collect()
    }

    #[test]
    fn a_pseudo_field_stands_once_and_before_all_others() {
        let regular = literal((b"x", false), (b"v", false));
        for line in pseudo_lines() {
            let section = |lines: &[&[u8]]| [&[0, 0], &lines.concat()[..]].concat();
            assert!(head(&section(&[&line])).is_ok(), "{line:?}");
            assert!(head(&section(&[&line, &regular])).is_ok(), "{line:?}");
            assert_eq!(head(&section(&[&line, &line])), Err(Fault::Malformed), "{line:?}");
            assert_eq!(head(&section(&[&regular, &line])), Err(Fault::Malformed), "{line:?}");
            assert_eq!(trailers(&section(&[&regular, &line])), Err(Fault::Malformed), "{line:?}");
        }
        assert_eq!(trailers(&[&[0, 0], &regular[..]].concat()), Ok(()));
        for foreign in
            [vec![0xd9], literal((b":status", false), (b"200", false)), literal((b":x", false), (b"", false))]
        {
            assert_eq!(head(&[&[0, 0], &foreign[..]].concat()), Err(Fault::Malformed), "{foreign:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_walked_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Some((line, _))) = head(&bytes) {
                prop_assert!(line.end <= bytes.len());
            }
            let _any = trailers(&bytes);
        }

        #[test]
        fn integers_come_back(value in 0..1u64 << 62) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            prop_assert_eq!(varint(&bytes, 0), Some((value, bytes.len())));
        }
    }
}
