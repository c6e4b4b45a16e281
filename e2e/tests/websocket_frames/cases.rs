//! The cases: every head there is, lengths, UTF-8, closes, fragments.

use std::fmt;

use super::frame::{BINARY, CLOSE, CONTINUATION, Frame, PING, PONG, TEXT};

#[derive(Debug)]
pub(super) enum Expected {
    /// The question behind the case is answered, and these pings are.
    Answered { pongs: Vec<Vec<u8>> },
    /// It is not, and the close has one of these codes, or none.
    Closed { codes: Vec<Option<u16>> },
    /// The RFC binds the sender only.
    Either { codes: Vec<Option<u16>> },
}

pub(super) struct Case {
    name: String,
    pub(super) bytes: Vec<u8>,
    pub(super) expected: Expected,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.name, self.bytes[..self.bytes.len().min(40)].escape_ascii())
    }
}

/// A message that has an answer.
const MESSAGE: &[u8] = br#"{"type":"ping","id":"x"}"#;
const PROTOCOL: u16 = 1002;
const NOT_UTF8: u16 = 1007;
const TOO_BIG: u16 = 1009;

fn case(name: impl Into<String>, frames: &[Frame], expected: Expected) -> Case {
    Case { name: name.into(), bytes: frames.iter().flat_map(Frame::masked).collect(), expected }
}

fn answered() -> Expected {
    Expected::Answered { pongs: Vec::new() }
}

fn closed(code: u16) -> Expected {
    Expected::Closed { codes: vec![Some(code)] }
}

pub(super) fn all() -> Vec<Case> {
    let mut all = heads();
    all.extend(control_lengths());
    all.extend(data_lengths());
    all.extend(texts());
    all.extend(closes());
    all.extend(fragments());
    all
}

/// Each opcode, each setting of the reserved bits, final or not, masked or not.
fn heads() -> Vec<Case> {
    let mut cases = Vec::new();
    for opcode in 0..16 {
        for rsv in 0..8 {
            for fin in [true, false] {
                for is_masked in [true, false] {
                    let payload = if opcode < 8 { MESSAGE } else { b"" };
                    let frame = Frame { fin, rsv, ..Frame::new(opcode, payload) };
                    let expected = match opcode {
                        _ if !is_masked || rsv != 0 => closed(PROTOCOL),
                        // One that is not final is followed by another message.
                        TEXT | BINARY if fin => answered(),
                        CLOSE if fin => Expected::Closed { codes: vec![None, Some(1000), Some(1005)] },
                        PING if fin => Expected::Answered { pongs: vec![Vec::new()] },
                        PONG if fin => answered(),
                        _ => closed(PROTOCOL),
                    };
                    let bytes = if is_masked { frame.masked() } else { frame.plain() };
                    let name = format!("opcode {opcode}, rsv {rsv}, final {fin}, masked {is_masked}");
                    cases.push(Case { name, bytes, expected });
                }
            }
        }
    }
    cases
}

/// Section 5.5: at most 125 bytes.
fn control_lengths() -> Vec<Case> {
    let ping = |length: usize| Frame::new(PING, &(0..length).map(|i| i as u8).collect::<Vec<_>>());
    let mut cases: Vec<Case> = (0..=125)
        .map(|length| {
            let expected = Expected::Answered { pongs: vec![ping(length).payload] };
            case(format!("a ping of {length}"), &[ping(length)], expected)
        })
        .collect();
    for length in [126, 127, 128, 1000, 65_535, 65_536] {
        cases.push(case(format!("a ping of {length}"), &[ping(length)], closed(PROTOCOL)));
        cases.push(case(format!("a pong of {length}"), &[Frame::new(PONG, &vec![0; length])], closed(PROTOCOL)));
        cases.push(case(
            format!("a close of {length}"),
            &[Frame::close(1000, &vec![b'x'; length - 2])],
            closed(PROTOCOL),
        ));
    }
    for key in [[0; 4], [255; 4], [1, 2, 3, 4]] {
        let bytes = Frame::text(MESSAGE).masked_with(key);
        cases.push(Case { name: format!("the key {key:?}"), bytes, expected: answered() });
    }
    cases
}

