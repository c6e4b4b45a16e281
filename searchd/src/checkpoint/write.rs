//! Writing checkpoints, and removing what none needs any more.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::copying::Source;
use super::format::{self, FORMAT, Manifest};
use super::shared::{self, Use};
use super::{Error, collection_directory, collections_directory, records_file, records_of, write_manifest};
use crate::engine::{Address, Holder};
use crate::index::Index;
use crate::index::segment::Sealed;
use crate::store::Store;
use crate::wal::sync_directory;

/// Writes checkpoints of one data directory. There is one, on the maintenance thread. Which row is in which segment does not
/// change while it writes a collection: see [`Index::hold_places`].
pub struct Checkpointer {
    directory: PathBuf,
    next_file: u64,
    /// The checkpoint that a start would read now.
    last: Option<Manifest>,
    /// When that was written, or this began.
    since: Instant,
    /// Replacing it failed, so a start may read either: nothing is removed until it has succeeded.
    unsure: bool,
    /// What the last checkpoint wrote of each collection, for those that did not change since.
    written: BTreeMap<u64, Written>,
    /// The segments that the last checkpoint names of each collection.
    named: BTreeMap<u64, Vec<Sealed>>,
    /// The lengths of files that small collections share, by number, as far as this process wrote them.
    shared: BTreeMap<u64, u64>,
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
        let named = last.as_ref().map(named).unwrap_or_default();
        let (since, written, shared) = (Instant::now(), BTreeMap::new(), BTreeMap::new());
        Self { directory, next_file, last, since, unsure: false, written, named, shared }
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The time since the last checkpoint, or since this began.
    pub fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Whether a start from the last checkpoint would find the segments that the index has now. Those that it would not, it would
    /// have to build once more.
    pub fn names_segments(&self, incarnation: u64, index: &Index) -> bool {
        let named = self.named.get(&incarnation).map_or(&[][..], Vec::as_slice);
        index.segments().iter().map(|segment| segment.sealed).eq(named.iter().copied())
    }

