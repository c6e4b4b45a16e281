//! The cases of heads: their coding, their fields, and what they say of the body.

use super::cases::{CALM, Case, Expected, MALFORMED, case, code};
use super::wire::*;
use crate::frame_cases::NO_HEAD_HAS;

/// RFC 7541. h2 calls its errors PROTOCOL_ERROR.
pub(super) fn compression() -> Vec<Case> {
    let wrong = Expected::Connection(&[code::COMPRESSION, code::PROTOCOL]);
    let good = probe(&[]);
    let bad: [(&str, &[u8]); 14] = [
        ("the index 0", &[0x80]),
        ("an index past the tables", &[0xbf + 0x3f]),
        ("an index far past the tables", &[0xff, 0xff, 0xff, 0xff, 0x07]),
        ("an integer without end", &[0xff; 16]),
        ("a name past the tables", &[0x7f, 0x7f, 1, b'v']),
        ("a name that is cut off", &[0x00, 5, b'n']),
        ("a value that is cut off", &[0x00, 1, b'n', 5, b'v']),
        ("a length that is cut off", &[0x00, 1, b'n', 0x7f]),
        ("a Huffman code that is none", &[0x00, 1, b'n', 0x84, 0xff, 0xff, 0xff, 0xfc]),
        ("a Huffman code with a zero for padding", &[0x00, 1, b'n', 0x81, 0x00]),
        ("a Huffman code with a byte of padding", &[0x00, 1, b'n', 0x82, 0x1f, 0xff]),
        ("a table larger than the settings allow", &[0x3f, 0xe2, 0x1f]),
        ("a table that changes within a head", &[0x20]),
        ("a literal's first byte", &[0x40]),
    ];
    bad.into_iter()
        .map(|(name, line)| {
            let block = if name.contains("larger") { [line, &good].concat() } else { [&good[..], line].concat() };
            case(name, &[&frame(HEADERS, WHOLE, 1, &block)], wrong)
        })
        .collect()
}

pub(super) fn pseudo_fields() -> Vec<Case> {
    let of = |name: String, lines: &[(&str, &str)], expected| {
        case(name, &[&frame(HEADERS, WHOLE, 1, &block(lines))], expected)
    };
    let mut cases = Vec::new();
    for (i, pseudo) in PROBE.into_iter().enumerate() {
        let (before, behind) = (&PROBE[..i], &PROBE[i + 1..]);
        cases.push(of(format!("{} twice", pseudo.0), &[&PROBE[..], &[pseudo]].concat(), MALFORMED));
        cases.push(of(format!("{} late", pseudo.0), &[before, behind, &[("x", "y"), pseudo]].concat(), MALFORMED));
        if pseudo.0 != ":authority" {
            cases.push(of(format!("{} missing", pseudo.0), &[before, behind].concat(), MALFORMED));
            // h2 takes an empty scheme.
            let expected = if pseudo.0 == ":scheme" { Expected::Answered } else { MALFORMED };
            cases.push(of(format!("{} empty", pseudo.0), &[before, &[(pseudo.0, "")], behind].concat(), expected));
        }
    }
    let replaced = |i: usize, value: &'static str| {
        let mut lines = PROBE;
        lines[i].1 = value;
        lines
    };
    cases.extend([
        of("CONNECT with a path".into(), &replaced(0, "CONNECT"), MALFORMED),
        of("a method with a space".into(), &replaced(0, "GE T"), MALFORMED),
        of("a scheme with a space".into(), &replaced(1, "htt ps"), MALFORMED),
        of("an authority with a space".into(), &replaced(2, "local host"), MALFORMED),
        of(
            "a host for an authority".into(),
            &[PROBE[0], PROBE[1], PROBE[3], ("host", "localhost")],
            Expected::Answered,
        ),
    ]);
    cases
}

pub(super) fn fields() -> Vec<Case> {
    let of = |name: String, lines: &[(&str, &str)], expected| {
        case(name, &[&frame(HEADERS, WHOLE, 1, &probe(lines))], expected)
    };
    let mut cases: Vec<Case> = NO_HEAD_HAS
        .into_iter()
        .map(|(name, value)| of(format!("{name}: {}", value.escape_debug()), &[(name, value)], MALFORMED))
        .collect();
    let large = "v".repeat(16_000);
    let many = |count: usize| -> Vec<u8> {
        let lines = vec![("x-large", large.as_str()); count];
        let bytes = probe(&lines);
        let (mut frames, parts) = (Vec::new(), bytes.chunks(16_384));
        let last = parts.len() - 1;
        for (i, part) in parts.enumerate() {
            let flags = if i == last { END_HEADERS } else { 0 };
            let (kind, flags) = if i == 0 { (HEADERS, flags | END_STREAM) } else { (CONTINUATION, flags) };
            frames.extend(frame(kind, flags, 1, part));
        }
        frames
    };
    cases.extend([
        of("te: trailers".into(), &[("te", "trailers")], Expected::Answered),
        of("a field without a value".into(), &[("x-empty", "")], Expected::Answered),
        case("a head that is too large", &[&many(5)], Expected::Answered),
        case("a head that is much too large", &[&many(30)], CALM),
    ]);
    cases
}

/// `content-length`, and trailers.
pub(super) fn lengths() -> Vec<Case> {
    let head = |flags, lines: &[(&str, &str)]| frame(HEADERS, END_HEADERS | flags, 1, &probe(lines));
    let data = |flags, bytes: &[u8]| frame(DATA, flags, 1, bytes);
    let trailers = |flags, lines: &[(&str, &str)]| frame(HEADERS, END_HEADERS | flags, 1, &block(lines));
    vec![
        case("a length and no body", &[&head(END_STREAM, &[("content-length", "5")])], MALFORMED),
        case("a length that is no number", &[&head(0, &[("content-length", "five")])], MALFORMED),
        case("a length below zero", &[&head(0, &[("content-length", "-1")])], MALFORMED),
        case("a length past all numbers", &[&head(0, &[("content-length", "99999999999999999999999")])], MALFORMED),
        case("two lengths", &[&head(0, &[("content-length", "1"), ("content-length", "2")])], MALFORMED),
        case("a body that is too long", &[&head(0, &[("content-length", "1")]), &data(END_STREAM, b"xx")], MALFORMED),
        case("a body that is too short", &[&head(0, &[("content-length", "3")]), &data(END_STREAM, b"xx")], MALFORMED),
        case(
            "a body of its length",
            &[&head(0, &[("content-length", "2")]), &data(END_STREAM, b"xx")],
            Expected::Answered,
        ),
        case("a length of no body", &[&head(END_STREAM, &[("content-length", "0")])], Expected::Answered),
        case(
            "trailers",
            &[&head(0, &[]), &data(0, b"x"), &trailers(END_STREAM, &[("x-trailer", "1")])],
            Expected::Answered,
        ),
        case(
            "trailers that do not end",
            &[&head(0, &[]), &data(0, b"x"), &trailers(0, &[("x-trailer", "1")])],
            MALFORMED,
        ),
        // h2 takes it, and leaves the field out.
        case(
            "a pseudo-field in trailers",
            &[&head(0, &[]), &data(0, b"x"), &trailers(END_STREAM, &[(":path", "/")])],
            Expected::Answered,
        ),
    ]
}