/// Lengths longer than they need be, and longer than anybody takes.
fn data_lengths() -> Vec<Case> {
    let mut cases = Vec::new();
    for length in [125_usize, 126, 127, 65_535, 65_536, 100_000] {
        // Padded JSON: spaces are part of it.
        let mut payload = MESSAGE.to_vec();
        payload.resize(length.max(MESSAGE.len()), b' ');
        cases.push(case(format!("a message of {length}"), &[Frame::text(&payload)], answered()));
        cases.push(case(format!("a message of {length}"), &[Frame::new(BINARY, &payload)], answered()));
    }
    let long = |head: &[u8]| {
        let mut bytes = vec![0x81];
        bytes.extend(head);
        bytes.extend([0; 4]);
        bytes.extend(MESSAGE);
        bytes
    };
    let length = MESSAGE.len() as u8;
    let either = || Expected::Either { codes: vec![Some(PROTOCOL)] };
    cases.push(Case {
        name: "16 bits for a short one".to_owned(),
        bytes: long(&[0x80 | 126, 0, length]),
        expected: either(),
    });
    let wide = [0x80 | 127, 0, 0, 0, 0, 0, 0, 0, length];
    cases.push(Case { name: "64 bits for a short one".to_owned(), bytes: long(&wide), expected: either() });
    for top in [0x80, 0xff, 0x7f, 0x40, 0x01] {
        let too_big = [0x80 | 127, top, 0, 0, 0, 0, 0, 0, 0];
        let expected = Expected::Closed { codes: vec![Some(TOO_BIG), Some(PROTOCOL)] };
        cases.push(Case { name: format!("2^63 and such: {top:x}"), bytes: long(&too_big), expected });
    }
    cases
}

const UTF8: [&str; 16] = [
    "",
    "a",
    "\u{0}",
    "\u{7f}",
    "\u{80}",
    "\u{7ff}",
    "\u{800}",
    "\u{d7ff}",
    "\u{e000}",
    "\u{fffd}",
    "\u{fffe}",
    "\u{ffff}",
    "\u{10000}",
    "\u{10ffff}",
    "κόσμε",
    "🦀 é ñ 漢",
];

/// Overlong forms, surrogates, what is past Unicode, stray and missing continuations.
const NO_UTF8: [&[u8]; 36] = [
    b"\x80",
    b"\xbf",
    b"\x80\xbf",
    b"\xc0",
    b"\xc1",
    b"\xc0\x80",
    b"\xc1\xbf",
    b"\xc2",
    b"\xc2\x00",
    b"\xc2\xc2",
    b"\xe0\x80\x80",
    b"\xe0\x9f\xbf",
    b"\xe1\x80",
    b"\xe1\x80\x00",
    b"\xed\xa0\x80",
    b"\xed\xad\xbf",
    b"\xed\xbf\xbf",
    b"\xed\xa0\x80\xed\xb0\x80",
    b"\xf0\x80\x80\x80",
    b"\xf0\x8f\xbf\xbf",
    b"\xf1\x80\x80",
    b"\xf4\x90\x80\x80",
    b"\xf5\x80\x80\x80",
    b"\xf7\xbf\xbf\xbf",
    b"\xf8\x88\x80\x80\x80",
    b"\xfc\x84\x80\x80\x80\x80",
    b"\xfe",
    b"\xff",
    b"\xfe\xfe\xff\xff",
    b"a\xffb",
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
    b"\xef\xbf",
    b"{\"id\":\"\xff\"}",
    b"\xc3\x28",
    b"\xe2\x28\xa1",
    b"\xf0\x28\x8c\xbc",
];

