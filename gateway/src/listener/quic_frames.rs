//! The frames of an HTTP/3 request on their way to h3: bounds that h3 has not, and one field that it does not know.
//!
//! h3 keeps a frame with fields until all of it has come, whatever length it declares, and takes a head whose
//! `:protocol` names anything but two protocols of its own for malformed. So lengths and empty frames are counted here,
//! and `:protocol` is taken out of a head and told beside it: extended CONNECT (RFC 9220) works as over HTTP/2.

use std::sync::{Arc, OnceLock};

use bytes::{BufMut, Bytes, BytesMut};

use super::quic_fields::{self, Protocol};

/// What the head of an extended CONNECT named, for whoever gets the request.
pub(super) type Named = Arc<OnceLock<Protocol>>;

/// Watches one request stream.
pub(super) struct Frames {
    /// Bytes of a decoded field section that are taken.
    max_fields: u64,
    /// Bytes that still belong to the frame that is passing.
    passing: u64,
    /// A frame that is not complete yet: its first bytes, or a head.
    held: BytesMut,
    named: Named,
    head_seen: bool,
    empty: u32,
}

/// The client asks for more than any good one would; the connection ends with H3_EXCESSIVE_LOAD.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Excess {
    #[error("a field section is many times larger than the setting allows")]
    Fields,
    #[error("too many frames carry nothing")]
    EmptyFrames,
}

/// Coded fields are hardly longer than decoded ones. Up to here h3 says how large a head is at most (431).
const CODED_PER_DECODED: u64 = 2;
/// Frames of one request that are empty or of no known type. Greasing takes one or two.
const EMPTY_FRAMES_MAX: u32 = 100;

const DATA: u64 = 0x0;
const HEADERS: u64 = 0x1;
/// Two integers of at most eight bytes.
const FRAME_HEAD_MAX: usize = 16;

impl Frames {
    pub(super) fn new(max_fields: u64) -> Self {
        Self { max_fields, passing: 0, held: BytesMut::new(), named: Named::default(), head_seen: false, empty: 0 }
    }

    pub(super) fn named(&self) -> Named {
        self.named.clone()
    }

    /// What may go on to h3 now that `chunk` has come; nothing while a head is not complete.
    ///
    /// # Errors
    /// A client that is to be cut off.
    pub(super) fn pass(&mut self, chunk: Bytes) -> Result<Bytes, Excess> {
        if self.held.is_empty() && self.passing >= chunk.len() as u64 {
            self.passing -= chunk.len() as u64;
            return Ok(chunk);
        }
        let mut input = if self.held.is_empty() {
            chunk
        } else {
            let mut held = std::mem::take(&mut self.held);
            held.extend_from_slice(&chunk);
            held.freeze()
        };
        // Most chunks pass as they are: `passed` counts what does, and only a changed head makes a copy.
        let (mut changed, mut passed) = (None::<BytesMut>, 0);
        loop {
            let skip = self.passing.min((input.len() - passed) as u64);
            self.passing -= skip;
            passed += usize::try_from(skip).unwrap_or_default();
            if passed == input.len() {
                break;
            }
            match self.next(&input[passed..])? {
                Next::Pass(bytes) => self.passing = bytes,
                Next::Replace { length, head } => {
                    let mut whole = changed.take().unwrap_or_default();
                    whole.extend_from_slice(&input[..passed]);
                    whole.extend_from_slice(&head);
                    changed = Some(whole);
                    input = input.slice(passed + length..);
                    passed = 0;
                }
                Next::Wait => {
                    self.held.extend_from_slice(&input[passed..]);
                    break;
                }
            }
        }
        input.truncate(passed);
        Ok(match changed {
            Some(mut whole) => {
                whole.extend_from_slice(&input);
                whole.freeze()
            }
            None => input,
        })
    }

    /// What is left when the stream ends: a frame that was broken off, for h3 to judge.
    pub(super) fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.held).freeze()
    }

    /// Looks at the frame that `input` begins with.
    fn next(&mut self, input: &[u8]) -> Result<Next, Excess> {
        let Some((kind, at)) = quic_fields::varint(input, 0) else { return Ok(Next::Wait) };
        let Some((length, at)) = quic_fields::varint(input, at) else { return Ok(Next::Wait) };
        let whole = length.saturating_add(at as u64);
        if length == 0 || !matches!(kind, DATA | HEADERS) {
            self.empty += 1;
            if self.empty > EMPTY_FRAMES_MAX {
                return Err(Excess::EmptyFrames);
            }
        }
        if kind != HEADERS {
            return Ok(Next::Pass(whole));
        }
        if length > self.max_fields.saturating_mul(CODED_PER_DECODED) {
            return Err(Excess::Fields);
        }
        if self.head_seen || length > self.max_fields {
            return Ok(Next::Pass(whole));
        }
        let Some(section) = usize::try_from(whole).ok().and_then(|end| input.get(at..end)) else {
            return Ok(Next::Wait);
        };
        self.head_seen = true;
        let Some((line, protocol)) = quic_fields::protocol(section) else { return Ok(Next::Pass(whole)) };
        // It is set once: a stream has one head.
        let _first = self.named.set(protocol);
        let mut head = BytesMut::with_capacity(section.len() + FRAME_HEAD_MAX);
        quic_fields::put_varint(&mut head, HEADERS);
        quic_fields::put_varint(&mut head, (section.len() - line.len()) as u64);
        head.put_slice(&section[..line.start]);
        head.put_slice(&section[line.end..]);
        Ok(Next::Replace { length: at + section.len(), head: head.freeze() })
    }
}

