//! The frames of an HTTP/2 client on their way to h2, looked at by their heads alone: bounds over time, and sizes.
//!
//! h2 bounds what its memory depends on: frames of a head, streams that were reset before anybody took them up, streams that it
//! had to reset. What only costs time it takes without an end: pings and settings that want an answer each, requests given
//! up as soon as they have begun, priorities, windows opened byte by byte, data in crumbs. Here each kind has an allowance.
//!
//! h2 cannot be told from outside to send GOAWAY with a code. So in the place of the frame that is too many, it gets frames
//! that it refuses with that very code, and closes the connection as it does for any other reason.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::activity::Activity;
use super::door::Limit;
use super::h2_purses::{ACK, CONTINUATION, HEADERS, Purses, RST_STREAM, SETTINGS, has_its_length};

/// A socket for h2 that watches what is read from it.
pub(super) struct Frames<I> {
    io: I,
    activity: Arc<Activity>,
    /// Bytes still to come of the frame that is passing, its head apart; at first of the preface.
    passing: u64,
    /// A frame's head that came in pieces, and how much of it is there.
    head: [u8; HEAD],
    known: usize,
    /// How much of it has been given to h2. It is judged before it is.
    given: Option<usize>,
    /// The stream whose head has not ended yet.
    block: Option<u32>,
    /// The frame that is passing is the last of a head.
    ends_block: bool,
    purses: Purses,
    /// SETTINGS have come, which have to be the first frame (RFC 9113 section 3.4).
    settings_seen: bool,
    /// What h2 gets from now on, again and again, and where in it we are.
    refusal: Option<(Vec<u8>, usize)>,
}

/// What h2 is to close the connection with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// ENHANCE_YOUR_CALM.
    Calm(Limit),
    /// PROTOCOL_ERROR.
    Protocol,
    /// FRAME_SIZE_ERROR (RFC 9113 section 4.2), which h2 calls a PROTOCOL_ERROR for most frames.
    Size,
}

/// `PRI * HTTP/2.0` and so on; h2 compares it.
const PREFACE: u64 = 24;
/// A frame's head: length, type, flags, stream (RFC 9113 section 4.1).
const HEAD: usize = 9;

const END_HEADERS: u8 = 0x4;

impl<I> Frames<I> {
    pub(super) fn new(io: I, activity: Arc<Activity>) -> Self {
        Self {
            io,
            activity,
            passing: PREFACE,
            head: [0; HEAD],
            known: 0,
            given: None,
            block: None,
            ends_block: false,
            purses: Purses::new(),
            settings_seen: false,
            refusal: None,
        }
    }

    /// Goes over `bytes`, which begin where the last ones ended. Gives how many of them may pass: not the frame that is too
    /// many, and not a head in part.
    fn scan(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        loop {
            let passed = self.passing.min((bytes.len() - at) as u64);
            self.pass(passed);
            at += usize::try_from(passed).unwrap_or_default();
            let rest = &bytes[at..];
            if rest.is_empty() {
                return at;
            }
            let Some(head) = rest.first_chunk::<HEAD>() else {
                self.head[..rest.len()].copy_from_slice(rest);
                self.known = rest.len();
                return at;
            };
            if let Err(refusal) = self.judge(head) {
                self.refuse(refusal);
                return at;
            }
            at += HEAD;
        }
    }

    /// So many bytes of the frame's payload have come.
    fn pass(&mut self, bytes: u64) {
        self.passing -= bytes;
        if self.passing == 0 && std::mem::take(&mut self.ends_block) {
            self.activity.block_ends();
        }
    }

    fn judge(&mut self, head: &[u8; HEAD]) -> Result<(), Refusal> {
        let [a, b, c, kind, flags, s0, s1, s2, s3] = *head;
        let (length, stream) = (u32::from_be_bytes([0, a, b, c]), u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff);
        if !std::mem::replace(&mut self.settings_seen, true) && (kind != SETTINGS || flags & ACK != 0) {
            return Err(Refusal::Protocol);
        }
        if self.block.is_some() {
            // Nothing else may come within a head, and h2 counts its frames.
            if kind == CONTINUATION && flags & END_HEADERS != 0 {
                (self.block, self.ends_block) = (None, true);
            }
        } else if !has_its_length(kind, flags, length) {
            return Err(Refusal::Size);
        } else if !self.purses.pays(kind, flags, length) {
            return Err(Refusal::Calm(if kind == RST_STREAM { Limit::Http2Resets } else { Limit::Http2Frames }));
        } else if kind == HEADERS {
            self.activity.block_begins();
            let ends = flags & END_HEADERS != 0;
            (self.block, self.ends_block) = ((!ends).then_some(stream), ends);
        }
        self.passing = u64::from(length);
        self.pass(0);
        Ok(())
    }

