//! A stream of HTTP/3 cut into frames (RFC 9114 section 7.1), of which no more is kept than whoever reads it asks for.
//!
//! h3 keeps any frame but DATA until all of it has come, whatever length it declares, and looks over all the pieces again
//! each time. Here each frame's type and length are judged first: what is to be read whole has a bound then, and costs the
//! same in one piece or in many.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, Bytes, BytesMut};
use h3::error::Code;

use super::quic_fields;

/// Why a connection ends (RFC 9114 section 8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(super) struct Violation {
    pub(super) code: Code,
    pub(super) reason: &'static str,
}

impl Violation {
    pub(super) const fn new(code: Code, reason: &'static str) -> Self {
        Self { code, reason }
    }
}

/// Frame types (RFC 9114 section 7.2 and 11.2.1).
pub(super) const DATA: u64 = 0x0;
pub(super) const HEADERS: u64 = 0x1;
pub(super) const CANCEL_PUSH: u64 = 0x3;
pub(super) const SETTINGS: u64 = 0x4;
pub(super) const PUSH_PROMISE: u64 = 0x5;
pub(super) const GOAWAY: u64 = 0x7;
pub(super) const MAX_PUSH_ID: u64 = 0xd;
/// Of HTTP/2, with no meaning here: PRIORITY, PING, WINDOW_UPDATE, CONTINUATION.
pub(super) const OF_HTTP2: [u64; 4] = [0x2, 0x6, 0x8, 0x9];

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Passed on as it comes.
    Pass,
    /// Kept until it is whole.
    Hold,
    /// Thrown away as it comes.
    Skip,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Of a frame that passes.
    Passed(Bytes),
    /// A frame that was held, its payload from `at` on.
    Whole { kind: u64, at: usize, frame: Bytes },
}

/// Bytes of frames that are held, over all streams of a connection.
#[derive(Clone)]
pub(super) struct Held {
    bytes: Arc<AtomicU64>,
    max: u64,
}

impl Held {
    pub(super) fn new(max: u64) -> Self {
        Self { bytes: Arc::default(), max }
    }
}

pub(super) struct Framing {
    /// What came last, as far as it has not been looked at.
    input: Bytes,
    /// The beginning of a frame that is not complete.
    start: BytesMut,
    /// Bytes of `start` with which there is something to look at.
    needed: usize,
    /// Where the payload of the frame in `start` begins, once that is known to be held.
    holding: Option<(u64, usize)>,
    /// Bytes still to come of a frame that passes.
    passing: u64,
    /// The same of one that is thrown away.
    skipping: u64,
    held: Held,
}

/// Frames whose length cannot be kept in memory are never held; this is what such a length comes to.
const TOO_LONG: Violation = Violation::new(Code::H3_EXCESSIVE_LOAD, "a frame is too long to be kept");
const TOO_MUCH: Violation = Violation::new(Code::H3_EXCESSIVE_LOAD, "too many heads are incomplete");
const BROKEN_OFF: Violation = Violation::new(Code::H3_FRAME_ERROR, "the stream ends within a frame");

impl Framing {
    pub(super) fn new(held: Held) -> Self {
        Self { input: Bytes::new(), start: BytesMut::new(), needed: 0, holding: None, passing: 0, skipping: 0, held }
    }

    /// Takes what has come next. All that came before has to be taken out first.
    pub(super) fn feed(&mut self, chunk: Bytes) {
        self.input = chunk;
    }

