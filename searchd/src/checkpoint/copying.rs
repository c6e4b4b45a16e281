//! Copying a collection's records beside writes and searches.
//!
//! A block of them is copied while the state is held, for which writers wait, and searches for those: so that is done by the
//! thread that calls, which must not be put off. Whoever were to hold the state on a thread of lower priority could wait for a
//! processor for as long as others build graphs, and everybody for him. What takes no lock, hashing and writing, comes after.

use std::fs::File;
use std::io::{self, Write};
use std::sync::mpsc;

use super::records::Writer;
use crate::engine::{Address, Slot};
use crate::index::Index;
use crate::priority::{self, Priority};
use crate::store::{Store, encode_values};

/// Records that are copied under one look at the state: some ten microseconds' work.
const BLOCK: Slot = 64;
/// Bytes that are handed over to be written together, and how many such pieces may wait to be.
const PIECE: usize = 256 * 1024;
const AHEAD: usize = 4;
/// Of the thread that writes.
const PRIORITY: Priority = Priority::Nice(10);

/// One collection's records.
pub(super) struct Source<'a> {
    pub(super) store: &'a Store,
    pub(super) address: &'a Address,
    pub(super) incarnation: u64,
    pub(super) index: &'a Index,
}

impl Source<'_> {
    /// All records, and what they hash to.
    pub(super) fn copied(&self) -> (Vec<u8>, blake3::Hash) {
        let mut all = Vec::new();
        self.copy(|piece| {
            all.extend(piece);
            true
        });
        let hash = blake3::hash(&all);
        (all, hash)
    }

    /// Writes all records, and says what they hash to. The file is durable afterwards.
    pub(super) fn write(&self, mut file: File) -> io::Result<blake3::Hash> {
        let (pieces, coming) = mpsc::sync_channel::<Vec<u8>>(AHEAD);
        let write = move || {
            let mut hasher = blake3::Hasher::new();
            for piece in coming {
                hasher.update(&piece);
                file.write_all(&piece)?;
            }
            file.sync_all()?;
            Ok(hasher.finalize())
        };
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| {
                priority::lower(PRIORITY);
                write()
            });
            self.copy(|piece| pieces.send(piece).is_ok());
            drop(pieces);
            writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Copies all slots, piece by piece, until `take` says that it takes no more.
    fn copy(&self, mut take: impl FnMut(Vec<u8>) -> bool) {
        let mut writer = Writer::new();
        let mut start: Slot = 0;
        while let Some(end) = self.copy_block(start, &mut writer) {
            start = end;
            if writer.len() >= PIECE && !take(writer.take()) {
                return;
            }
        }
        take(writer.finish());
    }

    /// Copies the slots from `start` on, and says where the next ones begin; none where there are no more.
    fn copy_block(&self, start: Slot, writer: &mut Writer) -> Option<Slot> {
        let state = self.store.read();
        let collection = state.holder(self.address).and_then(|holder| holder.collection.as_ref());
        // Dropped while it was being written: what is there is enough, for the log drops it again.
        let collection = collection.filter(|found| found.incarnation == self.incarnation)?;
        let end = collection.slots().min(start.saturating_add(BLOCK));
        for (slot, (id, record)) in (start..end).filter_map(|slot| Some((slot, collection.slot(slot)?))) {
            let sealed = self.index.row(slot).filter(|row| self.index.is_sealed(*row));
            // What is not sealed is in memory, and never damaged.
            let is_waiting = sealed.is_none() && record.is_live();
            let values = if is_waiting { self.index.values(slot).ok().flatten() } else { None };
            writer.push(id, record, sealed, values.map(|values| encode_values(&values)).unwrap_or_default());
        }
        (end > start).then_some(end)
    }
}