    fn refuse(&mut self, refusal: Refusal) {
        if let Refusal::Calm(limit) = refusal {
            self.activity.cut(limit);
        }
        let frame = |kind, stream: u32| {
            let [a, b, c, d] = stream.to_be_bytes();
            [0, 0, 0, kind, 0, a, b, c, d]
        };
        let bytes = match (refusal, self.block) {
            // Too long for any settings of ours.
            (Refusal::Size, _) => vec![0xff; HEAD],
            // A head that goes on without having begun.
            (Refusal::Protocol, _) => frame(CONTINUATION, 1).to_vec(),
            // A head that does not end.
            (Refusal::Calm(_), Some(stream)) => frame(CONTINUATION, stream).to_vec(),
            (Refusal::Calm(_), None) => {
                let head = [frame(HEADERS, 1), frame(CONTINUATION, 1), frame(CONTINUATION, 1)];
                self.block = Some(1);
                head.concat()
            }
        };
        self.refusal = Some((bytes, 0));
    }

    /// Gives h2 what it refuses.
    fn fill(&mut self, buf: &mut ReadBuf<'_>) {
        let Some((bytes, at)) = &mut self.refusal else { return };
        let rest = &bytes[*at..];
        let given = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..given]);
        *at += given;
        if *at == bytes.len() {
            // The last frame again.
            *at -= HEAD;
        }
    }
}

