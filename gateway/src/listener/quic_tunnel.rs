//! A stream of HTTP/3 that has left HTTP by an extended CONNECT (RFC 9220): the payload of its DATA frames, as bytes both ways.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h3::error::StreamError;
use h3::server::RequestStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::quic_recv::Recv;
use super::quic_streams;

type SendHalf = RequestStream<quic_streams::Send, Bytes>;
type RecvHalf = RequestStream<Recv, Bytes>;

/// Bytes of one DATA frame.
const FRAME_BYTES_MAX: usize = 16 << 10;

pub(super) struct Tunnel {
    recv: RecvHalf,
    /// What has come and is not read yet.
    unread: Bytes,
    sending: Sending,
}

/// h3 writes by `async fn` only; an idle tunnel holds no future.
enum Sending {
    Idle(Box<SendHalf>),
    Busy(Writing),
    Ended,
}

/// Owns its half of the stream until it is done.
type Writing = Pin<Box<dyn Future<Output = (Box<SendHalf>, Result<(), StreamError>)> + Send>>;

impl Tunnel {
    pub(super) fn new(send: SendHalf, recv: RecvHalf) -> Self {
        Self { recv, unread: Bytes::new(), sending: Sending::Idle(Box::new(send)) }
    }

    /// Waits for the frame that is being written.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Sending::Busy(writing) = &mut self.sending {
            let (send, written) = ready!(writing.as_mut().poll(cx));
            self.sending = Sending::Idle(send);
            written.map_err(io::Error::other)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.unread.is_empty() {
            match ready!(this.recv.poll_recv_data(cx)).map_err(io::Error::other)? {
                Some(mut data) => this.unread = data.copy_to_bytes(data.remaining()),
                None => return Poll::Ready(Ok(())),
            }
        }
        let taken = this.unread.split_to(this.unread.len().min(buf.remaining()));
        buf.put_slice(&taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_idle(cx))?;
        match std::mem::replace(&mut self.sending, Sending::Ended) {
            Sending::Idle(mut send) => {
                let data = Bytes::copy_from_slice(&buf[..buf.len().min(FRAME_BYTES_MAX)]);
                let taken = data.len();
                self.sending = Sending::Busy(Box::pin(async move {
                    let written = send.send_data(data).await;
                    (send, written)
                }));
                // Taken whether it is out already or not; a failure is told once, here or by the next call.
                match self.poll_idle(cx) {
                    Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                    Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(taken)),
                }
            }
            Sending::Busy(_) | Sending::Ended => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_idle(cx)
    }

    /// A TCP connection's orderly end is a stream's (RFC 9220 section 3).
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_idle(cx))?;
        if let Sending::Idle(mut send) = std::mem::replace(&mut self.sending, Sending::Ended) {
            // Finishing waits for nothing but what was written before, and that is out.
            if let Poll::Ready(Err(error)) = std::pin::pin!(send.finish()).poll(cx) {
                return Poll::Ready(Err(io::Error::other(error)));
            }
        }
        Poll::Ready(Ok(()))
    }
}
