//! The cases: what may not come, and what must be let be, by stream.

use std::fmt;

use super::wire::*;
use crate::frame_cases::NO_HEAD_HAS;

/// Codes of RFC 9114 section 8.1 and RFC 9204 section 8.3.
pub(super) mod code {
    pub(crate) const STREAM_CREATION: u64 = 0x103;
    pub(crate) const CLOSED_CRITICAL_STREAM: u64 = 0x104;
    pub(crate) const FRAME_UNEXPECTED: u64 = 0x105;
    pub(crate) const FRAME: u64 = 0x106;
    pub(crate) const EXCESSIVE_LOAD: u64 = 0x107;
    pub(crate) const ID: u64 = 0x108;
    pub(crate) const SETTINGS: u64 = 0x109;
    pub(crate) const MISSING_SETTINGS: u64 = 0x10a;
    pub(crate) const REQUEST_INCOMPLETE: u64 = 0x10d;
    pub(crate) const MESSAGE: u64 = 0x10e;
    pub(crate) const DECOMPRESSION: u64 = 0x200;
    pub(crate) const ENCODER: u64 = 0x201;
    pub(crate) const DECODER: u64 = 0x202;
}

/// What becomes of the stream that the case is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Open,
    Fin,
    Reset,
}

/// A stream with all that is sent on it.
#[derive(Clone, Debug)]
pub(super) enum Stream {
    Uni(Vec<u8>, End),
    Request(Vec<u8>, End),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// The connection ends with this code.
    Connection(u64),
    /// The request's stream does, and the connection goes on.
    Stream(u64),
    /// The request is answered with this status, and the connection goes on.
    Answered(u16),
    /// The connection goes on.
    Ignored,
}

pub(super) struct Case {
    name: String,
    pub(super) streams: Vec<Stream>,
    pub(super) expected: Expected,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, expected {:?}", self.name, self.expected)
    }
}

fn case(name: impl Into<String>, streams: Vec<Stream>, expected: Expected) -> Case {
    Case { name: name.into(), streams, expected }
}

fn uni(kind: u64, bytes: &[u8], end: End) -> Stream {
    Stream::Uni([&varint(kind)[..], bytes].concat(), end)
}

fn settings(payload: &[u8]) -> Vec<u8> {
    frame(SETTINGS, payload)
}

/// A control stream that begins as it must.
fn control(more: &[u8]) -> Stream {
    uni(CONTROL, &[&settings(&[])[..], more].concat(), End::Open)
}

/// A case on a request's stream, beside a control stream.
fn request(name: impl Into<String>, bytes: Vec<u8>, expected: Expected) -> Case {
    case(name, vec![control(&[]), Stream::Request(bytes, End::Fin)], expected)
}

pub(super) fn all(token: &str) -> Vec<Case> {
    [streams(), control_frames(), setting_values(), qpack_streams(), first_frames(), bodies(token), sections(), heads()]
        .into_iter()
        .flatten()
        .collect()
}

fn streams() -> Vec<Case> {
    use Expected::{Connection, Ignored};
    let second = Connection(code::STREAM_CREATION);
    let closed = Connection(code::CLOSED_CRITICAL_STREAM);
    let mut cases = vec![
        case("two control streams", vec![control(&[]), control(&[])], second),
        case("a push stream", vec![control(&[]), uni(PUSH, &varint(0), End::Open)], second),
        case("a stream that ends before its type", vec![control(&[]), Stream::Uni(vec![], End::Fin)], Ignored),
        case(
            "a stream that is reset before its type",
            vec![control(&[]), Stream::Uni(vec![0x40], End::Reset)],
            Ignored,
        ),
        case("a type in part", vec![control(&[]), Stream::Uni(vec![0x40], End::Fin)], Ignored),
    ];
    for kind in [ENCODER, DECODER] {
        let one = || uni(kind, &[], End::Open);
        cases.push(case(format!("two streams {kind}"), vec![control(&[]), one(), one()], second));
        for end in [End::Fin, End::Reset] {
            cases.push(case(format!("stream {kind}, {end:?}"), vec![control(&[]), uni(kind, &[], end)], closed));
        }
    }
    for end in [End::Fin, End::Reset] {
        cases.push(case(format!("the control stream, {end:?}"), vec![uni(CONTROL, &settings(&[]), end)], closed));
    }
    for kind in [GREASE, 0x41, 0x54, 0x1f * 1_000_000 + 0x21] {
        for end in [End::Open, End::Fin, End::Reset] {
            let stream = uni(kind, b"of no meaning", end);
            cases.push(case(format!("a stream of type {kind:#x}, {end:?}"), vec![control(&[]), stream], Ignored));
        }
    }
    cases
}

