//! What peers are told: this instance's own entries from a number on, then each as it becomes durable.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use nearfield_proto::log::v1 as log;
use nearfield_proto::log::v1::replication_server::Replication;
use nearfield_telemetry::drain::Drain;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::state;
use crate::store::Store;
use crate::wal::{Position, Reader};

/// Bytes of entries in one message, unless a single entry is larger.
const MESSAGE_BYTES: usize = 1024 * 1024;
/// Messages that wait for the peer to read.
const BUFFER: usize = 4;

/// The service. Clones share everything.
#[derive(Clone)]
pub struct Server {
    pub store: Arc<Store>,
    pub log: Reader,
    /// This instance's number.
    pub origin: u64,
    pub drain: Drain,
}

type Responses = mpsc::Sender<Result<log::TailResponse, Status>>;

#[tonic::async_trait]
impl Replication for Server {
    type TailStream = Pin<Box<dyn Stream<Item = Result<log::TailResponse, Status>> + Send>>;

    async fn tail(&self, request: Request<log::TailRequest>) -> Result<Response<Self::TailStream>, Status> {
        let log::TailRequest { peer, from } = request.into_inner();
        let (sender, receiver) = mpsc::channel(BUFFER);
        let server = self.clone();
        tracing::info!(peer, from, "a peer tails the log");
        tokio::spawn(async move {
            let closed = sender.clone();
            tokio::select! {
                () = closed.closed() => {}
                () = server.drain.started() => {}
                outcome = server.send(from.max(1), &sender) => if let Err(error) = outcome {
                    let _ = sender.send(Err(error)).await;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

impl Server {
    /// Never ends by itself.
    async fn send(&self, from: u64, sender: &Responses) -> Result<(), Status> {
        // Subscribed before the first look, so that no batch falls between.
        let mut batches = self.store.batches();
        let mut sequence = from;
        // The peer learns at once who answers.
        self.respond(Vec::new(), from - 1, sender).await;
        let mut position = self.start()?;
        if self.misses(position, sequence).await? {
            sequence = self.send_state(sender).await? + 1;
        }
        loop {
            batches.borrow_and_update();
            while position.next() <= self.log.durable() {
                let block = self.read(position, sequence).await?;
                position = block.position;
                if !block.is_there {
                    // The log was cut behind us: what is missing comes as state.
                    position = self.start()?;
                    sequence = self.send_state(sender).await? + 1;
                }
                if let Some(last) = block.entries.last() {
                    sequence = last.sequence + 1;
                    self.respond(block.entries, sequence - 1, sender).await;
                }
            }
            if batches.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    /// The oldest record of the log.
    fn start(&self) -> Result<Position, Status> {
        self.log.position(self.log.oldest()).ok_or_else(|| Status::internal("the log is empty"))
    }

    /// Whether the log no longer has everything from `sequence` on.
    async fn misses(&self, mut position: Position, sequence: u64) -> Result<bool, Status> {
        let newest = self.store.read().clock().get(self.origin);
        if sequence > newest {
            return Ok(false);
        }
        let (log, origin) = (self.log.clone(), self.origin);
        let first = blocking(move || {
            let mut first = None;
            while first.is_none() && position.next() <= log.durable() {
                let is_there = log.read(&mut position, |replay| {
                    first =
                        (replay.entry.origin == origin && replay.entry.sequence > 0).then_some(replay.entry.sequence);
                    first.is_none()
                })?;
                if !is_there {
                    break;
                }
            }
            Ok(first)
        });
        Ok(first.await?.is_none_or(|first| first > sequence))
    }

    async fn read(&self, mut position: Position, sequence: u64) -> Result<Block, Status> {
        let (log, origin) = (self.log.clone(), self.origin);
        let reading = blocking(move || {
            let (mut entries, mut bytes) = (Vec::new(), 0);
            let is_there = log.read(&mut position, |replay| {
                if replay.entry.origin == origin && replay.entry.sequence >= sequence {
                    bytes += replay.bytes as usize;
                    entries.push(replay.entry);
                }
                bytes < MESSAGE_BYTES
            })?;
            Ok(Block { entries, position, is_there })
        });
        reading.await
    }

    /// Sends everything that this instance knows, as entries; returns the number up to which that reaches.
    async fn send_state(&self, sender: &Responses) -> Result<u64, Status> {
        if !self.store.is_there() {
            return Err(Status::unavailable("its vectors are still on their way from the object storage"));
        }
        // Before the first look at the state: it may have more by the time it is read, never less.
        let through = self.store.read().clock().get(self.origin);
        tracing::info!(through, "sending the whole state to a peer");
        let mut cursor = state::Cursor::new(self.origin);
        loop {
            let store = self.store.clone();
            let (returned, entries) = blocking(move || {
                let entries = cursor.next(&store, MESSAGE_BYTES);
                Ok((cursor, entries))
            })
            .await?;
            cursor = returned;
            let Some(entries) = entries else { break };
            self.respond(entries, 0, sender).await;
        }
        let end = log::Entry { origin: self.origin, sequence: through, ..Default::default() };
        self.respond(vec![end], through, sender).await;
        Ok(through)
    }

    async fn respond(&self, entries: Vec<log::Entry>, through: u64, sender: &Responses) {
        // A peer that went away ends this task from outside.
        let _ = sender.send(Ok(log::TailResponse { entries, through, origin: self.origin })).await;
    }
}

struct Block {
    entries: Vec<log::Entry>,
    position: Position,
    is_there: bool,
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, crate::wal::Error> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|_| Status::internal("reading the log failed"))?;
    done.map_err(|error| unreadable(&error))
}

fn unreadable(error: &crate::wal::Error) -> Status {
    tracing::error!(error = error as &dyn std::error::Error, "the log could not be read for a peer");
    Status::internal("the log could not be read")
}
