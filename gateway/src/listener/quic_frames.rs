//! The frames of an HTTP/3 request on their way to h3: bounds that h3 has not, and one field that it does not know.
//!
//! Each frame's type decides what becomes of it (RFC 9114 section 7.2): data passes as it comes, a field section is kept until
//! it is whole, what has no meaning is thrown away, and what must not be there ends the connection before its payload has come.
//! h3 takes pseudo-fields wherever they stand, and a head whose `:protocol` names anything but two protocols of its own for
//! malformed: so sections are looked at here, and `:protocol` is taken out of a head and told beside it. Extended CONNECT
//! (RFC 9220) then works as over HTTP/2.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::{BufMut, Bytes, BytesMut};
use h3::error::Code;

use super::allowance::{Allowance, Purse};
use super::quic_fields::{self, Fault, Protocol};
use super::quic_framing::{
    CANCEL_PUSH, DATA, Framing, GOAWAY, HEADERS, Held, MAX_PUSH_ID, OF_HTTP2, PUSH_PROMISE, Piece, SETTINGS, Violation,
    Way,
};

/// What a request's frames say that h3 does not tell, for whoever gets the request.
#[derive(Default)]
pub(super) struct Told {
    protocol: OnceLock<Protocol>,
    malformed: AtomicBool,
    fields: AtomicU64,
}

impl Told {
    /// What the head of an extended CONNECT named.
    pub(super) fn protocol(&self) -> Option<Protocol> {
        self.protocol.get().copied()
    }

    /// Whether the request so far is to be answered by H3_MESSAGE_ERROR.
    pub(super) fn is_malformed(&self) -> bool {
        self.malformed.load(Ordering::Relaxed)
    }

    /// Bytes of the head and the trailers, as they came.
    pub(super) fn fields(&self) -> u64 {
        self.fields.load(Ordering::Relaxed)
    }
}

/// Watches one request stream.
pub(super) struct Frames {
    framing: Framing,
    order: Order,
    told: Arc<Told>,
}

/// What may come when.
struct Order {
    /// Bytes of a decoded field section that are taken.
    max_fields: u64,
    part: Part,
    idle: Purse,
    data: Purse,
}

/// What came last.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Nothing,
    Head,
    Trailers,
}

/// Why h3 gets no more of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// The connection ends.
    #[error(transparent)]
    Connection(#[from] Violation),
    /// The stream does, with H3_MESSAGE_ERROR.
    #[error("the trailers have pseudo-fields")]
    Trailers,
}

/// Coded fields are hardly longer than decoded ones. Up to here h3 says how large a head is at most (431).
const CODED_PER_DECODED: u64 = 2;
/// Frames of one request that are empty or of no known type. Greasing takes one or two.
const IDLE_FRAMES: Allowance = Allowance { burst: 100, per_second: 1 };
/// Frames of data, of which each has some work of its own.
const DATA_FRAMES: Allowance = Allowance { burst: 10_000, per_second: 2_000 };
/// Bytes of data that are as much work as a frame: larger ones take nothing of their allowance.
const DATA_BYTES_PER_FRAME: u64 = 64;
/// Two integers of at most eight bytes.
const FRAME_HEAD_MAX: usize = 16;

const UNEXPECTED: Violation =
    Violation::new(Code::H3_FRAME_UNEXPECTED, "a frame that must not be on a request's stream");
const OUT_OF_ORDER: Violation = Violation::new(Code::H3_FRAME_UNEXPECTED, "a frame out of the order of a request");
const FIELDS: Violation =
    Violation::new(Code::H3_EXCESSIVE_LOAD, "a field section is many times larger than the setting allows");
const IDLE: Violation = Violation::new(Code::H3_EXCESSIVE_LOAD, "too many frames carry nothing");
const SMALL: Violation = Violation::new(Code::H3_EXCESSIVE_LOAD, "too many frames carry hardly anything");
const UNDECODABLE: Violation =
    Violation::new(Code::QPACK_DECOMPRESSION_FAILED, "a field section cannot be decoded without a dynamic table");

impl Frames {
    /// `max_fields` are the bytes of a decoded field section that are taken; `held` is shared by a connection's streams.
    pub(super) fn new(max_fields: u64, held: Held) -> Self {
        let (idle, data) = (Purse::new(IDLE_FRAMES), Purse::new(DATA_FRAMES));
        let order = Order { max_fields, part: Part::Nothing, idle, data };
        Self { framing: Framing::new(held), order, told: Arc::default() }
    }

    pub(super) fn told(&self) -> Arc<Told> {
        self.told.clone()
    }

    /// Takes what has come next. All that came before has to be taken out first.
    pub(super) fn feed(&mut self, chunk: Bytes) {
        self.framing.feed(chunk);
    }