fn control_frames() -> Vec<Case> {
    use Expected::{Connection, Ignored};
    let on_control = |name: String, more: Vec<u8>, expected| case(name, vec![control(&more)], expected);
    let mut cases = Vec::new();
    let others = [DATA, HEADERS, CANCEL_PUSH, PUSH_PROMISE, GOAWAY, MAX_PUSH_ID, GREASE].into_iter().chain(OF_HTTP2);
    for kind in others {
        let first = uni(CONTROL, &frame(kind, &[0]), End::Open);
        cases.push(case(format!("{kind:#x} before SETTINGS"), vec![first], Connection(code::MISSING_SETTINGS)));
    }
    for kind in [SETTINGS, DATA, HEADERS, PUSH_PROMISE].into_iter().chain(OF_HTTP2) {
        let unexpected = Connection(code::FRAME_UNEXPECTED);
        cases.push(on_control(format!("{kind:#x} behind SETTINGS"), frame(kind, &[]), unexpected));
        // Without waiting for a payload that never comes.
        cases.push(on_control(format!("{kind:#x} without end"), start(kind, 1 << 40), unexpected));
    }
    for kind in [GOAWAY, MAX_PUSH_ID, CANCEL_PUSH] {
        for payload in [&[][..], &[0, 0], &[0x40], &[0; 9]] {
            let wrong = Connection(code::FRAME);
            cases.push(on_control(format!("{kind:#x} of {} bytes", payload.len()), frame(kind, payload), wrong));
        }
    }
    let two = |kind, first, second| [frame(kind, &[first]), frame(kind, &[second])].concat();
    cases.extend([
        on_control("GOAWAY that grows".into(), two(GOAWAY, 1, 2), Connection(code::ID)),
        on_control("MAX_PUSH_ID that shrinks".into(), two(MAX_PUSH_ID, 2, 1), Connection(code::ID)),
        on_control("MAX_PUSH_ID that grows".into(), two(MAX_PUSH_ID, 1, 2), Ignored),
        on_control("a push cancelled that was not promised".into(), frame(CANCEL_PUSH, &[0]), Connection(code::ID)),
        on_control("grease".into(), frame(GREASE, &[7; 100]), Ignored),
        on_control("much grease".into(), frame(GREASE, &vec![7; 100_000]), Ignored),
        on_control("a priority".into(), frame(0xf_0700, b"\0u=1"), Ignored),
        on_control("frames of webtransport".into(), frame(0x41, b"x"), Ignored),
        on_control("too many frames".into(), frame(GREASE, &[]).repeat(3_000), Connection(code::EXCESSIVE_LOAD)),
    ]);
    cases
}

fn setting_values() -> Vec<Case> {
    use Expected::{Connection, Ignored};
    let setting = |id: u64, value: u64| [varint(id), varint(value)].concat();
    let with = |payload: &[u8]| vec![uni(CONTROL, &settings(payload), End::Open)];
    let (wrong, short) = (Connection(code::SETTINGS), Connection(code::FRAME));
    let mut cases: Vec<Case> = [0x0, 0x2, 0x3, 0x4, 0x5]
        .into_iter()
        .map(|id| case(format!("setting {id:#x} of HTTP/2"), with(&setting(id, 1)), wrong))
        .collect();
    for id in [0x6, GREASE] {
        cases.push(case(format!("setting {id:#x} twice"), with(&setting(id, 1).repeat(2)), wrong));
    }
    for id in [0x8, 0x33] {
        cases.push(case(format!("setting {id:#x} is 2"), with(&setting(id, 2)), wrong));
        cases.push(case(format!("setting {id:#x} is 1"), with(&setting(id, 1)), Ignored));
    }
    cases.extend([
        case("a setting without a value", with(&[0x6]), short),
        case("a setting that is cut off", with(&[0x6, 0x40]), short),
        case(
            "settings without end",
            vec![uni(CONTROL, &start(SETTINGS, 1 << 40), End::Open)],
            Connection(code::EXCESSIVE_LOAD),
        ),
        case("no table, no fields", with(&[setting(0x1, 0), setting(0x7, 0)].concat()), Ignored),
        case("a large table", with(&[setting(0x1, 1 << 30), setting(0x7, 100)].concat()), Ignored),
        case("settings of no meaning", with(&[setting(GREASE, 5), setting(0x1234_5678, 1 << 40)].concat()), Ignored),
    ]);
    cases
}

