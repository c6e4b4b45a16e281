//! The engine's state and the indexes that follow it.
//!
//! The committer changes both under one lock; searches hold it for moments only, to look up records by slot.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use nearfield_proto::log::v1::Entry;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::watch;

use crate::cache::{Caches, Masks};
use crate::engine::settings::Settings;
use crate::engine::vector_clock::VectorClock;
use crate::engine::{Address, Change, Collection, Effect, Malformed, Slot, State, Vectors};
use crate::index::Index;
use crate::index::kernel::Kernel;
use crate::metadata;
use crate::metadata::catch_up::Backlog;
use crate::search::stop::{Stop, Stopped};

pub struct Store {
    state: RwLock<State>,
    indexes: RwLock<Indexes>,
    kernel: Kernel,
    caches: Caches,
    backlog: Backlog,
    /// Counts batches; wakes those who wait for a session.
    applied: watch::Sender<u64>,
    /// Answers that were refused because a vector is damaged.
    pub damages: AtomicU64,
    /// Hits that were looked up for streams, block by block.
    pub streamed: AtomicU64,
}

#[derive(Default)]
struct Indexes(HashMap<u64, Followers>);

/// What follows one collection.
struct Followers {
    vectors: Arc<Index>,
    metadata: Arc<RwLock<metadata::Index>>,
}

impl Followers {
    fn new(vectors: Arc<Index>) -> Self {
        Self { vectors, metadata: Arc::default() }
    }
}

impl Store {
    pub fn new(state: State, caches: Caches) -> Self {
        Self {
            state: RwLock::new(state),
            indexes: RwLock::default(),
            kernel: Kernel::detect(),
            caches,
            backlog: Backlog::default(),
            applied: watch::Sender::new(0),
            damages: AtomicU64::new(0),
            streamed: AtomicU64::new(0),
        }
    }

