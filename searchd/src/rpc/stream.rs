//! Streams: many searches over one call, and all of a collection's points.

use std::sync::Arc;

use nearfield_proto::v1;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::caller::Caller;
use super::vector_search::{Outgoing, results};
use super::{Service, request, status};
use crate::engine::Slot;
use crate::search::admission;

/// Searches of one stream that run at once.
const STREAM_WIDTH: usize = 16;
/// Messages of one stream that wait for the client to read.
const STREAM_BUFFER: usize = 64;
const MAX_REQUEST_ID_BYTES: usize = 256;
/// Bytes of vectors that a scan reads at once.
const SCAN_BLOCK_BYTES: usize = 1024 * 1024;

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
            caller.limit(self.search_once(message, caller)).await
        };
        match outcome {
            Ok(answer) => {
                for message in results(&answer, &request_id) {
                    if sender.send(Ok(message)).await.is_err() {
                        return;
                    }
                }
            }
            Err(error) => {
                let problem = Some(status::problem(&error));
                let last = v1::SearchResult { request_id, last: true, problem, ..Default::default() };
                let _ = sender.send(Ok(last)).await;
            }
        }
    }

    /// Every live point that the filter admits, block by block.
    pub(super) fn scan_records(
        &self,
        caller: &Caller,
        message: &v1::ScanRequest,
    ) -> Result<Outgoing<v1::Record>, Status> {
        let address = request::address(&caller.tenant, &message.collection, "/collection");
        let address = address.map_err(|violation| status::violations(vec![violation]))?;
        let filter = request::filter(&message.filter).map_err(|violation| status::violations(vec![violation]))?;
        let store = &self.0.store;
        let opened = store.with_collection(&address, |collection, index| {
            let slots = match &filter {
                None => Wanted::All(collection.slots()),
                Some(filter) => {
                    let metadata = store.metadata(collection.incarnation)?;
                    Wanted::Some(admission::candidates(collection, &metadata.read(), filter).into())
                }
            };
            Some((collection.incarnation, slots, index.settings.dimension as usize))
        });
        let (incarnation, wanted, dimension) = opened.flatten().ok_or_else(|| status::no_collection(&address.name))?;
        let block = (SCAN_BLOCK_BYTES / (dimension * 4)).max(1);
        let (sender, receiver) = mpsc::channel(STREAM_BUFFER);
        let (service, deadline) = (self.clone(), caller.deadline);
        let admitted = self.0.drain.admit();
        tokio::spawn(async move {
            let _admitted = admitted;
            for start in (0..wanted.len()).step_by(block) {
                let (store, address, filter) = (service.0.store.clone(), address.clone(), filter.clone());
                let wanted = wanted.clone();
                let reading = service.0.pool.run(deadline, move |stop| {
                    stop.check().map_err(status::stopped)?;
                    let records = store.with_collection(&address, |collection, index| {
                        if collection.incarnation != incarnation {
                            return Vec::new();
                        }
                        let places = start..start.saturating_add(block).min(wanted.len());
                        let live = places.map(|place| wanted.slot(place)).filter_map(|slot| {
                            let (id, record) = collection.slot(slot).filter(|(_, record)| record.is_live())?;
                            if filter.as_ref().is_some_and(|filter| !filter.matches_json(record.metadata())) {
                                return None;
                            }
                            let (values, metadata) = (index.values(slot)?, record.metadata_bytes());
                            Some(v1::Record { id: id.to_owned(), values, metadata, version: record.version })
                        });
                        live.collect()
                    });
                    Ok(records.unwrap_or_default())
                });
                let records = match reading.await.map_err(status::pool).flatten() {
                    Ok(records) => records,
                    Err(error) => {
                        let _ = sender.send(Err(error)).await;
                        return;
                    }
                };
                for record in records {
                    if sender.send(Ok(record)).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Box::pin(ReceiverStream::new(receiver)))
    }
}

/// The slots that a scan goes through. What their records hold is looked at when their turn comes.
#[derive(Clone)]
enum Wanted {
    All(Slot),
    Some(Arc<[Slot]>),
}

impl Wanted {
    fn len(&self) -> usize {
        match self {
            Self::All(slots) => *slots as usize,
            Self::Some(slots) => slots.len(),
        }
    }

    /// `place` is below `len`.
    fn slot(&self, place: usize) -> Slot {
        match self {
            Self::All(_) => place as Slot,
            Self::Some(slots) => slots[place],
        }
    }
}
