//! Writing checkpoints, and removing what none needs any more.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::format::{self, FORMAT, Manifest};
use super::records::Writer;
use super::{Error, collection_directory, collections_directory, records_file, write_manifest};
use crate::engine::{Address, Holder, Slot};
use crate::index::Index;
use crate::index::segment::Sealed;
use crate::store::{Store, encode_values};
use crate::wal::sync_directory;

/// Records that are copied under one look at the state.
const BLOCK: Slot = 1_024;

/// Writes checkpoints of one data directory. There is one, on the maintenance thread, which also seals segments: so
/// which segments there are does not change while it writes.
pub struct Checkpointer {
    directory: PathBuf,
    next_file: u64,
    /// The checkpoint that a start would read now.
    last: Option<Manifest>,
    /// Replacing it failed, so a start may read either: nothing is removed until it has succeeded.
    unsure: bool,
    /// What the last checkpoint wrote of each collection, for those that did not change since.
    written: BTreeMap<u64, Written>,
}

#[derive(Clone)]
struct Written {
    generation: u64,
    segments: Vec<Sealed>,
    collection: format::Collection,
}

impl Checkpointer {
    /// Goes on from the checkpoint that is in the directory, if one is.
    pub(super) fn new(directory: PathBuf, last: Option<Manifest>) -> Self {
        let collections = last.iter().flat_map(|manifest| &manifest.holders);
        let files = collections.filter_map(|holder| Some(holder.collection.as_ref()?.records));
        let next_file = files.max().unwrap_or(0) + 1;
        Self { directory, next_file, last, unsure: false, written: BTreeMap::new() }
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Writes a checkpoint from which the log is replayed from `from_record` on. That number was read before the call.
    /// When it fails, the one before is still there, and nothing is left of the new one.
    pub fn write(&mut self, store: &Store, from_record: u64) -> Result<(), Error> {
        let outcome = self.write_all(store, from_record).and_then(|manifest| {
            self.unsure = true;
            write_manifest(&self.directory, &manifest)?;
            (self.last, self.unsure) = (Some(manifest), false);
            Ok(())
        });
        self.remove_orphans(store);
        outcome
    }

    fn write_all(&mut self, store: &Store, from_record: u64) -> Result<Manifest, Error> {
        let (mut manifest, addresses) = {
            let state = store.read();
            let clock = state.clock().iter().map(|(origin, sequence)| format::Applied { origin, sequence });
            let manifest = Manifest {
                format: FORMAT,
                from_record,
                clock: clock.collect(),
                latest: state.latest().map(|stamp| stamp.to_message()),
                holders: Vec::new(),
                pending: state.pending().cloned().collect(),
            };
            (manifest, state.holders().map(|(address, _)| address.clone()).collect::<Vec<_>>())
        };
        for address in &addresses {
            manifest.holders.extend(self.holder(store, address)?);
        }
        Ok(manifest)
    }

    fn holder(&mut self, store: &Store, address: &Address) -> Result<Option<format::Holder>, Error> {
        let opened = {
            let state = store.read();
            let Some(holder) = state.holder(address) else { return Ok(None) };
            let message = format::Holder {
                tenant: address.tenant.to_string(),
                name: address.name.to_string(),
                deleted: holder.deleted.as_ref().map(|stamp| stamp.to_message()),
                generation: holder.generation,
                collection: None,
            };
            let index = holder.collection.as_ref().and_then(|collection| store.index(collection.incarnation));
            (message, holder.collection.as_ref().map(|collection| collection.incarnation).zip(index))
        };
        let (mut message, collection) = opened;
        if let Some((incarnation, index)) = collection {
            message.collection = self.collection(store, address, incarnation, &index)?;
        }
        Ok(Some(message))
    }

    /// None when the collection was dropped meanwhile: the log, replayed, drops it again.
    fn collection(
        &mut self,
        store: &Store,
        address: &Address,
        incarnation: u64,
        index: &Arc<Index>,
    ) -> Result<Option<format::Collection>, Error> {
        let segments: Vec<Sealed> = index.segments().iter().map(|segment| segment.sealed).collect();
        let look = |holder: &Holder| {
            let collection = holder.collection.as_ref().filter(|found| found.incarnation == incarnation)?;
            Some((collection.settings.to_message(), collection.created.to_message(), collection.generation))
        };
        let Some((settings, created, generation)) = store.read().holder(address).and_then(look) else {
            return Ok(None);
        };
        if let Some(written) = self.written.get(&incarnation)
            && written.generation == generation
            && written.segments == segments
        {
            return Ok(Some(written.collection.clone()));
        }
        let directory = collection_directory(&self.directory, incarnation);
        let number = self.next_file;
        self.next_file += 1;
        let file = records_file(&self.directory, incarnation, number);
        let io = |source| Error::Io { doing: "writing", path: file.clone(), source };
        std::fs::create_dir_all(&directory).map_err(io)?;
        let records_hash = write_records(store, address, incarnation, index, &file).map_err(io)?;
        sync_directory(&directory)
            .and_then(|()| sync_directory(&collections_directory(&self.directory)))
            .map_err(io)?;
        let named = segments.iter().map(|sealed| format::Segment {
            part: sealed.part,
            vectors: Bytes::copy_from_slice(sealed.vectors.as_bytes()),
            graph: Bytes::copy_from_slice(sealed.graph.as_bytes()),
        });
        let collection = format::Collection {
            settings: Some(settings),
            created: Some(created),
            incarnation,
            generation,
            segments: named.collect(),
            records: number,
            records_hash: Bytes::copy_from_slice(records_hash.as_bytes()),
        };
        let written = Written { generation, segments, collection: collection.clone() };
        self.written.insert(incarnation, written);
        Ok(Some(collection))
    }

    /// Removes files that neither the last checkpoint nor the running process knows. Failing costs space, nothing else.
    pub fn remove_orphans(&mut self, store: &Store) {
        if self.unsure {
            return;
        }
        let mut kept: BTreeSet<PathBuf> = BTreeSet::new();
        let mut directories: BTreeSet<PathBuf> = BTreeSet::new();
        let mut records = BTreeMap::new();
        let holders = self.last.iter().flat_map(|manifest| &manifest.holders);
        for collection in holders.filter_map(|holder| holder.collection.as_ref()) {
            records.insert(collection.incarnation, collection.records);
            let directory = collection_directory(&self.directory, collection.incarnation);
            kept.insert(records_file(&self.directory, collection.incarnation, collection.records));
            for part in collection.segments.iter().map(|segment| segment.part) {
                kept.insert(crate::index::segment::vectors_file(&directory, part));
                kept.insert(crate::index::segment::graph_file(&directory, part));
            }
            directories.insert(directory);
        }
        for (incarnation, index) in store.indexes() {
            let directory = collection_directory(&self.directory, incarnation);
            for part in index.segments().iter().map(|segment| segment.part()) {
                kept.insert(crate::index::segment::vectors_file(&directory, part));
                kept.insert(crate::index::segment::graph_file(&directory, part));
            }
            directories.insert(directory);
        }
        // What a checkpoint that failed wrote is about to go.
        self.written.retain(|incarnation, written| records.get(incarnation) == Some(&written.collection.records));
        if let Err(error) = sweep(&collections_directory(&self.directory), &directories, &kept) {
            tracing::warn!(%error, "files that no checkpoint needs could not be removed");
        }
    }
}

fn sweep(root: &Path, directories: &BTreeSet<PathBuf>, kept: &BTreeSet<PathBuf>) -> io::Result<()> {
    if !root.is_dir() {
        return Ok(());
    }
    for directory in std::fs::read_dir(root)? {
        let directory = directory?.path();
        if !directories.contains(&directory) {
            std::fs::remove_dir_all(&directory)?;
            continue;
        }
        for file in std::fs::read_dir(&directory)? {
            let file = file?.path();
            if !kept.contains(&file) {
                std::fs::remove_file(&file)?;
            }
        }
    }
    Ok(())
}

/// Writes all slots. The file is durable afterwards; its name is not yet.
fn write_records(
    store: &Store,
    address: &Address,
    incarnation: u64,
    index: &Index,
    file: &Path,
) -> io::Result<blake3::Hash> {
    let mut writer = Writer::create(file)?;
    let mut start: Slot = 0;
    loop {
        let done = {
            let state = store.read();
            let collection = state.holder(address).and_then(|holder| holder.collection.as_ref());
            // Dropped while it was being written: what is there is enough, for the log drops it again.
            let Some(collection) = collection.filter(|found| found.incarnation == incarnation) else { break };
            let end = collection.slots().min(start.saturating_add(BLOCK));
            for (slot, (id, record)) in (start..end).filter_map(|slot| Some((slot, collection.slot(slot)?))) {
                let sealed = index.row(slot).filter(|row| index.is_sealed(*row));
                // What is not sealed is in memory, and never damaged.
                let is_waiting = sealed.is_none() && record.is_live();
                let values = if is_waiting { index.values(slot).ok().flatten() } else { None };
                writer.push(id, record, sealed, values.map(|values| encode_values(&values)).unwrap_or_default());
            }
            start = end;
            end == collection.slots()
        };
        writer.flush()?;
        if done {
            break;
        }
    }
    writer.finish()
}
