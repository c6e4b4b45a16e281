//! Many searches over one call.

use std::sync::Arc;

use nearfield_proto::v1;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::caller::Caller;
use super::vector_search::Outgoing;
use super::{Service, status};

/// Searches of one stream that run at once.
const STREAM_WIDTH: usize = 16;
/// Messages of one stream that wait for the client to read.
const STREAM_BUFFER: usize = 64;
const MAX_REQUEST_ID_BYTES: usize = 256;

impl Service {
    /// Answers each search as it is done. A search that fails leaves the stream open.
    pub(super) fn search_stream(
        self,
        requests: Streaming<v1::SearchRequest>,
        caller: Caller,
    ) -> Outgoing<v1::SearchResult> {
        let (sender, receiver) = mpsc::channel(STREAM_BUFFER);
        tokio::spawn(async move {
            let closed = sender.clone();
            tokio::select! {
                () = closed.closed() => {}
                () = self.read_searches(requests, caller, sender) => {}
            }
        });
        Box::pin(ReceiverStream::new(receiver))
    }

    async fn read_searches(
        self,
        mut requests: Streaming<v1::SearchRequest>,
        caller: Caller,
        sender: mpsc::Sender<Result<v1::SearchResult, Status>>,
    ) {
        let width = Arc::new(Semaphore::new(STREAM_WIDTH));
        let mut running = tokio::task::JoinSet::new();
        loop {
            let Ok(permit) = width.clone().acquire_owned().await else { break };
            while running.try_join_next().is_some() {}
            let next = tokio::select! {
                next = requests.message() => next,
                () = self.0.drain.started() => Err(status::draining()),
            };
            let message = match next {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(error) => {
                    // What was asked before is answered first.
                    while running.join_next().await.is_some() {}
                    let _ = sender.send(Err(error)).await;
                    return;
                }
            };
            let (service, caller, sender) = (self.clone(), caller.clone(), sender.clone());
            let admitted = self.0.drain.admit();
            running.spawn(async move {
                service.answer(message, &caller, &sender).await;
                drop((permit, admitted));
            });
        }
        while running.join_next().await.is_some() {}
    }

    async fn answer(
        &self,
        mut message: v1::SearchRequest,
        caller: &Caller,
        sender: &mpsc::Sender<Result<v1::SearchResult, Status>>,
    ) {
        let request_id = std::mem::take(&mut message.request_id);
        let outcome = if request_id.len() > MAX_REQUEST_ID_BYTES {
            let description = format!("has {} bytes, at most {MAX_REQUEST_ID_BYTES} are allowed", request_id.len());
            Err(status::violation("/request_id", description))
        } else {
            caller.limit(self.blocks(message, caller)).await
        };
        let failure = match outcome {
            Err(error) => error,
            Ok(mut blocks) => loop {
                match blocks.next().await {
                    None => return,
                    Some(Err(error)) => break error,
                    Some(Ok(messages)) => {
                        for message in messages {
                            let message = v1::SearchResult { request_id: request_id.clone(), ..message };
                            if sender.send(Ok(message)).await.is_err() {
                                return;
                            }
                        }
                    }
                }
            },
        };
        let problem = Some(status::problem(&failure));
        let last = v1::SearchResult { request_id, last: true, problem, ..Default::default() };
        let _ = sender.send(Ok(last)).await;
    }
}