    /// Writes a checkpoint from which the log is replayed from `from_record` on. That number was read before the call.
    /// When it fails, the one before is still there, and nothing is left of the new one.
    pub fn write(&mut self, store: &Store, from_record: u64) -> Result<(), Error> {
        let outcome = self.write_all(store, from_record).and_then(|manifest| {
            self.unsure = true;
            write_manifest(&self.directory, &manifest)?;
            (self.named, self.since) = (named(&manifest), Instant::now());
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
        let mut sharing = Sharing { worn: shared::worn(&self.uses()), file: None };
        for address in &addresses {
            manifest.holders.extend(self.holder(store, address, &mut sharing)?);
        }
        if let Some(file) = sharing.file {
            let (number, path) = (file.number(), file.path().to_owned());
            let length = file.finish(&self.directory);
            let length = length.map_err(|source| Error::Io { doing: "writing", path, source })?;
            self.shared.insert(number, length);
        }
        Ok(manifest)
    }

    /// How much of the shared files collections use that were not written since.
    fn uses(&self) -> BTreeMap<u64, Use> {
        let file = |(number, length): (&u64, &u64)| (*number, Use { length: *length, used: 0 });
        let mut uses: BTreeMap<u64, Use> = self.shared.iter().map(file).collect();
        for collection in self.written.values().map(|written| &written.collection) {
            if let (Some(part), Some(file)) = (collection.part, uses.get_mut(&collection.records)) {
                file.used += part.bytes;
            }
        }
        uses
    }

    fn holder(
        &mut self,
        store: &Store,
        address: &Address,
        sharing: &mut Sharing,
    ) -> Result<Option<format::Holder>, Error> {
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
            message.collection = self.collection(store, address, (incarnation, &index), sharing)?;
        }
        Ok(Some(message))
    }

    /// None when the collection was dropped meanwhile: the log, replayed, drops it again.
    fn collection(
        &mut self,
        store: &Store,
        address: &Address,
        (incarnation, index): (u64, &Arc<Index>),
        sharing: &mut Sharing,
    ) -> Result<Option<format::Collection>, Error> {
        let _places = index.hold_places();
        let segments: Vec<Sealed> = index.segments().iter().map(|segment| segment.sealed).collect();
        let look = |holder: &Holder| {
            let collection = holder.collection.as_ref().filter(|found| found.incarnation == incarnation)?;
            let (settings, created) = (collection.settings.to_message(), collection.created.to_message());
            Some((settings, created, collection.generation, collection.slots() <= shared::SMALL))
        };
        let Some((settings, created, generation, is_small)) = store.read().holder(address).and_then(look) else {
            return Ok(None);
        };
        if let Some(written) = self.written.get(&incarnation)
            && written.generation == generation
            && written.segments == segments
            && !sharing.leaves(&written.collection)
        {
            return Ok(Some(written.collection.clone()));
        }
        let source = Source { store, address, incarnation, index };
        let (records, part, hash) = match is_small {
            true => self.write_shared(&source, sharing)?,
            false => self.write_own(&source)?,
        };
        let collection = format::Collection {
            settings: Some(settings),
            created: Some(created),
            incarnation,
            generation,
            segments: segments.iter().map(format::Segment::of).collect(),
            records,
            records_hash: Bytes::copy_from_slice(hash.as_bytes()),
            part,
        };
        let written = Written { generation, segments, collection: collection.clone() };
        self.written.insert(incarnation, written);
        Ok(Some(collection))
    }

    fn next_file(&mut self) -> u64 {
        self.next_file += 1;
        self.next_file - 1
    }

    /// Writes records into the file that this checkpoint's small collections share, which is durable later. Returns its number,
    /// where they are in it, and their hash.
    fn write_shared(&mut self, source: &Source<'_>, sharing: &mut Sharing) -> Result<Place, Error> {
        let file = match &mut sharing.file {
            Some(file) => file,
            none => {
                let number = self.next_file();
                let path = shared::file(&self.directory, number);
                let created = shared::Writer::create(&self.directory, number);
                none.insert(created.map_err(|source| Error::Io { doing: "making", path, source })?)
            }
        };
        let mut write = || {
            let (records, hash) = source.copied();
            Ok((file.number(), Some(file.push(&records)?), hash))
        };
        write().map_err(|source| Error::Io { doing: "writing", path: file.path().to_owned(), source })
    }

    /// Writes records into a file of their own. It and its name are durable afterwards.
    fn write_own(&mut self, source: &Source<'_>) -> Result<Place, Error> {
        let number = self.next_file();
        let home = collection_directory(&self.directory, source.incarnation);
        let path = records_file(&self.directory, source.incarnation, number);
        let write = || {
            std::fs::create_dir_all(&home)?;
            let hash = source.write(File::create(&path)?)?;
            sync_directory(&home)?;
            sync_directory(&collections_directory(&self.directory))?;
            Ok((number, None, hash))
        };
        write().map_err(|source| Error::Io { doing: "writing", path: path.clone(), source })
    }

    /// Removes files that neither the last checkpoint nor the running process knows. Failing costs space, nothing else.
    pub fn remove_orphans(&mut self, store: &Store) {
        if self.unsure {
            return;
        }
        // Listed before it is asked what is needed: what comes to be meanwhile is not looked at.
        let found = match Found::list(&collections_directory(&self.directory)) {
            Ok(found) => found,
            Err(error) => return tracing::warn!(%error, "files that no checkpoint needs could not be found"),
        };
        let mut kept: BTreeSet<PathBuf> = BTreeSet::new();
        let mut directories: BTreeSet<PathBuf> = BTreeSet::new();
        let mut named = BTreeMap::new();
        let holders = self.last.iter().flat_map(|manifest| &manifest.holders);
        for collection in holders.filter_map(|holder| holder.collection.as_ref()) {
            named.insert(collection.incarnation, collection);
            kept.insert(records_of(&self.directory, collection));
            let directory = collection_directory(&self.directory, collection.incarnation);
            for part in collection.segments.iter().map(|segment| segment.part) {
                kept.insert(crate::index::segment::vectors_file(&directory, part));
                kept.insert(crate::index::segment::graph_file(&directory, part));
            }
            directories.insert(directory);
        }
        directories.insert(shared::directory(&self.directory));
        for (incarnation, index) in store.indexes() {
            let directory = collection_directory(&self.directory, incarnation);
            // What is unfinished first: it may be finished a moment later.
            let unfinished = index.unfinished();
            for part in index.segments().iter().map(|segment| segment.part()).chain(unfinished) {
                kept.insert(crate::index::segment::vectors_file(&directory, part));
                kept.insert(crate::index::segment::graph_file(&directory, part));
                kept.insert(crate::index::segment::unfinished_graph_file(&directory, part));
            }
            directories.insert(directory);
        }
        // What a checkpoint that failed wrote is about to go.
        self.written.retain(|incarnation, written| named.get(incarnation) == Some(&&written.collection));
        self.shared.retain(|number, _| kept.contains(&shared::file(&self.directory, *number)));
        if let Err(error) = found.remove(&directories, &kept) {
            tracing::warn!(%error, "files that no checkpoint needs could not be removed");
        }
    }
}

/// The segments of each collection of a checkpoint.
fn named(manifest: &Manifest) -> BTreeMap<u64, Vec<Sealed>> {
    let collections = manifest.holders.iter().filter_map(|holder| holder.collection.as_ref());
    let sealed =
        |collection: &format::Collection| collection.segments.iter().filter_map(format::Segment::sealed).collect();
    collections.map(|collection| (collection.incarnation, sealed(collection))).collect()
}

/// Directories of collections and the files in them, as they were at one moment.
struct Found(Vec<(PathBuf, Vec<PathBuf>)>);

impl Found {
    fn list(root: &Path) -> io::Result<Self> {
        let paths = |directory: &Path| {
            let entries = std::fs::read_dir(directory)?;
            entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<PathBuf>>>()
        };
        let directories = if root.is_dir() { paths(root)? } else { Vec::new() };
        let found = directories.into_iter().map(|directory| paths(&directory).map(|files| (directory, files)));
        Ok(Self(found.collect::<io::Result<_>>()?))
    }

    /// Removes all but these.
    fn remove(self, directories: &BTreeSet<PathBuf>, kept: &BTreeSet<PathBuf>) -> io::Result<()> {
        for (directory, files) in self.0 {
            if !directories.contains(&directory) {
                std::fs::remove_dir_all(&directory)?;
                continue;
            }
            for file in files.into_iter().filter(|file| !kept.contains(file)) {
                match std::fs::remove_file(&file) {
                    // A merge that failed has removed it itself.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    outcome => outcome?,
                }
            }
        }
        Ok(())
    }
}

/// Where records were written: the file's number, which part of it they are if it is shared, and their hash.
type Place = (u64, Option<format::Part>, blake3::Hash);

/// How the small collections of one checkpoint share files.
struct Sharing {
    /// Files that are left behind.
    worn: BTreeSet<u64>,
    /// The new one, once there is something to write.
    file: Option<shared::Writer>,
}

impl Sharing {
    /// Whether the collection's records have to move.
    fn leaves(&self, collection: &format::Collection) -> bool {
        collection.part.is_some() && self.worn.contains(&collection.records)
    }
}
