//! The cases: sizes, streams, settings, windows, heads.

use std::fmt;

use super::heads;
use super::wire::*;

/// RFC 9113 section 7.
pub(super) mod code {
    pub(crate) const PROTOCOL: u32 = 1;
    pub(crate) const FLOW_CONTROL: u32 = 3;
    pub(crate) const STREAM_CLOSED: u32 = 5;
    pub(crate) const FRAME_SIZE: u32 = 6;
    pub(crate) const COMPRESSION: u32 = 9;
    pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// GOAWAY with one of these codes, and the connection is closed.
    Connection(&'static [u32]),
    /// The connection is closed once what came before has been answered.
    Left,
    /// The connection is closed, with or without a word (RFC 9113 section 3.4).
    Closed,
    /// Stream 1 is reset with one of these codes, and the connection goes on. Or it ends with one of them: an endpoint may
    /// treat a stream's error as the connection's (section 5.4.1).
    Stream(&'static [u32]),
    /// Stream 1 is answered, and the connection goes on.
    Answered,
    /// The connection goes on.
    Ignored,
}

pub(super) struct Case {
    name: String,
    /// With the preface.
    pub(super) bytes: Vec<u8>,
    pub(super) expected: Expected,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, expected {:?}", self.name, self.expected)
    }
}

const PROTOCOL: Expected = Expected::Connection(&[code::PROTOCOL]);
const FRAME_SIZE: Expected = Expected::Connection(&[code::FRAME_SIZE]);
pub(super) const CALM: Expected = Expected::Connection(&[code::ENHANCE_YOUR_CALM]);
pub(super) const MALFORMED: Expected = Expected::Stream(&[code::PROTOCOL]);

pub(super) fn case(name: impl Into<String>, frames: &[&[u8]], expected: Expected) -> Case {
    let settings = frame(SETTINGS, 0, 0, &[]);
    Case { name: name.into(), bytes: [PREFACE, &settings, &frames.concat()].concat(), expected }
}

pub(super) fn all() -> Vec<Case> {
    let all = [prefaces(), sizes(), identifiers(), settings(), windows(), states(), blocks(), padding(), priorities()];
    let heads = [heads::compression(), heads::pseudo_fields(), heads::fields(), heads::lengths()];
    all.into_iter().chain(heads).flatten().chain(unknown()).collect()
}

fn prefaces() -> Vec<Case> {
    let bare = |name: &str, bytes: &[u8], expected| Case { name: name.to_owned(), bytes: bytes.to_vec(), expected };
    let mut cases = vec![
        bare("no preface", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", Expected::Closed),
        bare("a preface of another version", b"PRI * HTTP/2.1\r\n\r\nSM\r\n\r\n", Expected::Closed),
        bare("a preface with another end", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\n\n", Expected::Closed),
    ];
    for (name, first) in [
        ("PING", frame(PING, 0, 0, &[0; 8])),
        ("HEADERS", frame(HEADERS, WHOLE, 1, &probe(&[]))),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("a frame of no meaning", frame(0x42, 0, 0, &[])),
        ("SETTINGS with ACK", frame(SETTINGS, ACK, 0, &[])),
    ] {
        cases.push(bare(&format!("{name} before SETTINGS"), &[PREFACE, &first].concat(), PROTOCOL));
    }
    cases
}

/// Section 4.2, and each frame's own.
fn sizes() -> Vec<Case> {
    let mut cases: Vec<Case> = (0..=10)
        .map(|kind| {
            let stream =
                u32::from(matches!(kind, DATA | HEADERS | PRIORITY | RST_STREAM | PUSH_PROMISE | CONTINUATION));
            case(format!("type {kind} past the largest frame"), &[&start(16_385, kind, 0, stream)], FRAME_SIZE)
        })
        .collect();
    let open = frame(HEADERS, END_HEADERS, 1, &probe(&[]));
    for (kind, stream, wrong) in [
        (PING, 0, &[0, 1, 7, 9, 16][..]),
        (RST_STREAM, 1, &[0, 1, 3, 5]),
        (WINDOW_UPDATE, 0, &[0, 3, 5]),
        (WINDOW_UPDATE, 1, &[0, 3, 5]),
        (SETTINGS, 0, &[1, 5, 7]),
        (PRIORITY, 1, &[0, 4, 6]),
        (GOAWAY, 0, &[0, 4, 7]),
    ] {
        for length in wrong {
            let name = format!("type {kind} of {length} bytes on stream {stream}");
            cases.push(case(name, &[&open, &frame(kind, 0, stream, &vec![1; *length])], FRAME_SIZE));
        }
    }
    cases.push(case("SETTINGS with ACK and a setting", &[&frame(SETTINGS, ACK, 0, &[0; 6])], FRAME_SIZE));
    let data = frame(DATA, END_STREAM, 1, &vec![b'x'; 16_384]);
    cases.push(case("DATA of the largest size", &[&open, &data], Expected::Answered));
    cases
}

/// Frames on streams that they are not for.
fn identifiers() -> Vec<Case> {
    let block = probe(&[]);
    let mut cases = Vec::new();
    for (kind, flags, payload) in [
        (DATA, 0, &[0][..]),
        (HEADERS, WHOLE, &block),
        (PRIORITY, 0, &[0, 0, 0, 3, 0]),
        (RST_STREAM, 0, &[0, 0, 0, 8]),
        (CONTINUATION, END_HEADERS, &block),
        (PUSH_PROMISE, END_HEADERS, &[0, 0, 0, 2]),
    ] {
        cases.push(case(format!("type {kind} on stream 0"), &[&frame(kind, flags, 0, payload)], PROTOCOL));
    }
    for (kind, payload) in [(SETTINGS, &[][..]), (PING, &[0; 8]), (GOAWAY, &[0; 8])] {
        cases.push(case(format!("type {kind} on stream 1"), &[&frame(kind, 0, 1, payload)], PROTOCOL));
    }
    for (kind, payload) in [(DATA, &[0][..]), (RST_STREAM, &[0, 0, 0, 8]), (WINDOW_UPDATE, &[0, 0, 0, 1])] {
        cases.push(case(format!("type {kind} on an idle stream"), &[&frame(kind, 0, 5, payload)], PROTOCOL));
    }
    let request = |stream| frame(HEADERS, WHOLE, stream, &block);
    cases.extend([
        case("a request on an even stream", &[&request(2)], PROTOCOL),
        case("a request on an earlier stream", &[&request(5), &request(3)], PROTOCOL),
        case("a stream's reserved bit", &[&request(1 | 1 << 31)], Expected::Answered),
        case(
            "a promise on an open stream",
            &[&frame(HEADERS, END_HEADERS, 1, &block), &frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])],
            PROTOCOL,
        ),
    ]);
    cases
}

fn settings() -> Vec<Case> {
    let setting = |id: u16, value: u32| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    let with = |id, value| frame(SETTINGS, 0, 0, &setting(id, value));
    let request = frame(HEADERS, WHOLE, 1, &probe(&[]));
    let mut cases = Vec::new();
    for (id, value, expected) in [
        (0x2, 2, PROTOCOL),
        (0x2, u32::MAX, PROTOCOL),
        // h2 calls it a PROTOCOL_ERROR.
        (0x4, 1 << 31, Expected::Connection(&[code::FLOW_CONTROL, code::PROTOCOL])),
        (0x4, u32::MAX, Expected::Connection(&[code::FLOW_CONTROL, code::PROTOCOL])),
        (0x5, 16_383, PROTOCOL),
        (0x5, 0, PROTOCOL),
        (0x5, 1 << 24, PROTOCOL),
        (0x8, 2, PROTOCOL),
    ] {
        cases.push(case(format!("setting {id:#x} of {value}"), &[&with(id, value), &request], expected));
    }
    for (id, value) in [
        (0x1, 0),
        (0x1, u32::MAX),
        (0x2, 0),
        (0x2, 1),
        (0x3, 0),
        (0x3, u32::MAX),
        (0x4, (1 << 31) - 1),
        (0x5, 16_384),
        (0x5, (1 << 24) - 1),
        (0x6, 1000),
        (0x8, 1),
        (0x0, 1),
        (0x99, u32::MAX),
    ] {
        cases.push(case(format!("setting {id:#x} of {value}"), &[&with(id, value), &request], Expected::Answered));
    }
    let twice = frame(SETTINGS, 0, 0, &[setting(0x4, 0), setting(0x4, 70_000)].concat());
    cases.extend([
        case("a setting twice, the last counts", &[&twice, &request], Expected::Answered),
        case("flags of no meaning", &[&frame(SETTINGS, 0xfe, 0, &[]), &request], Expected::Answered),
        case("settings again and again", &[&with(0x4, 70_000).repeat(50), &request], Expected::Answered),
        case("settings without end", &[&with(0x4, 70_000).repeat(5_000)], CALM),
    ]);
    cases
}

fn windows() -> Vec<Case> {
    let open = frame(HEADERS, END_HEADERS, 1, &probe(&[]));
    let request = frame(HEADERS, WHOLE, 1, &probe(&[]));
    let update = |stream, by: u32| frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
    let most = (1 << 31) - 1;
    let overflow = Expected::Connection(&[code::FLOW_CONTROL]);
    vec![
        case("a window opened by nothing", &[&update(0, 0)], PROTOCOL),
        case("a stream's window opened by nothing", &[&open, &update(1, 0)], MALFORMED),
        case("a window opened by nothing but the reserved bit", &[&update(0, 1 << 31)], PROTOCOL),
        case("a window past its largest", &[&update(0, most)], overflow),
        case("a window past its largest in two steps", &[&update(0, most / 2), &update(0, most / 2 + 1)], overflow),
        case("a stream's window past its largest", &[&open, &update(1, most)], Expected::Stream(&[code::FLOW_CONTROL])),
        case("a window that is opened", &[&update(0, 1), &request, &update(1, 1)], Expected::Answered),
        case("the reserved bit of a window", &[&update(0, 1 | 1 << 31), &request], Expected::Answered),
        case("windows opened again and again", &[&update(0, 1).repeat(30_000)], CALM),
        case(
            "a stream's window that settings push past its largest",
            &[&open, &update(1, most - 70_000), &frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff])],
            Expected::Connection(&[code::FLOW_CONTROL]),
        ),
    ]
}

