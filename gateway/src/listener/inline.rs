//! Where the requests of an HTTP/2 connection run: as far as they come without waiting, on the connection's own task.
//!
//! An answer that is in memory is there before a task of its own could have been scheduled, and goes out in the same
//! turn. What has to wait, for the rest of a body or for a searchd, is a task from then on.

use std::future::Future;
use std::task::{Context, Waker};

use hyper::rt::Executor;

#[derive(Clone, Copy)]
pub(super) struct Inline;

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Inline {
    fn execute(&self, future: F) {
        let mut future = Box::pin(future);
        // Nobody needs to be woken: the task begins by polling again.
        if future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            tokio::spawn(future);
        }
    }
}