fn texts() -> Vec<Case> {
    let mut cases = Vec::new();
    for text in UTF8 {
        // No JSON, most of them: told, and the connection stays.
        cases.push(case("text", &[Frame::text(text.as_bytes())], answered()));
        for at in 0..=text.len() {
            // Between any two bytes, in the middle of a character too.
            let (first, second) = text.as_bytes().split_at(at);
            let frames = [Frame::text(first).unfinished(), Frame::new(CONTINUATION, second)];
            cases.push(case(format!("text cut at {at}"), &frames, answered()));
        }
    }
    for text in NO_UTF8 {
        cases.push(case("no UTF-8", &[Frame::text(text)], closed(NOT_UTF8)));
        let frames = [Frame::text(b"a").unfinished(), Frame::new(CONTINUATION, text)];
        cases.push(case("no UTF-8 in a fragment", &frames, closed(NOT_UTF8)));
    }
    cases
}

/// Section 7.4.
fn closes() -> Vec<Case> {
    let mut cases = Vec::new();
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999, 4000, 4999] {
        cases.push(case(format!("a close with {code}"), &[Frame::close(code, b"why")], closed(code)));
    }
    for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        cases.push(case(format!("a close with {code}"), &[Frame::close(code, b"")], closed(PROTOCOL)));
    }
    // Registered after the RFC, for gateways.
    let later = Expected::Closed { codes: vec![Some(1014), Some(PROTOCOL)] };
    cases.push(case("a close with 1014", &[Frame::close(1014, b"")], later));
    cases.push(case("a close with half a code", &[Frame::new(CLOSE, &[3])], closed(PROTOCOL)));
    let invalid = Expected::Closed { codes: vec![Some(NOT_UTF8), Some(PROTOCOL)] };
    cases.push(case("a reason that is no UTF-8", &[Frame::close(1000, b"\xff")], invalid));
    cases.push(case("the longest reason", &[Frame::close(1000, &[b'x'; 123])], closed(1000)));
    cases
}

/// Section 5.4.
fn fragments() -> Vec<Case> {
    let mut cases = Vec::new();
    for count in 2..=24 {
        let parts: Vec<&[u8]> = MESSAGE.chunks(MESSAGE.len().div_ceil(count)).collect();
        let last = parts.len() - 1;
        let frame = |(i, part): (usize, &&[u8])| {
            let frame = Frame::new(if i == 0 { TEXT } else { CONTINUATION }, part);
            if i == last { frame } else { frame.unfinished() }
        };
        let whole: Vec<Frame> = parts.iter().enumerate().map(frame).collect();
        let between: Vec<Frame> =
            whole.iter().flat_map(|frame| [frame.clone(), Frame::new(PING, b"between")]).collect();
        let pongs = vec![b"between".to_vec(); parts.len()];
        cases.push(case(format!("{count} fragments"), &whole, answered()));
        cases.push(case(format!("{count} fragments and pings"), &between, Expected::Answered { pongs }));
    }
    let start = || Frame::text(b"{").unfinished();
    let more = |payload| Frame::new(CONTINUATION, payload);
    for (name, frames) in [
        ("a message in a message", vec![start(), Frame::text(MESSAGE)]),
        ("a binary message in a text", vec![start(), Frame::new(BINARY, MESSAGE)]),
        ("two beginnings", vec![start(), start()]),
        ("a continuation of nothing", vec![more(b"")]),
        ("an unfinished continuation of nothing", vec![more(b"").unfinished()]),
        ("a continuation behind the end", vec![Frame::text(MESSAGE), more(b"")]),
        ("a continuation behind fragments", vec![start(), more(b"}"), more(b"")]),
        ("a ping in fragments", vec![Frame::new(PING, b"a").unfinished(), more(b"b")]),
    ] {
        cases.push(case(name, &frames, closed(PROTOCOL)));
    }
    let empty = [start(), more(b"").unfinished(), more(b"").unfinished(), more(b"}")];
    cases.push(case("empty fragments", &empty, answered()));
    cases
}