/// Section 5.1.
fn states() -> Vec<Case> {
    let block = probe(&[]);
    let (open, whole) = (frame(HEADERS, END_HEADERS, 1, &block), frame(HEADERS, WHOLE, 1, &block));
    let reset = frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]);
    let data = frame(DATA, 0, 1, b"x");
    // h2 does not always tell a stream that has ended from one that should not be.
    let closed = Expected::Stream(&[code::STREAM_CLOSED, code::PROTOCOL]);
    vec![
        case("DATA behind the end", &[&whole, &data], closed),
        case("HEADERS behind the end", &[&whole, &whole], closed),
        case("DATA behind a reset", &[&open, &reset, &data], closed),
        case("HEADERS behind a reset", &[&open, &reset, &whole], closed),
        case("a reset behind a reset", &[&open, &reset, &reset], Expected::Ignored),
        case(
            "a window behind a reset",
            &[&open, &reset, &frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])],
            Expected::Ignored,
        ),
        case(
            "a priority behind a reset",
            &[&open, &reset, &frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 0])],
            Expected::Ignored,
        ),
        case("a priority of an idle stream", &[&frame(PRIORITY, 0, 9, &[0, 0, 0, 3, 0])], Expected::Ignored),
        case("an answer to no ping", &[&frame(PING, ACK, 0, &[1; 8])], Expected::Ignored),
        case("an answer to no settings", &[&frame(SETTINGS, ACK, 0, &[]), &frame(SETTINGS, ACK, 0, &[])], PROTOCOL),
        case("GOAWAY", &[&frame(GOAWAY, 0, 0, &[0; 8])], Expected::Left),
        case("GOAWAY with words", &[&frame(GOAWAY, 0, 0, &[b'w'; 100])], Expected::Left),
        case("pings without end", &[&frame(PING, 0, 0, &[1; 8]).repeat(10_000)], CALM),
        case("priorities without end", &[&frame(PRIORITY, 0, 9, &[0, 0, 0, 3, 0]).repeat(10_000)], CALM),
        case("empty DATA without end", &[&open, &frame(DATA, 0, 1, &[]).repeat(30_000)], CALM),
    ]
}