enum Next {
    /// So many bytes, whenever they come.
    Pass(u64),
    /// `head` in the place of the first `length` bytes.
    Replace {
        length: usize,
        head: Bytes,
    },
    Wait,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: u64 = 1000;

    fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
        let mut bytes = BytesMut::new();
        quic_fields::put_varint(&mut bytes, kind);
        quic_fields::put_varint(&mut bytes, payload.len() as u64);
        bytes.extend_from_slice(payload);
        bytes.to_vec()
    }

    /// `:method CONNECT`, `:protocol websocket` by a literal name, `:scheme https`, behind the section's prefix.
    fn connect(protocol: &[u8]) -> Vec<u8> {
        let mut section = vec![0, 0, 0xcf, 0x27, 0x02];
        section.extend_from_slice(b":protocol");
        section.push(protocol.len() as u8);
        section.extend_from_slice(protocol);
        section.push(0xd7);
        section
    }

    fn pass_all(frames: &mut Frames, stream: &[u8], cuts: &[usize]) -> Result<Vec<u8>, Excess> {
        let mut out = Vec::new();
        let mut from = 0;
        for to in cuts.iter().map(|cut| cut % (stream.len() + 1)).chain([stream.len()]) {
            if to >= from {
                out.extend_from_slice(&frames.pass(Bytes::copy_from_slice(&stream[from..to]))?);
                from = to;
            }
        }
        out.extend_from_slice(&frames.rest());
        Ok(out)
    }

    proptest! {
        #[test]
        fn a_head_loses_its_protocol_and_all_else_passes_however_it_is_cut(
            body in proptest::collection::vec(any::<u8>(), 0..300),
            mut cuts in proptest::collection::vec(any::<usize>(), 0..8),
        ) {
            let data = frame(DATA, &body);
            let grease = frame(0x21, b"grease");
            let sent = [&grease[..], &frame(HEADERS, &connect(b"websocket")), &data, &data].concat();
            let bare = [&grease[..], &frame(HEADERS, &[0, 0, 0xcf, 0xd7]), &data, &data].concat();
            let length = sent.len();
            cuts.iter_mut().for_each(|cut| *cut %= length + 1);
            cuts.sort_unstable();
            let mut frames = Frames::new(MAX);
            prop_assert_eq!(pass_all(&mut frames, &sent, &cuts).unwrap(), bare);
            prop_assert_eq!(frames.named().get().copied(), Some(Protocol::WebSocket));
        }

        #[test]
        fn bytes_that_are_no_frames_pass_or_are_refused_and_nothing_breaks(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            mut cuts in proptest::collection::vec(any::<usize>(), 0..8),
        ) {
            let length = bytes.len();
            cuts.iter_mut().for_each(|cut| *cut %= length + 1);
            cuts.sort_unstable();
            let mut frames = Frames::new(MAX);
            if let Ok(out) = pass_all(&mut frames, &bytes, &cuts) {
                prop_assert!(frames.named().get().is_some() || out == bytes);
            }
        }
    }

    #[test]
    fn a_head_without_a_protocol_is_passed_on_without_a_copy() {
        let stream = Bytes::from(frame(HEADERS, &[0, 0, 0xd1, 0xd7]));
        let mut frames = Frames::new(MAX);
        let passed = frames.pass(stream.clone()).unwrap();
        assert_eq!((passed.as_ptr(), passed.len()), (stream.as_ptr(), stream.len()));
        assert_eq!(frames.named().get(), None);
    }

    #[test]
    fn a_field_section_without_end_is_refused_at_its_first_bytes_head_or_trailers() {
        for before in [Vec::new(), [frame(HEADERS, &[0, 0, 0xd1]), frame(DATA, b"x")].concat()] {
            let mut endless = BytesMut::from(&before[..]);
            quic_fields::put_varint(&mut endless, HEADERS);
            quic_fields::put_varint(&mut endless, 1 << 40);
            assert_eq!(pass_all(&mut Frames::new(MAX), &endless, &[]), Err(Excess::Fields));
        }
    }

    #[test]
    fn frames_that_carry_nothing_are_counted() {
        let few = frame(DATA, b"").repeat(EMPTY_FRAMES_MAX as usize);
        assert_eq!(pass_all(&mut Frames::new(MAX), &few, &[]).unwrap(), few);
        let many = frame(0x21, b"").repeat(EMPTY_FRAMES_MAX as usize + 1);
        assert_eq!(pass_all(&mut Frames::new(MAX), &many, &[]), Err(Excess::EmptyFrames));
    }
}
