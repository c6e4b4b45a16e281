//! Stored points as they are: by their ids, and all of them.

use std::sync::Arc;

use nearfield_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::caller::Caller;
use super::vector_search::Outgoing;
use super::{Service, request, status};
use crate::engine::record::Record;
use crate::engine::{Address, Collection, Slot};
use crate::filter::Filter;
use crate::index::Index;
use crate::search::stop::Stop;
use crate::search::{self, admission};

/// Most ids of one fetch.
const MAX_FETCH: usize = 1_000;
/// Bytes of vectors that a scan reads at once.
const SCAN_BLOCK_BYTES: usize = 1024 * 1024;
/// Records of one scan that wait for the client to read.
const SCAN_BUFFER: usize = 64;

impl Service {
    pub(super) async fn fetch_records(
        &self,
        caller: &Caller,
        name: &str,
        ids: Vec<String>,
    ) -> Result<Vec<v1::Record>, Status> {
        let address = self.address(caller, name)?;
        if ids.len() > MAX_FETCH {
            let description = format!("has {} ids, at most {MAX_FETCH} are allowed", ids.len());
            return Err(status::violation("/ids", description));
        }
        let wrong: Vec<_> =
            ids.iter().enumerate().filter_map(|(i, id)| request::id(id, &format!("/ids/{i}")).err()).collect();
        if !wrong.is_empty() {
            return Err(status::violations(wrong));
        }
        let (store, wanted) = (self.0.store.clone(), address.clone());
        // Values may have to come from the disk.
        let fetching = self.0.pool.run(caller.deadline, move |stop| {
            let slots = |collection: &Collection| ids.iter().filter_map(|id| Some(collection.get(id)?.0)).collect();
            store.bring(&wanted, slots, stop)?;
            let found = store.with_collection(&wanted, |collection, index| {
                let known = ids.iter().filter_map(|id| Some((id, collection.get(id)?)));
                let found = known.map(|(id, (slot, known))| record(collection, index, slot, (id, known)));
                found.filter_map(Result::transpose).collect::<Result<Vec<_>, _>>()
            });
            found.unwrap_or(Err(search::Error::NoCollection))
        });
        let found = fetching.await.map_err(status::pool)?;
        found.map_err(|error| self.failed(error, &address.name, ""))
    }

    /// Every live point that the filter admits, block by block.
    pub(super) fn scan_records(
        &self,
        caller: &Caller,
        message: &v1::ScanRequest,
    ) -> Result<Outgoing<v1::Record>, Status> {
        let address = self.address(caller, &message.collection)?;
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
        let scan = Arc::new(Scan { address, incarnation, filter, wanted });
        let (sender, receiver) = mpsc::channel(SCAN_BUFFER);
        let (service, deadline) = (self.clone(), caller.deadline);
        let admitted = self.0.drain.admit();
        tokio::spawn(async move {
            let _admitted = admitted;
            for start in (0..scan.wanted.len()).step_by(block) {
                let (service, scan, sender) = (&service, scan.clone(), &sender);
                let store = service.0.store.clone();
                let name = scan.address.name.clone();
                let reading = service.0.pool.run(deadline, move |stop| scan.read(&store, start, block, stop));
                let read = reading.await.map_err(status::pool);
                let read = read.and_then(|read| read.map_err(|error| service.failed(error, &name, "")));
                let records = match read {
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

/// What a scan goes through.
struct Scan {
    address: Address,
    incarnation: u64,
    filter: Option<Arc<Filter>>,
    wanted: Wanted,
}

impl Scan {
    /// The live ones of a block. Of a collection that was replaced meanwhile there are none.
    fn read(
        &self,
        store: &crate::store::Store,
        start: usize,
        block: usize,
        stop: &Stop,
    ) -> Result<Vec<v1::Record>, search::Error> {
        stop.check()?;
        let places = start..start.saturating_add(block).min(self.wanted.len());
        let slots = |_: &Collection| places.clone().map(|place| self.wanted.slot(place)).collect();
        store.bring(&self.address, slots, stop)?;
        let records = store.with_collection(&self.address, |collection, index| {
            if collection.incarnation != self.incarnation {
                return Ok(Vec::new());
            }
            let live = places.clone().map(|place| self.wanted.slot(place)).filter_map(|slot| {
                let (id, found) = collection.slot(slot).filter(|(_, record)| record.is_live())?;
                if self.filter.as_ref().is_some_and(|filter| !filter.matches_json(found.metadata())) {
                    return None;
                }
                record(collection, index, slot, (id, found)).transpose()
            });
            live.collect::<Result<Vec<_>, _>>()
        });
        records.unwrap_or(Ok(Vec::new()))
    }
}

/// A point with everything; none where it has no vector.
fn record(
    collection: &Collection,
    index: &Index,
    slot: Slot,
    (id, record): (&str, &Record),
) -> Result<Option<v1::Record>, search::Error> {
    let values = index.values(slot).map_err(|damaged| search::damage(collection, damaged))?;
    Ok(values.map(|values| v1::Record {
        id: id.to_owned(),
        values,
        metadata: record.metadata_bytes(),
        version: record.version,
    }))
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