/// Sections 4.3 and 6.10: nothing stands between the frames of a head.
fn blocks() -> Vec<Case> {
    let block = probe(&[]);
    let (first, rest) = block.split_at(10);
    let begun = frame(HEADERS, END_STREAM, 1, first);
    let ended = |stream| frame(CONTINUATION, END_HEADERS, stream, rest);
    let mut cases: Vec<Case> = [
        (DATA, 1, &[0][..]),
        (HEADERS, 1, &block),
        (HEADERS, 3, &block),
        (PRIORITY, 1, &[0, 0, 0, 3, 0]),
        (RST_STREAM, 1, &[0, 0, 0, 8]),
        (SETTINGS, 0, &[]),
        (PUSH_PROMISE, 1, &[0, 0, 0, 2]),
        (PING, 0, &[0; 8]),
        (GOAWAY, 0, &[0; 8]),
        (WINDOW_UPDATE, 0, &[0, 0, 0, 1]),
        (0x42, 0, &[]),
    ]
    .into_iter()
    .map(|(kind, stream, payload)| {
        let flags = if kind == HEADERS { WHOLE } else { 0 };
        let name = format!("type {kind} on stream {stream} within a head");
        case(name, &[&begun, &frame(kind, flags, stream, payload), &ended(1)], PROTOCOL)
    })
    .collect();
    let bytewise: Vec<u8> = block.chunks(30).flat_map(|part| frame(CONTINUATION, 0, 1, part)).collect();
    let last = frame(CONTINUATION, END_HEADERS, 1, &[]);
    cases.extend([
        case("a head in two frames", &[&begun, &ended(1)], Expected::Answered),
        case("a head in some frames", &[&frame(HEADERS, END_STREAM, 1, &[]), &bytewise, &last], Expected::Answered),
        case("a head that goes on on another stream", &[&begun, &ended(3)], PROTOCOL),
        case("a head that goes on and had ended", &[&frame(HEADERS, WHOLE, 1, &block), &ended(1)], PROTOCOL),
        case("a head that goes on and never began", &[&ended(1)], PROTOCOL),
        case("a head without end", &[&begun, &frame(CONTINUATION, 0, 1, &[]).repeat(100)], CALM),
    ]);
    cases
}