impl<I: AsyncRead + Unpin> Frames<I> {
    /// Reads the rest of a head that came in pieces, and no more. False when there is none.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.known == 0 {
            return Poll::Ready(Ok(false));
        }
        while self.given.is_none() {
            let mut rest = ReadBuf::new(&mut self.head[self.known..]);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut rest))?;
            let read = rest.filled().len();
            self.known += read;
            if self.known == HEAD {
                let head = self.head;
                if let Err(refusal) = self.judge(&head) {
                    self.refuse(refusal);
                    return Poll::Ready(Ok(false));
                }
            }
            if read == 0 || self.known == HEAD {
                self.given = Some(0);
            }
        }
        Poll::Ready(Ok(true))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Frames<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.refusal.is_none() && this.activity.head_expired() {
            if this.passing > 0 {
                // Nothing can be put into a frame that has begun: h2 sees a client that left.
                return Poll::Ready(Ok(()));
            }
            this.refuse(Refusal::Calm(Limit::Head));
        }
        loop {
            if this.refusal.is_some() {
                this.fill(buf);
                return Poll::Ready(Ok(()));
            }
            if ready!(this.poll_head(cx))? {
                let given = this.given.unwrap_or_default();
                let rest = &this.head[given..this.known];
                let more = rest.len().min(buf.remaining());
                buf.put_slice(&rest[..more]);
                this.given = Some(given + more);
                if given + more == this.known {
                    (this.known, this.given) = (0, None);
                }
                return Poll::Ready(Ok(()));
            }
            if this.refusal.is_some() {
                continue;
            }
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
            let read = buf.filled().len() - before;
            let passed = this.scan(&buf.filled()[before..]);
            buf.set_filled(before + passed);
            if passed > 0 || read == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Frames<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        if let Poll::Ready(Ok(bytes)) = written {
            self.purses.wrote(bytes);
        }
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(bytes)) = written {
            self.purses.wrote(bytes);
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use proptest::prelude::*;

    use super::super::h2_purses::{CONTROLS, PING};
    use super::*;

    /// Gives what it has in pieces of this length, and then ends.
    struct Socket {
        bytes: Vec<u8>,
        at: usize,
        piece: usize,
    }

    impl AsyncRead for Socket {
        fn poll_read(mut self: Pin<&mut Self>, _cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let end = (self.at + self.piece.min(buf.remaining())).min(self.bytes.len());
            buf.put_slice(&self.bytes[self.at..end]);
            self.at = end;
            Poll::Ready(Ok(()))
        }
    }

    fn frames(bytes: Vec<u8>, piece: usize) -> Frames<Socket> {
        let preface = vec![b'p'; PREFACE as usize];
        let settings = frame(SETTINGS, 0, 0, &[]);
        Frames::new(Socket { bytes: [preface, settings, bytes].concat(), at: 0, piece }, Activity::new())
    }

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    /// What comes behind the preface until the end, or until it is refused.
    fn read(frames: &mut Frames<Socket>, room: usize) -> Vec<u8> {
        let mut all = Vec::new();
        let mut buffer = vec![0; room];
        loop {
            let mut buf = ReadBuf::new(&mut buffer);
            let cx = &mut Context::from_waker(Waker::noop());
            let was_refused = frames.refusal.is_some();
            assert!(matches!(Pin::new(&mut *frames).poll_read(cx, &mut buf), Poll::Ready(Ok(()))));
            // What came before a refusal is given before it; unless its head came in pieces, and nothing else did.
            let is_refused = was_refused || frames.refusal.is_some() && frames.known == HEAD;
            if is_refused || buf.filled().is_empty() {
                return all.split_off(PREFACE as usize + HEAD);
            }
            all.extend_from_slice(buf.filled());
        }
    }

    proptest! {
        #[test]
        fn what_is_allowed_passes_unchanged_however_it_comes(
            sent in proptest::collection::vec((any::<u8>(), any::<u8>(), any::<u32>(), 0..40_usize), 0..20),
            end in proptest::collection::vec(any::<u8>(), 0..HEAD),
            piece in 1..60_usize,
            room in 1..60_usize,
        ) {
            let frames_of = sent.iter().map(|(kind, flags, stream, length)| frame(kind % 12, *flags, *stream, &vec![7; *length]));
            let right = |bytes: &Vec<u8>| {
                let mut frames = frames(Vec::new(), 1);
                frames.settings_seen = true;
                frames.judge(bytes.first_chunk().unwrap()).is_ok()
            };
            let mut bytes: Vec<u8> = frames_of.filter(right).flatten().collect();
            bytes.extend(end);
            let mut frames = frames(bytes.clone(), piece);
            prop_assert_eq!(read(&mut frames, room), bytes);
        }
    }

    #[test]
    fn the_frame_that_is_too_many_does_not_pass_and_h2_gets_what_it_refuses() {
        let head = frame(HEADERS, END_HEADERS, 1, &[0x82]);
        let ping = frame(PING, 0, 0, &[0; 8]);
        for more in [0, CONTROLS.burst] {
            let pings = ping.repeat((CONTROLS.burst + more) as usize - 1);
            let mut frames = frames([&head[..], &pings].concat(), 1 << 20);
            let passed = read(&mut frames, 1 << 20);
            assert!(passed.starts_with(&head) && (passed.len() - head.len()).is_multiple_of(ping.len()));
            assert_eq!(frames.refusal.is_some(), more > 0);
            assert_eq!(frames.activity.cut_for().is_some(), more > 0);
        }
        for (wrong, refused) in
            [(frame(PING, 0, 0, &[0; 7]), Refusal::Size), (frame(RST_STREAM, 0, 1, &[]), Refusal::Size)]
        {
            let mut frames = frames([&head[..], &wrong].concat(), 5);
            assert_eq!(read(&mut frames, 100), head, "{refused:?}");
            assert!(frames.refusal.is_some());
        }
    }

    #[test]
    fn a_head_is_under_way_from_its_first_frame_to_the_end_of_its_last() {
        let timeout = std::time::Duration::from_secs(1);
        for (sent, under_way) in [
            (frame(HEADERS, END_HEADERS, 1, &[0x82]), false),
            (frame(HEADERS, END_HEADERS, 1, &[0x82; 9])[..12].to_vec(), true),
            (frame(HEADERS, 0, 1, &[0x82]), true),
            ([frame(HEADERS, 0, 1, &[0x82]), frame(CONTINUATION, 0, 1, &[])].concat(), true),
            ([frame(HEADERS, 0, 1, &[0x82]), frame(CONTINUATION, END_HEADERS, 1, &[])].concat(), false),
        ] {
            let mut frames = frames(sent.clone(), 7);
            read(&mut frames, 100);
            assert_eq!(frames.activity.head_due(timeout).is_some(), under_way, "{sent:?}");
        }
    }
}