fn qpack_streams() -> Vec<Case> {
    use Expected::{Connection, Ignored};
    let on = |kind, bytes: &[u8], expected| {
        case(format!("{bytes:?} on stream {kind}"), vec![control(&[]), uni(kind, bytes, End::Open)], expected)
    };
    let (encoder, decoder) = (Connection(code::ENCODER), Connection(code::DECODER));
    vec![
        on(ENCODER, &[0x20], Ignored),
        on(ENCODER, &[0x20; 1000], Ignored),
        on(ENCODER, &[0x21], encoder),
        on(ENCODER, &[0x3f, 0xe1, 0x1f], encoder),
        on(ENCODER, &[0xc1, 1, b'v'], encoder),
        on(ENCODER, &[0x80, 1, b'v'], encoder),
        on(ENCODER, &[0x41, b'n', 1, b'v'], encoder),
        on(ENCODER, &[0x00], encoder),
        on(DECODER, &[0x40], Ignored),
        on(DECODER, &[0x7f, 0x80, 0x01, 0x41], Ignored),
        on(DECODER, &[0x80], decoder),
        on(DECODER, &[0xff, 0x00], decoder),
        on(DECODER, &[0x00], decoder),
        on(DECODER, &[0x01], decoder),
    ]
}

fn first_frames() -> Vec<Case> {
    use Expected::{Answered, Connection, Stream};
    let unexpected = Connection(code::FRAME_UNEXPECTED);
    let mut cases = Vec::new();
    for kind in [DATA, CANCEL_PUSH, SETTINGS, PUSH_PROMISE, GOAWAY, MAX_PUSH_ID].into_iter().chain(OF_HTTP2) {
        cases.push(request(format!("{kind:#x} before HEADERS"), frame(kind, &[0]), unexpected));
        cases.push(request(format!("{kind:#x} before HEADERS, without end"), start(kind, 1 << 40), unexpected));
    }
    let grease = frame(GREASE, b"grease");
    cases.extend([
        request("nothing", vec![], Stream(code::REQUEST_INCOMPLETE)),
        request("nothing but grease", grease.clone(), Stream(code::REQUEST_INCOMPLETE)),
        request("grease before and behind HEADERS", [&grease[..], &probe(&[]), &grease].concat(), Answered(200)),
        request("much grease", [frame(GREASE, &vec![7; 100_000]), probe(&[])].concat(), Answered(200)),
        request("a frame of webtransport", [frame(0x41, b"x"), probe(&[])].concat(), Answered(200)),
        request("a frame's type alone", vec![0x1], Connection(code::FRAME)),
        request("a frame's type in part", vec![0x40], Connection(code::FRAME)),
        request("HEADERS that are cut off", probe(&[])[..10].to_vec(), Connection(code::FRAME)),
        request("grease that is cut off", start(GREASE, 100), Connection(code::FRAME)),
        request("too much grease", frame(GREASE, &[]).repeat(300), Connection(code::EXCESSIVE_LOAD)),
        request("HEADERS without end", start(HEADERS, 1 << 60), Connection(code::EXCESSIVE_LOAD)),
        request("HEADERS of a megabyte", start(HEADERS, 1 << 20), Connection(code::EXCESSIVE_LOAD)),
    ]);
    cases
}

/// Behind the head of a request whose body is read.
fn bodies(token: &str) -> Vec<Case> {
    use Expected::{Answered, Connection, Stream};
    let (head, data) = (post(token), frame(DATA, b"{"));
    let trailers = frame(HEADERS, &section(&[("x-trailer", "1")]));
    let unexpected = Connection(code::FRAME_UNEXPECTED);
    let behind = |name: String, more: &[&[u8]], expected| request(name, [&head[..], &more.concat()].concat(), expected);
    let mut cases = Vec::new();
    for kind in [CANCEL_PUSH, SETTINGS, PUSH_PROMISE, GOAWAY, MAX_PUSH_ID].into_iter().chain(OF_HTTP2) {
        cases.push(behind(format!("{kind:#x} behind DATA"), &[&data, &frame(kind, &[0])], unexpected));
    }
    cases.extend([
        behind("a body that is no JSON".into(), &[&data], Answered(400)),
        behind("an empty DATA between".into(), &[&data, &frame(DATA, &[]), &data], Answered(400)),
        behind("and trailers".into(), &[&data, &trailers], Answered(400)),
        behind(
            "and grease".into(),
            &[&data, &frame(GREASE, b"x"), &data, &trailers, &frame(GREASE, b"x")],
            Answered(400),
        ),
        behind("DATA behind trailers".into(), &[&data, &trailers, &data], unexpected),
        behind("two trailers".into(), &[&data, &trailers, &trailers], unexpected),
        behind("SETTINGS behind trailers".into(), &[&data, &trailers, &settings(&[])], unexpected),
        behind("DATA that is cut off".into(), &[&data, &start(DATA, 100)], Connection(code::FRAME)),
        behind("trailers that are cut off".into(), &[&data, &trailers[..4]], Connection(code::FRAME)),
        behind("empty DATA again and again".into(), &[&frame(DATA, &[]).repeat(300)], Connection(code::EXCESSIVE_LOAD)),
        behind("trailers without end".into(), &[&data, &start(HEADERS, 1 << 50)], Connection(code::EXCESSIVE_LOAD)),
        behind(
            "a pseudo-field in trailers".into(),
            &[&data, &frame(HEADERS, &section(&[(":path", "/")]))],
            Stream(code::MESSAGE),
        ),
        behind(
            "trailers that need a table".into(),
            &[&data, &frame(HEADERS, &[2, 0, 0x80])],
            Connection(code::DECOMPRESSION),
        ),
    ]);
    cases
}