fn padding() -> Vec<Case> {
    let block = probe(&[]);
    let open = frame(HEADERS, END_HEADERS, 1, &block);
    let padded = |pad: u8, payload: &[u8], more: usize| [&[pad], payload, &vec![0; more]].concat();
    let flags = WHOLE | PADDED;
    let end = END_STREAM | PADDED;
    vec![
        case("DATA with more padding than payload", &[&open, &frame(DATA, end, 1, &[5, 0, 0])], PROTOCOL),
        case("DATA with padding as long as the frame", &[&open, &frame(DATA, end, 1, &[3, 0, 0])], PROTOCOL),
        case(
            "DATA with no length of its padding",
            &[&open, &frame(DATA, end, 1, &[])],
            Expected::Connection(&[code::PROTOCOL, code::FRAME_SIZE]),
        ),
        case("DATA that is padding", &[&open, &frame(DATA, end, 1, &[2, 0, 0])], Expected::Answered),
        case("DATA with padding", &[&open, &frame(DATA, end, 1, &padded(200, b"x", 200))], Expected::Answered),
        case("HEADERS with more padding than payload", &[&frame(HEADERS, flags, 1, &padded(255, &block, 0))], PROTOCOL),
        case(
            "HEADERS with no length of its padding",
            &[&frame(HEADERS, flags, 1, &[])],
            Expected::Connection(&[code::PROTOCOL, code::FRAME_SIZE]),
        ),
        case("HEADERS with padding", &[&frame(HEADERS, flags, 1, &padded(100, &block, 100))], Expected::Answered),
        case(
            "HEADERS with a length of no padding",
            &[&frame(HEADERS, flags, 1, &padded(0, &block, 0))],
            Expected::Answered,
        ),
    ]
}

fn priorities() -> Vec<Case> {
    let block = probe(&[]);
    let flags = WHOLE | HAS_PRIORITY;
    let with = |on: u8, block: &[u8]| frame(HEADERS, flags, 1, &[&[0, 0, 0, on, 16], block].concat());
    let request = frame(HEADERS, WHOLE, 1, &block);
    vec![
        case("a request that depends on itself", &[&with(1, &block)], MALFORMED),
        case("a request that depends on another", &[&with(3, &block)], Expected::Answered),
        case(
            "a priority that is cut off",
            &[&frame(HEADERS, flags, 1, &[0, 0, 0])],
            Expected::Connection(&[code::PROTOCOL, code::FRAME_SIZE]),
        ),
        case("a priority of a stream by itself", &[&frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 16])], MALFORMED),
        case("a priority", &[&frame(PRIORITY, 0, 1, &[0x80, 0, 0, 3, 16]), &request], Expected::Answered),
    ]
}

/// What has no meaning has none.
fn unknown() -> Vec<Case> {
    let request = frame(HEADERS, WHOLE, 1, &probe(&[]));
    let mut cases: Vec<Case> = [0xa, 0x10, 0x42, 0xff]
        .into_iter()
        .flat_map(|kind| [(kind, 0), (kind, 1), (kind, 99)])
        .map(|(kind, stream)| {
            let unknown = frame(kind, 0xff, stream, b"of no meaning");
            case(format!("type {kind:#x} on stream {stream}"), &[&unknown, &request], Expected::Answered)
        })
        .collect();
    let flags = frame(HEADERS, WHOLE | 0xd2, 1, &probe(&[]));
    cases.push(case("flags of no meaning on HEADERS", &[&flags], Expected::Answered));
    cases.push(case("flags of no meaning on PING", &[&frame(PING, 0xfe, 0, &[2; 8]), &request], Expected::Answered));
    cases.push(case("types of no meaning without end", &[&frame(0x42, 0, 0, &[]).repeat(10_000)], CALM));
    cases
}