    /// What goes on to h3 of what has come; none when there is to come more first.
    ///
    /// # Errors
    /// What the client must not do.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        let order = &mut self.order;
        let piece = self.framing.next(|kind, length| order.judge(kind, length))?;
        if let Some(Piece::Whole { frame, .. }) = &piece {
            self.told.fields.fetch_add(frame.len() as u64, Ordering::Relaxed);
        }
        match piece {
            None => Ok(None),
            Some(Piece::Passed(bytes)) => Ok(Some(bytes)),
            Some(Piece::Whole { at, frame, .. }) if self.order.part == Part::Nothing => {
                self.order.part = Part::Head;
                Ok(Some(self.head(frame, at)?))
            }
            Some(Piece::Whole { at, frame, .. }) => {
                self.order.part = Part::Trailers;
                match quic_fields::trailers(&frame[at..]) {
                    Ok(()) => Ok(Some(frame)),
                    Err(Fault::Malformed) => {
                        self.told.malformed.store(true, Ordering::Relaxed);
                        Err(Refusal::Trailers)
                    }
                    Err(Fault::Undecodable) => Err(UNDECODABLE.into()),
                }
            }
        }
    }

    /// The stream has ended.
    ///
    /// # Errors
    /// When it did so within a frame.
    pub(super) fn end(&self) -> Result<(), Violation> {
        self.framing.end()
    }

    fn head(&self, frame: Bytes, at: usize) -> Result<Bytes, Violation> {
        let section = &frame[at..];
        let (line, protocol) = match quic_fields::head(section) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(frame),
            Err(Fault::Malformed) => {
                self.told.malformed.store(true, Ordering::Relaxed);
                return Ok(frame);
            }
            Err(Fault::Undecodable) => return Err(UNDECODABLE),
        };
        // It is set once: a stream has one head.
        let _first = self.told.protocol.set(protocol);
        let mut head = BytesMut::with_capacity(section.len() + FRAME_HEAD_MAX);
        quic_fields::put_varint(&mut head, HEADERS);
        quic_fields::put_varint(&mut head, (section.len() - line.len()) as u64);
        head.put_slice(&section[..line.start]);
        head.put_slice(&section[line.end..]);
        Ok(head.freeze())
    }
}