/// Field sections that are none.
fn sections() -> Vec<Case> {
    let good = section(&PROBE);
    let with = |line: &[u8]| [&good[..], line].concat();
    let bad: [(&str, Vec<u8>); 17] = [
        ("an empty section", vec![]),
        ("a section's first byte", vec![0]),
        ("a count of insertions", [&[1, 0], &good[2..]].concat()),
        ("a base below zero", [&[0, 0x80], &good[2..]].concat()),
        ("an index of the dynamic table", with(&[0x80])),
        ("an index behind the base", with(&[0x10])),
        ("a name of the dynamic table", with(&[0x40, 1, b'v'])),
        ("a name behind the base", with(&[0x00, 1, b'v'])),
        ("an index past the static table", with(&[0xff, 36])),
        ("a name past the static table", with(&[0x5f, 84, 1, b'v'])),
        ("an index that is cut off", with(&[0xff])),
        ("a name that is cut off", with(&[0x23, b'n'])),
        ("a value that is cut off", with(&[0x21, b'n', 5, b'v'])),
        ("a length that is cut off", with(&[0x21, b'n', 0x7f])),
        ("an integer without end", with(&[0xff; 12])),
        ("a length of many gigabytes", with(&[0x21, b'n', 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f])),
        ("a Huffman code that is none", with(&[0x21, b'n', 0x84, 0xff, 0xff, 0xff, 0xfc])),
    ];
    let expected = Expected::Connection(code::DECOMPRESSION);
    bad.into_iter().map(|(name, section)| request(name, frame(HEADERS, &section), expected)).collect()
}

/// Heads of messages, well-formed and not.
fn heads() -> Vec<Case> {
    use Expected::{Answered, Stream};
    let malformed = Stream(code::MESSAGE);
    let of = |name: String, lines: &[(&str, &str)], expected| request(name, frame(HEADERS, &section(lines)), expected);
    let mut cases = Vec::new();
    for (i, pseudo) in PROBE.into_iter().enumerate() {
        let (before, behind) = (&PROBE[..i], &PROBE[i + 1..]);
        cases.push(of(format!("{} twice", pseudo.0), &[&PROBE[..], &[pseudo]].concat(), malformed));
        cases.push(of(format!("{} missing", pseudo.0), &[before, behind].concat(), malformed));
        cases.push(of(format!("{} late", pseudo.0), &[before, behind, &[("x", "y"), pseudo]].concat(), malformed));
        let empty = [before, &[(pseudo.0, "")], behind].concat();
        cases.push(of(format!("{} empty", pseudo.0), &empty, malformed));
    }
    let with = |name: &str, lines: &[(&str, &str)], expected| request(name, probe(lines), expected);
    for (name, value) in NO_HEAD_HAS.into_iter().chain([("host", "elsewhere")]) {
        cases.push(with(&format!("{name}: {}", value.escape_debug()), &[(name, value)], malformed));
    }
    let replaced = |i: usize, value: &'static str| {
        let mut lines = PROBE;
        lines[i].1 = value;
        lines
    };
    let large = "v".repeat(70_000);
    cases.extend([
        with("two lengths", &[("content-length", "1"), ("content-length", "1")], malformed),
        with("te: trailers", &[("te", "trailers")], Answered(200)),
        with("its own host", &[("host", "localhost")], Answered(200)),
        of("a host for an authority".into(), &[PROBE[0], PROBE[1], PROBE[3], ("host", "localhost")], Answered(200)),
        with("a large field", &[("x-large", &large)], Answered(431)),
        of("CONNECT with a path".into(), &replaced(0, "CONNECT"), malformed),
        of("a method with a space".into(), &replaced(0, "GE T"), malformed),
        of("a scheme with a space".into(), &replaced(1, "htt ps"), malformed),
        of("an authority with a user".into(), &replaced(2, "me@localhost"), malformed),
        of("an authority with a space".into(), &replaced(2, "local host"), malformed),
        of("a path without a slash".into(), &replaced(3, "health/ready"), malformed),
        of("an asterisk for a path".into(), &replaced(3, "*"), malformed),
    ]);
    cases
}
