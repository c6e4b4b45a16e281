//! Interim answers (1xx) on HTTP/1.1, which hyper's server cannot send: written to the socket between two writes of
//! hyper's, where nothing of another answer is half out.
//!
//! hyper asks its socket to flush only when all bytes that it has are written; while a request is being answered and its
//! final head has not been made, that is the place. The final head waits until what was said before it is out.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use tokio::io::AsyncWrite;

use crate::request::Interim;

/// Bytes of interim answers that wait to be written, at most; what is more is not sent.
const MAX_WAITING: usize = 64 * 1024;

/// One connection's.
#[derive(Default)]
pub(super) struct Outbox(Mutex<State>);

#[derive(Default)]
struct State {
    waiting: BytesMut,
    /// The request being answered; 0 while there is none.
    current: u64,
    last: u64,
    /// The connection's task.
    task: Option<Waker>,
}

impl Outbox {
    /// For the request that is answered next: what it may say before its final answer.
    pub(super) fn begin(self: &Arc<Self>) -> Interim {
        let mut state = self.0.lock();
        state.last += 1;
        state.current = state.last;
        let (outbox, number) = (Arc::clone(self), state.current);
        drop(state);
        Interim::new(move |status, headers| outbox.push(number, status, headers))
    }

    fn push(&self, number: u64, status: StatusCode, headers: &HeaderMap) {
        // 100 is hyper's to say, and 101 is final.
        if !status.is_informational() || status.as_u16() < 102 {
            return;
        }
        let head = head(status, headers);
        let mut state = self.0.lock();
        if state.current == number && state.waiting.len() + head.len() <= MAX_WAITING {
            state.waiting.extend_from_slice(&head);
            if let Some(task) = &state.task {
                task.wake_by_ref();
            }
        }
    }

    /// Notes whom to wake when there is something to write.
    pub(super) fn watch(&self, cx: &Context<'_>) {
        let mut state = self.0.lock();
        if !state.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            state.task = Some(cx.waker().clone());
        }
    }

    /// Ready when all is written; nothing more is taken of this request then.
    pub(super) fn poll_end(&self, cx: &Context<'_>) -> Poll<()> {
        self.watch(cx);
        let mut state = self.0.lock();
        if !state.waiting.is_empty() {
            return Poll::Pending;
        }
        state.current = 0;
        Poll::Ready(())
    }

    /// Writes what waits. To be called where all of hyper's bytes are out.
    pub(super) fn poll_write<I: AsyncWrite + Unpin>(&self, io: &mut I, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        if state.waiting.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while !state.waiting.is_empty() {
            let written = ready!(Pin::new(&mut *io).poll_write(cx, &state.waiting))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            state.waiting.advance(written);
        }
        if let Some(task) = &state.task {
            task.wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }
}

fn head(status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let reason = status.canonical_reason().unwrap_or_default();
    let mut head = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
    for (name, value) in headers {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, header};

    use super::*;

    fn said(outbox: &Outbox) -> String {
        String::from_utf8(outbox.0.lock().waiting.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn what_is_said_before_the_final_answer_is_written_and_nothing_after_it() {
        let outbox = Arc::new(Outbox::default());
        let first = outbox.begin();
        let headers = HeaderMap::from_iter([(header::LINK, HeaderValue::from_static("</a>"))]);
        first.send(StatusCode::EARLY_HINTS, &headers);
        first.send(StatusCode::CONTINUE, &headers);
        first.send(StatusCode::OK, &headers);
        assert_eq!(said(&outbox), "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
        let mut cx = Context::from_waker(Waker::noop());
        assert!(outbox.poll_end(&cx).is_pending());
        let mut written = Vec::new();
        assert!(outbox.poll_write(&mut written, &mut cx).is_ready());
        assert!(written.starts_with(b"HTTP/1.1 103"));
        assert!(outbox.poll_end(&cx).is_ready());
        first.send(StatusCode::EARLY_HINTS, &headers);
        let _second = outbox.begin();
        first.send(StatusCode::EARLY_HINTS, &headers);
        assert_eq!(said(&outbox), "");
    }

    #[test]
    fn what_waits_is_bounded() {
        let outbox = Arc::new(Outbox::default());
        let interim = outbox.begin();
        for _ in 0..MAX_WAITING {
            interim.send(StatusCode::PROCESSING, &HeaderMap::new());
        }
        assert!(said(&outbox).len() <= MAX_WAITING);
    }
}
