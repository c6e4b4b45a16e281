//! The socket under HTTP/1.1 and HTTP/2: notes the bytes that begin a head, and speaks where hyper would not.
//!
//! hyper answers a malformed head with a bare status, and a slow one with silence. Clients are promised a problem, so
//! for HTTP/1.1 this puts one in their place.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::activity::Activity;
use super::door::Place;
use super::interim::Outbox;
use crate::error::Error;
use crate::rescue;

pub(super) struct Watched<I> {
    io: I,
    activity: Arc<Activity>,
    http1: bool,
    /// An answer of our own that is being written, and how much of it is out.
    refusal: Option<(Vec<u8>, usize)>,
    /// The write side is closed, and this long input is still read and thrown away: closing a socket with unread input
    /// resets it, and takes the answer along that the client has not read yet.
    lingering: Option<Pin<Box<Sleep>>>,
    refused: bool,
    /// The client has ended its side.
    ended: bool,
    /// Bytes read and thrown away while lingering.
    discarded: usize,
    /// The connection's place under the limit. It goes where the socket goes: into an upgraded WebSocket too.
    _place: Place,
    /// What is said before final answers.
    outbox: Option<Arc<Outbox>>,
}

impl<I: AsyncRead + AsyncWrite + Unpin> Watched<I> {
    pub(super) fn new(io: I, place: Place, activity: Arc<Activity>, http1: bool, outbox: Option<Arc<Outbox>>) -> Self {
        Self {
            io,
            activity,
            http1,
            refusal: None,
            lingering: None,
            refused: false,
            ended: false,
            discarded: 0,
            _place: place,
            outbox,
        }
    }

    /// Writes what is left of the refusal.
    fn poll_refusal(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some((bytes, written)) = &mut self.refusal {
            if *written == bytes.len() {
                self.refusal = None;
                break;
            }
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, &bytes[*written..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *written += n;
        }
        Poll::Ready(Ok(()))
    }

    /// When `head` is a bare refusal of hyper's, ours for it.
    fn replacement(&self, head: &[u8]) -> Option<Vec<u8>> {
        if !self.http1 || self.activity.is_busy() || !head.starts_with(b"HTTP/1.1 4") || head.len() > MAX_BARE {
            return None;
        }
        let text = std::str::from_utf8(head).ok()?;
        // Every answer of the pipeline names its request; hyper's own do not.
        if text.contains("x-request-id") || !text.contains("content-length: 0") {
            return None;
        }
        let error = match text.get(9..12)? {
            "414" => Error::TargetTooLong,
            "431" => Error::HeadTooLarge,
            _ => Error::malformed("the request is not well-formed HTTP/1.1"),
        };
        Some(refusal(&error))
    }
}

/// As long as a client may need to notice that it was refused and stop sending.
const LINGER: Duration = Duration::from_secs(10);
/// The same for a client of HTTP/2, which has GOAWAY to read.
const LINGER_HTTP2: Duration = Duration::from_secs(1);
/// Bytes of such a client that are thrown away at most.
const DISCARDED_HTTP2: usize = 1 << 20;
/// Longer than any bare answer of hyper's.
const MAX_BARE: usize = 512;

/// A whole HTTP/1.1 answer that closes the connection.
fn refusal(error: &Error) -> Vec<u8> {
    let problem = rescue::problem(error, None);
    let body = serde_json::to_vec(&problem).expect("a problem holds only strings and numbers");
    let reason = http::StatusCode::from_u16(problem.status).ok().and_then(|s| s.canonical_reason()).unwrap_or_default();
    let mut bytes = format!(
        "HTTP/1.1 {} {reason}\r\ncontent-type: application/problem+json\r\ncache-control: no-store\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        problem.status,
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(&body);
    bytes
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for Watched<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.http1 && this.activity.head_expired() {
            if this.activity.take_expired() {
                this.refused = true;
                this.refusal = Some((refusal(&Error::HeadTimeout), 0));
            }
            ready!(this.poll_refusal(cx))?;
            ready!(Pin::new(&mut this.io).poll_flush(cx))?;
            // End of input: hyper sees a client that left in the middle of a head.
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let has_room = buf.remaining() > 0;
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        if buf.filled().len() == before {
            this.ended = has_room;
        } else if this.http1 {
            this.activity.bytes_in();
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.refusal.is_none() {
            match this.replacement(buf) {
                Some(ours) => {
                    this.refused = true;
                    this.refusal = Some((ours, 0));
                }
                None => return Pin::new(&mut this.io).poll_write(cx, buf),
            }
        }
        ready!(this.poll_refusal(cx))?;
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let first = bufs.iter().find(|b| !b.is_empty()).map_or(&[][..], |b| b);
        if this.refusal.is_none() {
            match this.replacement(first) {
                Some(ours) => {
                    this.refused = true;
                    this.refusal = Some((ours, 0));
                }
                None => return Pin::new(&mut this.io).poll_write_vectored(cx, bufs),
            }
        }
        let taken = first.len();
        ready!(this.poll_refusal(cx))?;
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_refusal(cx))?;
        let this = &mut *self;
        if let Some(outbox) = &this.outbox {
            ready!(outbox.poll_write(&mut this.io, cx))?;
        }
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(self.poll_refusal(cx))?;
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
            // Over HTTP/2 the last word is GOAWAY, and whoever sends on does not want to hear it.
            let needless = if self.http1 { !(self.refused || self.activity.has_unread()) } else { self.ended };
            if needless {
                return Poll::Ready(Ok(()));
            }
        }
        let this = &mut *self;
        let linger = if this.http1 { LINGER } else { LINGER_HTTP2 };
        let until = this.lingering.get_or_insert_with(|| Box::pin(tokio::time::sleep(linger)));
        let mut buffer = [0; 8192];
        loop {
            let mut buffer = ReadBuf::new(&mut buffer);
            match Pin::new(&mut this.io).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    this.discarded += buffer.filled().len();
                    if !this.http1 && this.discarded > DISCARDED_HTTP2 {
                        return Poll::Ready(Ok(()));
                    }
                }
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return until.as_mut().poll(cx).map(Ok),
            }
        }
    }
}