    pub fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read()
    }

    pub fn masks(&self) -> &Masks {
        &self.caches.masks
    }

    /// An empty index for a collection.
    pub fn new_index(&self, settings: Settings, incarnation: u64) -> Index {
        Index::new(settings, self.kernel).with_cache(self.caches.vectors.clone(), incarnation)
    }

    /// A collection as it is now, with its index.
    pub fn with_collection<T>(&self, address: &Address, look: impl FnOnce(&Collection, &Arc<Index>) -> T) -> Option<T> {
        let state = self.state.read();
        let collection = state.collection(address)?;
        let index = self.index(collection.incarnation)?;
        Some(look(collection, &index))
    }

    /// Returns when the vectors of these slots of a collection are there. Blocks, and holds no lock meanwhile; for those who are
    /// about to ask for them under one.
    pub fn bring(
        &self,
        address: &Address,
        slots: impl FnOnce(&Collection) -> Vec<Slot>,
        stop: &Stop,
    ) -> Result<(), Stopped> {
        let incomplete = |collection: &Collection, index: &Arc<Index>| {
            (!index.is_there()).then(|| (index.clone(), slots(collection)))
        };
        match self.with_collection(address, incomplete).flatten() {
            Some((index, slots)) => index.bring(slots.into_iter(), stop),
            None => Ok(()),
        }
    }

    pub fn index(&self, incarnation: u64) -> Option<Arc<Index>> {
        self.indexes.read().0.get(&incarnation).map(|followers| followers.vectors.clone())
    }

    /// The indexes over a collection's metadata. Locked after the state, by readers and writers alike: whoever holds the
    /// state sees them exactly of its generation.
    pub fn metadata(&self, incarnation: u64) -> Option<Arc<RwLock<metadata::Index>>> {
        self.indexes.read().0.get(&incarnation).map(|followers| followers.metadata.clone())
    }

    /// Bytes that the indexes over metadata take, about.
    pub fn metadata_bytes(&self) -> u64 {
        let indexes = self.indexes.read();
        indexes.0.values().map(|followers| followers.metadata.read().bytes() as u64).sum()
    }

    /// Collections whose indexes over metadata are behind.
    pub fn backlog(&self) -> &Backlog {
        &self.backlog
    }

    /// Reads the metadata of the next records into the collection's index; false when there is no more to be read.
    pub fn read_metadata(&self, address: &Address, incarnation: u64, count: Slot) -> bool {
        let state = self.state.read();
        let Some(metadata) = self.metadata(incarnation) else { return false };
        let mut metadata = metadata.write();
        match state.collection(address).filter(|found| found.incarnation == incarnation) {
            Some(collection) => !metadata.read(collection, count),
            None => {
                metadata.is_awaited = false;
                false
            }
        }
    }

    /// Adds an index that was read from a snapshot.
    pub fn restore_index(&self, incarnation: u64, index: Arc<Index>) {
        self.indexes.write().0.insert(incarnation, Followers::new(index));
    }

    /// Puts the state of a snapshot in place. Its metadata are read into indexes later, see [`Store::backlog`].
    pub fn restore(&self, state: State) {
        state.holders().for_each(|(address, _)| self.await_metadata(&state, address));
        *self.state.write() = state;
    }

    /// Queues a collection that has become too large to do without indexes over its metadata.
    fn await_metadata(&self, state: &State, address: &Address) {
        let Some(collection) = state.collection(address).filter(|found| found.slots() > metadata::SMALL) else {
            return;
        };
        let Some(metadata) = self.metadata(collection.incarnation) else { return };
        let mut metadata = metadata.write();
        if !metadata.is_complete() && !std::mem::replace(&mut metadata.is_awaited, true) {
            self.backlog.push(address.clone(), collection.incarnation);
        }
    }

    /// Whether all vectors are there: see [`Index::is_there`].
    pub fn is_there(&self) -> bool {
        self.indexes.read().0.values().all(|followers| followers.vectors.is_there())
    }

    /// All indexes.
    pub fn indexes(&self) -> Vec<(u64, Arc<Index>)> {
        let indexes = self.indexes.read();
        indexes.0.iter().map(|(incarnation, followers)| (*incarnation, followers.vectors.clone())).collect()
    }

    /// Applies entries in order and wakes waiting readers, who see all of an entry or nothing of it, and get in between two.
    pub fn apply<'a>(&self, entries: impl IntoIterator<Item = &'a Entry>) -> Result<(), Malformed> {
        let mut state = self.state.write();
        let mut outcome = Ok(());
        for entry in entries {
            let effects = state.apply(entry, &*self.indexes.read());
            match effects {
                Ok(effects) => {
                    let follows = !effects.is_empty();
                    effects.into_iter().for_each(|effect| self.follow(effect));
                    if follows {
                        self.await_metadata(&state, &Address::new(&entry.tenant, &entry.collection));
                    }
                }
                // The entry has no effect; the rest of the batch has.
                Err(malformed) => outcome = Err(malformed),
            }
            RwLockWriteGuard::bump(&mut state);
        }
        drop(state);
        self.applied.send_modify(|batches| *batches += 1);
        outcome
    }

    /// Resolves once each collection that the entries speak of has at most `bound` bytes of vectors that wait to be sealed.
    pub async fn await_headroom(&self, entries: &[Entry], bound: u64) {
        let addresses: BTreeSet<(&str, &str)> =
            entries.iter().map(|entry| (entry.tenant.as_str(), entry.collection.as_str())).collect();
        for (tenant, collection) in addresses {
            let index = self.with_collection(&Address::new(tenant, collection), |_, index| index.clone());
            if let Some(index) = index {
                index.await_headroom(bound).await;
            }
        }
    }

    /// Resolves once everything in `session` has been applied here.
    pub async fn applied(&self, session: &VectorClock) {
        let mut batches = self.applied.subscribe();
        while !self.state.read().clock().covers(session) {
            if batches.changed().await.is_err() {
                return;
            }
        }
    }

    /// Tells when batches are applied.
    pub fn batches(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    fn follow(&self, effect: Effect) {
        match effect {
            Effect::Created { incarnation, settings } => {
                let index = Arc::new(self.new_index(settings, incarnation));
                self.indexes.write().0.insert(incarnation, Followers::new(index));
            }
            Effect::Dropped { incarnation } => {
                if let Some(followers) = self.indexes.write().0.remove(&incarnation) {
                    followers.vectors.headroom.close();
                }
            }
            Effect::Changed { incarnation, changes } => {
                let (Some(index), Some(metadata)) = (self.index(incarnation), self.metadata(incarnation)) else {
                    return;
                };
                let mut metadata = metadata.write();
                for change in changes {
                    match change {
                        Change::Vector { slot, values } => index.put(slot, &decode_values(&values)),
                        Change::Removed { slot } => index.remove(slot),
                        Change::Metadata { slot, before, after } => {
                            metadata.change(slot, before.as_deref(), after.as_deref());
                        }
                    }
                }
            }
        }
    }
}

impl Vectors for Indexes {
    fn values(&self, incarnation: u64, slot: Slot) -> Option<Bytes> {
        // A damaged vector is as good as gone: the change that asks for it cannot be refused any more.
        let values = self.0.get(&incarnation)?.vectors.values(slot).ok().flatten();
        values.map(|values| encode_values(&values))
    }
}

/// Little-endian f32s, as they are in memory here.
pub fn encode_values(values: &[f32]) -> Bytes {
    const { assert!(cfg!(target_endian = "little"), "files of vectors are mapped as they are, too") };
    Bytes::copy_from_slice(bytemuck::cast_slice(values))
}

/// Little-endian f32s.
pub fn decode_values(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().expect("four bytes"))).collect()
}