    /// The next piece of what has come; none when there is to come more first. `judge` is told the type and the length of
    /// each frame, once.
    ///
    /// # Errors
    /// Those of `judge`, and when too much is held.
    pub(super) fn next(
        &mut self,
        mut judge: impl FnMut(u64, u64) -> Result<Way, Violation>,
    ) -> Result<Option<Piece>, Violation> {
        loop {
            let skipped = self.skipping.min(self.input.len() as u64);
            self.skipping -= skipped;
            self.input.advance(usize::try_from(skipped).unwrap_or_default());
            if self.input.is_empty() {
                return Ok(None);
            }
            if self.passing > 0 {
                let passed = usize::try_from(self.passing).unwrap_or(usize::MAX).min(self.input.len());
                self.passing -= passed as u64;
                return Ok(Some(Piece::Passed(self.input.split_to(passed))));
            }
            if !self.start.is_empty() {
                if !self.collect()? {
                    return Ok(None);
                }
                if let Some((kind, at)) = self.holding.take() {
                    return Ok(Some(Piece::Whole { kind, at, frame: self.release() }));
                }
            }
            let look = if self.start.is_empty() { &self.input[..] } else { &self.start[..] };
            let Some((kind, length, at)) = head(look) else {
                let known = look.len();
                if self.start.is_empty() {
                    self.keep(known)?;
                }
                self.needed = known + 1;
                continue;
            };
            match judge(kind, length)? {
                Way::Skip => {
                    self.skipping = length;
                    if self.release().is_empty() {
                        self.input.advance(at);
                    }
                }
                Way::Pass => {
                    let start = self.release();
                    if !start.is_empty() {
                        self.passing = length;
                        return Ok(Some(Piece::Passed(start)));
                    }
                    self.passing = length.saturating_add(at as u64);
                }
                Way::Hold => {
                    let whole =
                        usize::try_from(length).ok().and_then(|length| length.checked_add(at)).ok_or(TOO_LONG)?;
                    if self.start.is_empty() && self.input.len() >= whole {
                        return Ok(Some(Piece::Whole { kind, at, frame: self.input.split_to(whole) }));
                    }
                    if self.start.len() == whole {
                        return Ok(Some(Piece::Whole { kind, at, frame: self.release() }));
                    }
                    (self.holding, self.needed) = (Some((kind, at)), whole);
                    if self.start.is_empty() {
                        self.keep(self.input.len())?;
                    }
                }
            }
        }
    }

    /// The stream has ended.
    ///
    /// # Errors
    /// When it did so within a frame (RFC 9114 section 7.1).
    pub(super) fn end(&self) -> Result<(), Violation> {
        let whole = self.start.is_empty() && self.passing == 0 && self.skipping == 0;
        if whole { Ok(()) } else { Err(BROKEN_OFF) }
    }

    /// Moves input to `start` until that is as long as needed. False when there is not enough.
    fn collect(&mut self) -> Result<bool, Violation> {
        let missing = self.needed.saturating_sub(self.start.len());
        self.keep(missing.min(self.input.len()))?;
        Ok(self.start.len() >= self.needed)
    }

    fn keep(&mut self, bytes: usize) -> Result<(), Violation> {
        // Copied: a slice would keep the whole datagram that it came in.
        self.start.extend_from_slice(&self.input[..bytes]);
        self.input.advance(bytes);
        let before = self.held.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if before + bytes as u64 > self.held.max { Err(TOO_MUCH) } else { Ok(()) }
    }

    fn release(&mut self) -> Bytes {
        self.held.bytes.fetch_sub(self.start.len() as u64, Ordering::Relaxed);
        std::mem::take(&mut self.start).freeze()
    }
}

impl Drop for Framing {
    fn drop(&mut self) {
        drop(self.release());
    }
}

