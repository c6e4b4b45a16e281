//! One write for all that an HTTP/2 connection says in one turn.
//!
//! h2 flushes behind every DATA frame of a few hundred bytes, which would make each message a TLS record and a system call
//! of its own. Under a [`Cork`] a flush only asks for another turn: what was written until then goes out as that begins, in
//! pieces as long as a TLS record. Whatever else became ready in between goes with it.
//!
//! A turn begins with the first read after [`Turns::next`]. Where nobody calls that, each read is one.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that wait at most: what fits a TLS record (RFC 8446 section 5.1).
const RECORD_BYTES: usize = 16 * 1024;

/// Counts how often a connection was polled, for one that reads more than once each time. Clones count the same.
#[derive(Clone, Default)]
pub(crate) struct Turns(Arc<AtomicU64>);

impl Turns {
    /// The connection is about to be polled.
    pub(crate) fn next(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A socket for h2, which reads it at the beginning of each of its turns, and reads and writes it from one task.
pub(crate) struct Cork<I> {
    io: I,
    turns: Option<Turns>,
    /// Has no room of its own while nothing waits: most connections are idle.
    waiting: Vec<u8>,
    /// How much of it is out.
    written: usize,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Flushed,
    /// Something was written since.
    Written,
    /// And is to go out in another turn than this one.
    Due {
        behind: Option<u64>,
    },
}

impl<I: AsyncWrite + Unpin> Cork<I> {
    pub(crate) fn new(io: I, turns: Option<Turns>) -> Self {
        Self { io, turns, waiting: Vec::new(), written: 0, state: State::Flushed }
    }

    fn turn(&self) -> Option<u64> {
        self.turns.as_ref().map(|turns| turns.0.load(Ordering::Relaxed))
    }

    fn is_due(&self) -> bool {
        matches!(self.state, State::Due { behind } if behind.is_none() || behind != self.turn())
    }

    fn poll_uncork(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_waiting(cx))?;
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.state = State::Flushed;
        Poll::Ready(Ok(()))
    }

    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.waiting.len() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.waiting[self.written..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
        }
        (self.waiting, self.written) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    fn poll_gather(&mut self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.state == State::Flushed {
            self.state = State::Written;
        }
        if self.waiting.len() == RECORD_BYTES {
            ready!(self.poll_waiting(cx))?;
        }
        let offered: usize = parts.iter().map(|part| part.len()).sum();
        if self.waiting.is_empty() && offered >= RECORD_BYTES {
            return Pin::new(&mut self.io).poll_write_vectored(cx, parts);
        }
        if self.waiting.capacity() == 0 {
            self.waiting.reserve_exact(RECORD_BYTES);
        }
        let before = self.waiting.len();
        for part in parts {
            let room = RECORD_BYTES - self.waiting.len();
            self.waiting.extend_from_slice(&part[..part.len().min(room)]);
        }
        Poll::Ready(Ok(self.waiting.len() - before))
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for Cork<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // A socket that is full wakes this task when it takes more; reading goes on meanwhile.
        if this.is_due()
            && let Poll::Ready(Err(error)) = this.poll_uncork(cx)
        {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut this.io).poll_read(cx, buf)
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Cork<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_gather(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_gather(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.state == State::Written {
            self.state = State::Due { behind: self.turn() };
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_uncork(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Takes at most `room` bytes, and says nothing.
    #[derive(Default)]
    struct Socket {
        room: usize,
        writes: Vec<Vec<u8>>,
        broken: bool,
    }

    impl AsyncRead for Socket {
        fn poll_read(self: Pin<&mut Self>, _cx: &mut Context<'_>, _buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Socket {
        fn poll_write(mut self: Pin<&mut Self>, _cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            if self.broken {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            if self.room == 0 {
                return Poll::Pending;
            }
            let taken = buf.len().min(self.room);
            self.room -= taken;
            self.writes.push(buf[..taken].to_vec());
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn cork(room: usize) -> Cork<Socket> {
        Cork::new(Socket { room, ..Socket::default() }, None)
    }

    /// Writes and flushes, as h2 does with a frame.
    fn say(cork: &mut Cork<Socket>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut cx = Context::from_waker(Waker::noop());
        let written = Pin::new(&mut *cork).poll_write(&mut cx, bytes);
        assert!(Pin::new(cork).poll_flush(&mut cx).is_ready());
        written
    }

    /// Reads, as h2 does when it is its turn.
    fn turn(cork: &mut Cork<Socket>) -> Poll<io::Result<()>> {
        let mut buffer = [0; 16];
        Pin::new(cork).poll_read(&mut Context::from_waker(Waker::noop()), &mut ReadBuf::new(&mut buffer))
    }

    fn lengths(cork: &Cork<Socket>) -> Vec<usize> {
        cork.io.writes.iter().map(Vec::len).collect()
    }

    #[test]
    fn what_is_said_in_one_turn_goes_out_in_one_write() {
        let mut cork = cork(usize::MAX);
        for _ in 0..10 {
            assert!(matches!(say(&mut cork, &[7; 1000]), Poll::Ready(Ok(1000))));
        }
        assert!(lengths(&cork).is_empty());
        assert!(turn(&mut cork).is_pending());
        assert!(turn(&mut cork).is_pending());
        assert_eq!(lengths(&cork), [10_000]);
        assert_eq!(cork.waiting.capacity(), 0, "an idle connection keeps no room");
    }

    #[test]
    fn a_turn_lasts_until_the_connection_is_polled_again() {
        let turns = Turns::default();
        let mut cork = Cork::new(Socket { room: usize::MAX, ..Socket::default() }, Some(turns.clone()));
        for _ in 0..10 {
            assert!(say(&mut cork, &[7; 1000]).is_ready());
            assert!(turn(&mut cork).is_pending());
        }
        assert!(lengths(&cork).is_empty());
        turns.next();
        assert!(turn(&mut cork).is_pending());
        assert_eq!(lengths(&cork), [10_000]);
    }

    #[test]
    fn pieces_are_as_long_as_records_and_no_byte_is_lost_or_moved() {
        let mut cork = cork(usize::MAX);
        let sent: Vec<u8> = (0..100_000_u32).map(|i| (i % 251) as u8).collect();
        let mut rest = &sent[..];
        while !rest.is_empty() {
            let Poll::Ready(Ok(taken)) = say(&mut cork, &rest[..rest.len().min(3_000)]) else { panic!("room") };
            rest = &rest[taken..];
        }
        assert!(turn(&mut cork).is_pending());
        assert!(lengths(&cork)[..6].iter().all(|length| *length == RECORD_BYTES), "{:?}", lengths(&cork));
        assert_eq!(cork.io.writes.concat(), sent);
    }

    #[test]
    fn a_full_socket_holds_the_connection_back() {
        let mut cork = cork(100);
        assert!(matches!(say(&mut cork, &[7; RECORD_BYTES - 1]), Poll::Ready(Ok(_))));
        assert!(matches!(say(&mut cork, &[7; 10]), Poll::Ready(Ok(1))));
        assert!(say(&mut cork, &[7; 10]).is_pending());
        assert!(turn(&mut cork).is_pending());
        cork.io.room = usize::MAX;
        assert!(turn(&mut cork).is_pending());
        assert_eq!(lengths(&cork).iter().sum::<usize>(), RECORD_BYTES);
        assert!(say(&mut cork, &[7; 10]).is_ready());
    }

    #[test]
    fn a_write_that_fails_ends_the_next_turn() {
        let mut cork = cork(usize::MAX);
        assert!(say(&mut cork, &[7; 10]).is_ready());
        cork.io.broken = true;
        assert!(matches!(turn(&mut cork), Poll::Ready(Err(_))));
    }

    #[test]
    fn nothing_waits_behind_the_end() {
        let mut cork = cork(usize::MAX);
        assert!(say(&mut cork, &[7; 10]).is_ready());
        assert!(Pin::new(&mut cork).poll_shutdown(&mut Context::from_waker(Waker::noop())).is_ready());
        assert_eq!(lengths(&cork), [10]);
    }
}
