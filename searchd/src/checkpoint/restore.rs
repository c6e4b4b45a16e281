//! Coming back from a checkpoint.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::format;
use super::{Checkpointer, Error, collection_directory, manifest_file, read_manifest, records_file};
use crate::cache::Caches;
use crate::engine::record::Record;
use crate::engine::settings::Settings;
use crate::engine::stamp::Stamp;
use crate::engine::vector_clock::VectorClock;
use crate::engine::{Address, Collection, Holder, State};
use crate::index::graph::Builder;
use crate::index::segment::{Sealed, Segment};
use crate::index::{Index, Row};
use crate::store::{Store, decode_values};

/// What a checkpoint had.
pub struct Restored {
    pub store: Store,
    /// The first record of the log to replay.
    pub from_record: u64,
    /// Goes on from here.
    pub checkpointer: Checkpointer,
}

/// Reads the checkpoint in `directory`; without one everything is empty and the whole log is to be replayed.
pub fn restore(directory: &Path, builder: &dyn Builder, caches: Caches) -> Result<Restored, Error> {
    let store = Store::new(State::default(), caches);
    let manifest = read_manifest(directory)?;
    let checkpointer = Checkpointer::new(directory.into(), manifest.clone());
    let Some(manifest) = manifest else { return Ok(Restored { store, from_record: 1, checkpointer }) };
    let from_record = manifest.from_record;
    let mut state = State::default();
    let applied: VectorClock = manifest.clock.iter().map(|applied| (applied.origin, applied.sequence)).collect();
    state.restore_clock(&applied, manifest.latest.as_ref());
    for holder in manifest.holders {
        restore_holder(directory, holder, &mut state, &store, builder)?;
    }
    state.restore_pending(manifest.pending);
    store.restore(state);
    Ok(Restored { store, from_record, checkpointer })
}

fn restore_holder(
    directory: &Path,
    holder: format::Holder,
    state: &mut State,
    store: &Store,
    builder: &dyn Builder,
) -> Result<(), Error> {
    let damaged = || Error::Damaged(manifest_file(directory));
    let mut restored = Holder {
        deleted: holder.deleted.as_ref().map(|stamp| state.sites_mut().stamp(stamp)),
        collection: None,
        generation: holder.generation,
    };
    if let Some(message) = holder.collection {
        let settings = message.settings.as_ref().and_then(|settings| Settings::from_message(settings).ok());
        let settings = settings.ok_or_else(damaged)?;
        let created = state.sites_mut().stamp(message.created.as_ref().ok_or_else(damaged)?);
        let index = Arc::new(store.new_index(settings.clone(), message.incarnation));
        let home = collection_directory(directory, message.incarnation);
        for segment in &message.segments {
            let sealed = sealed(segment).ok_or_else(damaged)?;
            index.restore_segment(Segment::open(&home, sealed, &settings, builder)?);
        }
        let mut collection = Collection::new(settings, created, message.incarnation, message.generation);
        let file = records_file(directory, message.incarnation, message.records);
        restore_records(&file, &message.records_hash, state, &mut collection, &index)?;
        store.restore_index(message.incarnation, index);
        restored.collection = Some(collection);
    }
    state.restore(Address::new(&holder.tenant, &holder.name), restored);
    Ok(())
}

fn restore_records(
    file: &Path,
    expected: &[u8],
    state: &mut State,
    collection: &mut Collection,
    index: &Index,
) -> Result<(), Error> {
    let damaged = || Error::Damaged(file.into());
    let read = |source| Error::Io { doing: "reading", path: file.into(), source };
    let mut bytes = Bytes::from(std::fs::read(file).map_err(read)?);
    if blake3::hash(&bytes).as_bytes() != expected {
        return Err(damaged());
    }
    let mut claimed = Vec::new();
    let mut head = Vec::new();
    while !bytes.is_empty() {
        let message = format::Record::decode_length_delimited(&mut bytes).map_err(|_| damaged())?;
        let slot = collection.slots();
        if let Some(row) = message.row {
            claimed.push((slot, Row { part: row.part, row: row.row }));
        } else if !message.values.is_empty() {
            head.push((slot, message.values.clone()));
        }
        let record = restore_record(&message, state);
        collection.restore(message.id.into(), record);
    }
    if !index.restore_rows(&claimed) {
        return Err(damaged());
    }
    for (slot, values) in head {
        if values.len() != index.settings.dimension as usize * 4 {
            return Err(damaged());
        }
        index.put(slot, &decode_values(&values));
    }
    Ok(())
}

fn restore_record(message: &format::Record, state: &mut State) -> Record {
    let sites = state.sites_mut();
    let base: Option<Stamp> = message.base.as_ref().map(|stamp| sites.stamp(stamp));
    let deleted = message.deleted.as_ref().map(|stamp| sites.stamp(stamp));
    let vector = message.vector.as_ref().map(|stamp| sites.stamp(stamp)).or_else(|| base.clone());
    let patches: BTreeMap<_, _> = message
        .patches
        .iter()
        .filter_map(|patch| Some((patch.key.as_str().into(), (sites.stamp(patch.stamp.as_ref()?), patch.removed))))
        .collect();
    // A copy of its own: the rest of the file must not stay in memory for it.
    let metadata = Bytes::copy_from_slice(&message.metadata);
    let waiting = message.waiting.as_deref().map(Bytes::copy_from_slice);
    Record::restore(message.version, [base, deleted, vector], waiting, metadata, patches)
}

fn sealed(message: &format::Segment) -> Option<Sealed> {
    let hash = |bytes: &[u8]| Some(blake3::Hash::from_bytes(bytes.try_into().ok()?));
    Some(Sealed { part: message.part, vectors: hash(&message.vectors)?, graph: hash(&message.graph)? })
}
