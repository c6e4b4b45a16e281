//! The threads that speak gRPC. Each is a reactor of its own, with the connections that it was given.
//!
//! So a call stays on one thread but for its search, and what belongs together goes out together. Where threads share their
//! work, each call that one has read wakes another to look for it, and an answer's head and its end go out from two.

use std::future::Future;
use std::io;
use std::net::TcpStream as Accepted;
use std::pin::Pin;

use futures::{Stream, StreamExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::priority::{self, Priority};

/// Connections that wait for a reactor to take them; the next is accepted later.
const MAX_WAITING: usize = 64;

/// Of threads that do beside a reactor what would take it long: it answers searches meanwhile.
const BESIDE: Priority = Priority::Nice(5);

/// A reactor's connections, as they come.
pub(super) type Incoming = Pin<Box<dyn Stream<Item = io::Result<TcpStream>> + Send>>;

/// The running threads. When it is dropped, they end and their connections are cut.
pub(super) struct Reactors {
    inboxes: Vec<mpsc::Sender<Accepted>>,
    ended: Vec<oneshot::Receiver<()>>,
    /// Whose turn it is.
    next: usize,
    _cut: DropGuard,
}

impl Reactors {
    /// Starts so many threads, which `serve` what comes until that ends.
    pub(super) fn start<F: Future<Output = ()>>(
        count: usize,
        serve: impl Fn(Incoming) -> F + Clone + Send + 'static,
    ) -> io::Result<Self> {
        let cut = CancellationToken::new();
        let (mut inboxes, mut ended) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for number in 0..count {
            let (inbox, arriving) = mpsc::channel(MAX_WAITING);
            let (end, ending) = oneshot::channel();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .on_thread_start(|| priority::lower(BESIDE))
                .build()?;
            let (serve, cut) = (serve.clone(), cut.clone());
            std::thread::Builder::new().name(format!("reactor-{number}")).spawn(move || {
                let incoming = ReceiverStream::new(arriving).map(TcpStream::from_std).boxed();
                runtime.block_on(async {
                    tokio::select! {
                        () = serve(incoming) => {}
                        () = cut.cancelled() => {}
                    }
                });
                // With what is left of the connections; what blocks by itself ends by itself.
                runtime.shutdown_background();
                // Nobody may be waiting.
                let _ = end.send(());
            })?;
            inboxes.push(inbox);
            ended.push(ending);
        }
        Ok(Self { inboxes, ended, next: 0, _cut: cut.drop_guard() })
    }

    /// Gives a connection to the reactor whose turn it is.
    pub(super) async fn give(&mut self, stream: Accepted) {
        self.next = (self.next + 1) % self.inboxes.len();
        // One that has ended closes it.
        let _ = self.inboxes[self.next].send(stream).await;
    }

    /// Returns when all have ended.
    pub(super) async fn finish(self) {
        drop(self.inboxes);
        for ended in self.ended {
            // A panic was reported by the thread itself.
            let _ = ended.await;
        }
    }
}