impl Order {
    fn judge(&mut self, kind: u64, length: u64) -> Result<Way, Violation> {
        let way = match kind {
            // h3 takes an empty one for the end of the body.
            DATA if self.part == Part::Head && length == 0 => Way::Skip,
            DATA if self.part == Part::Head => Way::Pass,
            HEADERS if self.part != Part::Trailers => Way::Hold,
            DATA | HEADERS => return Err(OUT_OF_ORDER),
            CANCEL_PUSH | SETTINGS | PUSH_PROMISE | GOAWAY | MAX_PUSH_ID => return Err(UNEXPECTED),
            kind if OF_HTTP2.contains(&kind) => return Err(UNEXPECTED),
            _ => Way::Skip,
        };
        if way == Way::Hold && length > self.max_fields.saturating_mul(CODED_PER_DECODED) {
            return Err(FIELDS);
        }
        if (length == 0 || way == Way::Skip) && !self.idle.spend() {
            return Err(IDLE);
        }
        if way == Way::Pass {
            self.data.earn(u32::try_from(length / DATA_BYTES_PER_FRAME).unwrap_or(u32::MAX));
            if !self.data.spend() {
                return Err(SMALL);
            }
        }
        Ok(way)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::quic_framing::tests::frame;
    use super::*;

    const MAX: u64 = 1000;

    /// `:method CONNECT`, `:protocol` by a literal name, `:scheme https`, behind the section's prefix.
    fn connect(protocol: &[u8]) -> Vec<u8> {
        let mut section = vec![0, 0, 0xcf, 0x27, 0x02];
        section.extend_from_slice(b":protocol");
        section.push(protocol.len() as u8);
        section.extend_from_slice(protocol);
        section.push(0xd7);
        section
    }

    const HEAD: &[u8] = &[0, 0, 0xd1, 0xd7];

    fn frames() -> Frames {
        Frames::new(MAX, Held::new(16 * MAX))
    }

    fn pass_all(frames: &mut Frames, stream: &[u8], cuts: &[usize]) -> Result<Vec<u8>, Refusal> {
        let (mut out, mut from) = (Vec::new(), 0);
        for to in cuts.iter().copied().chain([stream.len()]) {
            frames.feed(Bytes::copy_from_slice(&stream[from..to]));
            from = to;
            while let Some(bytes) = frames.next()? {
                out.extend_from_slice(&bytes);
            }
        }
        frames.end()?;
        Ok(out)
    }

    proptest! {
        #[test]
        fn a_head_loses_its_protocol_and_a_request_what_is_none_however_it_is_cut(
            body in proptest::collection::vec(any::<u8>(), 0..300),
            mut cuts in proptest::collection::vec(any::<usize>(), 0..8),
        ) {
            let data = frame(DATA, &body);
            let grease = frame(0x21, b"grease");
            let sent = [&grease[..], &frame(HEADERS, &connect(b"websocket")), &data, &grease, &data].concat();
            let kept = if body.is_empty() { &[][..] } else { &data };
            let bare = [&frame(HEADERS, &[0, 0, 0xcf, 0xd7]), kept, kept].concat();
            let length = sent.len();
            cuts.iter_mut().for_each(|cut| *cut %= length + 1);
            cuts.sort_unstable();
            let mut frames = frames();
            prop_assert_eq!(pass_all(&mut frames, &sent, &cuts).unwrap(), bare);
            prop_assert_eq!(frames.told().protocol(), Some(Protocol::WebSocket));
        }

        #[test]
        fn bytes_that_are_no_frames_pass_or_are_refused_and_nothing_breaks(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            mut cuts in proptest::collection::vec(any::<usize>(), 0..8),
        ) {
            let length = bytes.len();
            cuts.iter_mut().for_each(|cut| *cut %= length + 1);
            cuts.sort_unstable();
            if let Ok(out) = pass_all(&mut frames(), &bytes, &cuts) {
                prop_assert!(out.len() <= bytes.len() + FRAME_HEAD_MAX);
            }
        }
    }

    #[test]
    fn a_head_without_a_protocol_is_passed_on_without_a_copy() {
        let stream = Bytes::from(frame(HEADERS, HEAD));
        let mut frames = frames();
        frames.feed(stream.clone());
        let passed = frames.next().unwrap().unwrap();
        assert_eq!((passed.as_ptr(), passed.len()), (stream.as_ptr(), stream.len()));
        assert_eq!(frames.told().protocol(), None);
    }

    #[test]
    fn a_field_section_without_end_is_refused_at_its_first_bytes_head_or_trailers() {
        for before in [Vec::new(), [frame(HEADERS, HEAD), frame(DATA, b"x")].concat()] {
            let mut endless = BytesMut::from(&before[..]);
            quic_fields::put_varint(&mut endless, HEADERS);
            quic_fields::put_varint(&mut endless, 1 << 40);
            assert_eq!(pass_all(&mut frames(), &endless, &[]), Err(FIELDS.into()));
        }
    }

    #[test]
    fn frames_that_carry_nothing_are_counted() {
        let head = frame(HEADERS, HEAD);
        for kind in [DATA, 0x21] {
            let many = |count| [&head[..], &frame(kind, b"").repeat(count)].concat();
            assert!(pass_all(&mut frames(), &many(IDLE_FRAMES.burst as usize), &[]).is_ok());
            assert_eq!(pass_all(&mut frames(), &many(IDLE_FRAMES.burst as usize + 1), &[]), Err(IDLE.into()));
        }
    }

    #[test]
    fn data_in_crumbs_is_counted_and_in_pieces_of_some_size_is_not() {
        let request = |piece: &[u8], count| [frame(HEADERS, HEAD), frame(DATA, piece).repeat(count)].concat();
        let most = DATA_FRAMES.burst as usize;
        assert_eq!(pass_all(&mut frames(), &request(b"x", 2 * most), &[]), Err(SMALL.into()));
        assert!(pass_all(&mut frames(), &request(&[b'x'; 64], 2 * most), &[]).is_ok());
    }

    #[test]
    fn what_must_not_be_there_is_refused_before_its_payload() {
        let (head, data, trailers) = (frame(HEADERS, HEAD), frame(DATA, b"x"), frame(HEADERS, &[0, 0]));
        for (before, kind, expected) in [
            (vec![], DATA, OUT_OF_ORDER),
            ([&head[..], &trailers].concat(), DATA, OUT_OF_ORDER),
            ([&head[..], &data, &trailers].concat(), HEADERS, OUT_OF_ORDER),
            (vec![], SETTINGS, UNEXPECTED),
            (head.clone(), PUSH_PROMISE, UNEXPECTED),
            (head.clone(), OF_HTTP2[0], UNEXPECTED),
        ] {
            let mut stream = BytesMut::from(&before[..]);
            quic_fields::put_varint(&mut stream, kind);
            quic_fields::put_varint(&mut stream, 100);
            assert_eq!(pass_all(&mut frames(), &stream, &[]), Err(expected.into()), "{kind}");
        }
    }

    #[test]
    fn a_malformed_head_is_told_and_malformed_trailers_do_not_pass() {
        let twice = frame(HEADERS, &[0, 0, 0xd1, 0xd1, 0xd7]);
        let mut one = frames();
        assert_eq!(pass_all(&mut one, &twice, &[]).unwrap(), twice);
        assert!(one.told().is_malformed());
        let mut one = frames();
        assert_eq!(pass_all(&mut one, &[frame(HEADERS, HEAD), twice].concat(), &[]), Err(Refusal::Trailers));
        assert!(one.told().is_malformed());
    }
}
