//! The whole state as log entries, for a peer that the log no longer reaches.
//!
//! Every register comes with the stamp that it has, so merging the entries anywhere gives at least this state and
//! undoes nothing newer. Their sequence number is 0: they are not part of any log.

use bytes::Bytes;
use nearfield_proto::log::v1 as log;
use nearfield_proto::log::v1::entry;
use prost::Message;

use crate::engine::record::Record;
use crate::engine::stamp::Stamp;
use crate::engine::{Address, Collection, Slot, State};
use crate::index::Index;
use crate::store::{Store, encode_values};

/// Slots that are looked at under one lock.
const BLOCK: Slot = 512;

/// How far the state has been sent.
pub(super) struct Cursor {
    origin: u64,
    /// The name that comes next; none when everything was sent.
    address: Option<Address>,
    started: bool,
    slot: Slot,
}

impl Cursor {
    pub(super) fn new(origin: u64) -> Self {
        Self { origin, address: None, started: false, slot: 0 }
    }

    /// The next entries, about `bytes` of them; `None` at the end.
    pub(super) fn next(&mut self, store: &Store, bytes: usize) -> Option<Vec<log::Entry>> {
        let mut entries = Vec::new();
        let mut size = 0;
        while size < bytes {
            let state = store.read();
            if !self.started {
                self.started = true;
                self.address = state.holders().next().map(|(address, _)| address.clone());
                entries.extend(state.pending().cloned().map(|entry| log::Entry { sequence: 0, ..entry }));
                self.head(&state, &mut entries);
            }
            let Some(address) = self.address.clone() else { break };
            let before = entries.len();
            self.block(&state, store, &address, &mut entries);
            size += entries[before..].iter().map(Message::encoded_len).sum::<usize>();
        }
        (!entries.is_empty()).then_some(entries)
    }

    /// The deletion and the creation of the collection that comes next.
    fn head(&self, state: &State, entries: &mut Vec<log::Entry>) {
        let Some((address, holder)) = self.address.as_ref().and_then(|address| Some((address, state.holder(address)?)))
        else {
            return;
        };
        if let Some(deleted) = &holder.deleted {
            entries.push(self.entry(address, deleted, entry::Change::DeleteCollection(log::DeleteCollection {})));
        }
        if let Some(collection) = &holder.collection {
            let create = log::CreateCollection { settings: Some(collection.settings.to_message()) };
            entries.push(self.entry(address, &collection.created, entry::Change::CreateCollection(create)));
        }
    }

    fn block(&mut self, state: &State, store: &Store, address: &Address, entries: &mut Vec<log::Entry>) {
        let collection = state.holder(address).and_then(|holder| holder.collection.as_ref());
        let indexed = collection.and_then(|collection| Some((collection, store.index(collection.incarnation)?)));
        if let Some((collection, index)) = indexed
            && self.slot < collection.slots()
        {
            let end = collection.slots().min(self.slot + BLOCK);
            for slot in self.slot..end {
                self.record(address, collection, &index, slot, entries);
            }
            self.slot = end;
            return;
        }
        self.slot = 0;
        self.address = state.holders().map(|(next, _)| next).find(|next| *next > address).cloned();
        self.head(state, entries);
    }

    fn record(
        &self,
        address: &Address,
        collection: &Collection,
        index: &Index,
        slot: Slot,
        entries: &mut Vec<log::Entry>,
    ) {
        let Some((id, record)) = collection.slot(slot) else { return };
        if let Some(deleted) = record.deleted() {
            let delete = log::Delete { ids: vec![id.to_owned()] };
            entries.push(self.entry(address, deleted, entry::Change::Delete(delete)));
        }
        let values = match record.waiting() {
            Some(waiting) => Some(waiting.clone()),
            None => live_values(record, index, slot).map(|values| encode_values(&values)),
        };
        if let (Some(base), Some(values)) = (record.base(), &values) {
            // With the current vector: one that is newer than the put follows with its own stamp.
            let point = log::PutPoint {
                id: id.to_owned(),
                values: values.clone(),
                metadata: record.stored_metadata(),
                version: record.version,
            };
            entries.push(self.entry(address, base, entry::Change::Put(log::Put { points: vec![point] })));
        }
        if let (Some(vector), Some(values)) = (record.vector().filter(|vector| Some(*vector) != record.base()), values)
        {
            entries.push(self.patch(address, vector, id, record, values, None));
        }
        for (key, stamp, removed) in record.patches() {
            let value = if removed { None } else { record.value(key) };
            let register = (key.to_owned(), value.map_or_else(Bytes::new, Bytes::from));
            entries.push(self.patch(address, stamp, id, record, Bytes::new(), Some(register)));
        }
    }

    fn patch(
        &self,
        address: &Address,
        stamp: &Stamp,
        id: &str,
        record: &Record,
        values: Bytes,
        register: Option<(String, Bytes)>,
    ) -> log::Entry {
        let metadata = register.into_iter().collect();
        let patch = log::Patch { id: id.to_owned(), values, metadata, version: record.version };
        self.entry(address, stamp, entry::Change::Patch(patch))
    }

    fn entry(&self, address: &Address, stamp: &Stamp, change: entry::Change) -> log::Entry {
        log::Entry {
            origin: self.origin,
            sequence: 0,
            stamp: Some(stamp.to_message()),
            tenant: address.tenant.to_string(),
            collection: address.name.to_string(),
            change: Some(change),
        }
    }
}

/// None where the record has none, or where it is damaged: a peer that knows the point keeps what it has.
fn live_values(record: &Record, index: &Index, slot: Slot) -> Option<Vec<f32>> {
    let values = if record.is_live() { index.values(slot) } else { Ok(None) };
    values.unwrap_or_else(|damaged| {
        tracing::error!(error = &damaged as &dyn std::error::Error, "a point is not sent to a peer");
        None
    })
}