/// The type and the length of the frame that `bytes` begin with, and where its payload begins.
fn head(bytes: &[u8]) -> Option<(u64, u64, usize)> {
    let (kind, at) = quic_fields::varint(bytes, 0)?;
    let (length, at) = quic_fields::varint(bytes, at)?;
    Some((kind, length, at))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: u64 = 4096;
    const SKIPPED: u64 = 0x21;

    pub(crate) fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
        let mut bytes = BytesMut::new();
        quic_fields::put_varint(&mut bytes, kind);
        quic_fields::put_varint(&mut bytes, payload.len() as u64);
        bytes.extend_from_slice(payload);
        bytes.to_vec()
    }

    fn judge(kind: u64, _length: u64) -> Result<Way, Violation> {
        Ok(match kind {
            DATA => Way::Pass,
            HEADERS => Way::Hold,
            _ => Way::Skip,
        })
    }

    /// What passes, and the frames that were held.
    fn read(framing: &mut Framing, stream: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, Vec<Vec<u8>>), Violation> {
        let (mut passed, mut whole, mut from) = (Vec::new(), Vec::new(), 0);
        for to in cuts.iter().copied().chain([stream.len()]) {
            framing.feed(Bytes::copy_from_slice(&stream[from..to]));
            from = to;
            while let Some(piece) = framing.next(judge)? {
                match piece {
                    Piece::Passed(bytes) => passed.extend_from_slice(&bytes),
                    Piece::Whole { at, frame, .. } => whole.push(frame[at..].to_vec()),
                }
            }
        }
        Ok((passed, whole))
    }

    proptest! {
        #[test]
        fn frames_go_their_ways_however_they_are_cut(
            frames in proptest::collection::vec((0..3_usize, proptest::collection::vec(any::<u8>(), 0..100)), 0..12),
            mut cuts in proptest::collection::vec(any::<usize>(), 0..20),
        ) {
            let kinds = [DATA, HEADERS, SKIPPED];
            let stream: Vec<u8> = frames.iter().flat_map(|(kind, payload)| frame(kinds[*kind], payload)).collect();
            let of = |wanted: usize| frames.iter().filter(move |(kind, _)| *kind == wanted);
            let data: Vec<u8> = of(0).flat_map(|(_, payload)| frame(DATA, payload)).collect();
            let heads: Vec<Vec<u8>> = of(1).map(|(_, payload)| payload.clone()).collect();
            let length = stream.len();
            cuts.iter_mut().for_each(|cut| *cut %= length + 1);
            cuts.sort_unstable();
            let held = Held::new(MAX);
            let mut framing = Framing::new(held.clone());
            prop_assert_eq!(read(&mut framing, &stream, &cuts), Ok((data, heads)));
            prop_assert_eq!(framing.end(), Ok(()));
            prop_assert_eq!(held.bytes.load(Ordering::Relaxed), 0);
        }

        #[test]
        fn bytes_that_are_no_frames_break_nothing(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            mut cuts in proptest::collection::vec(any::<usize>(), 0..8),
        ) {
            let length = bytes.len();
            cuts.iter_mut().for_each(|cut| *cut %= length + 1);
            cuts.sort_unstable();
            let held = Held::new(MAX);
            let mut framing = Framing::new(held.clone());
            let _any = read(&mut framing, &bytes, &cuts);
            prop_assert!(held.bytes.load(Ordering::Relaxed) <= 200);
            drop(framing);
            prop_assert_eq!(held.bytes.load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn what_is_skipped_is_not_kept_whatever_length_it_has() {
        let held = Held::new(MAX);
        let mut framing = Framing::new(held.clone());
        let mut start = BytesMut::new();
        quic_fields::put_varint(&mut start, SKIPPED);
        quic_fields::put_varint(&mut start, 1 << 60);
        assert_eq!(read(&mut framing, &start, &[3]), Ok((vec![], vec![])));
        for _ in 0..1000 {
            assert_eq!(read(&mut framing, &[7; 1000], &[]), Ok((vec![], vec![])));
        }
        assert_eq!(held.bytes.load(Ordering::Relaxed), 0);
        assert_eq!(framing.end(), Err(BROKEN_OFF));
    }

    #[test]
    fn heads_that_are_incomplete_on_many_streams_are_too_much_together() {
        let held = Held::new(MAX);
        let start = &frame(HEADERS, &[0; 1000])[..900];
        let mut streams: Vec<_> = (0..4).map(|_| Framing::new(held.clone())).collect();
        for stream in &mut streams {
            assert_eq!(read(stream, start, &[]), Ok((vec![], vec![])));
        }
        assert_eq!(read(&mut Framing::new(held.clone()), start, &[]), Err(TOO_MUCH));
        drop(streams);
        assert_eq!(read(&mut Framing::new(held), start, &[]), Ok((vec![], vec![])));
    }

    #[test]
    fn a_stream_that_ends_within_a_frame_is_broken_off() {
        for kind in [DATA, HEADERS, SKIPPED] {
            let whole = frame(kind, &[0; 100]);
            for cut in 1..whole.len() {
                let mut framing = Framing::new(Held::new(MAX));
                read(&mut framing, &whole[..cut], &[]).unwrap();
                assert_eq!(framing.end(), Err(BROKEN_OFF), "{kind} {cut}");
            }
        }
    }
}
