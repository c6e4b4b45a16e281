//! Coming back from a checkpoint.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use rayon::prelude::*;

use super::records::{self, Opened};
use super::{Checkpointer, Error, collection_directory, format, manifest_file, read_manifest, records_of};
use crate::cache::Caches;
use crate::engine::settings::Settings;
use crate::engine::stamp::Sites;
use crate::engine::vector_clock::VectorClock;
use crate::engine::{Address, Collection, Holder, State};
use crate::index::arrival::Arrivals;
use crate::index::graph::Builder;
use crate::index::segment::{Sealed, Segment, vectors_file};
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
pub fn restore(
    directory: &Path,
    builder: &dyn Builder,
    caches: Caches,
    arrivals: &Arrivals,
) -> Result<Restored, Error> {
    let store = Store::new(State::default(), caches);
    let manifest = read_manifest(directory)?;
    let checkpointer = Checkpointer::new(directory.into(), manifest.clone());
    let Some(manifest) = manifest else { return Ok(Restored { store, from_record: 1, checkpointer }) };
    let from_record = manifest.from_record;
    let mut state = State::default();
    let applied: VectorClock = manifest.clock.iter().map(|applied| (applied.origin, applied.sequence)).collect();
    state.restore_clock(&applied, manifest.latest.as_ref());
    let sites = Mutex::new(std::mem::take(state.sites_mut()));
    let reading = Reading { directory, builder, store: &store, sites: &sites, arrivals };
    let collections = manifest.holders.par_iter().map(|holder| {
        let collection = holder.collection.as_ref();
        collection.map(|collection| reading.collection(collection)).transpose()
    });
    let collections: Vec<Option<Collection>> = collections.collect::<Result<_, Error>>()?;
    *state.sites_mut() = sites.into_inner();
    for (holder, collection) in manifest.holders.into_iter().zip(collections) {
        let deleted = holder.deleted.as_ref().map(|stamp| state.sites_mut().stamp(stamp));
        let restored = Holder { deleted, collection, generation: holder.generation };
        state.restore(Address::new(&holder.tenant, &holder.name), restored);
    }
    state.restore_pending(manifest.pending);
    store.restore(state);
    Ok(Restored { store, from_record, checkpointer })
}

/// Opens what a manifest names, on all cores.
struct Reading<'a> {
    directory: &'a Path,
    builder: &'a dyn Builder,
    store: &'a Store,
    sites: &'a Mutex<Sites>,
    arrivals: &'a Arrivals,
}

impl Reading<'_> {
    fn collection(&self, message: &format::Collection) -> Result<Collection, Error> {
        let damaged = || Error::Damaged(manifest_file(self.directory));
        let settings = message.settings.as_ref().and_then(|settings| Settings::from_message(settings).ok());
        let settings = settings.ok_or_else(damaged)?;
        let created = message.created.as_ref().ok_or_else(damaged)?;
        let created = self.sites.lock().stamp(created);
        let sealed: Option<Vec<Sealed>> = message.segments.iter().map(format::Segment::sealed).collect::<Option<_>>();
        let sealed = sealed.ok_or_else(damaged)?;
        let home = collection_directory(self.directory, message.incarnation);
        let file = records_of(self.directory, message);
        let (opened, segments) = rayon::join(
            || records::open(&file, message.part, &message.records_hash, self.sites),
            || {
                let segments = sealed.into_par_iter();
                let segments = segments.map(|sealed| {
                    let arrival = self.arrivals.get(&vectors_file(&home, sealed.part)).cloned();
                    Segment::open_arriving(&home, sealed, &settings, self.builder, arrival)
                });
                segments.collect::<Result<Vec<_>, _>>()
            },
        );
        let (Opened { records, live, rows, waiting }, segments) = (opened?, segments?);
        let index = self.store.new_index(settings.clone(), message.incarnation);
        segments.into_iter().for_each(|segment| index.restore_segment(segment));
        let values_fit = waiting.iter().all(|(_, values)| values.len() == settings.dimension as usize * 4);
        if !values_fit || !index.restore_rows(rows) {
            return Err(Error::Damaged(file));
        }
        waiting.into_iter().for_each(|(slot, values)| index.put(slot, &decode_values(&values)));
        self.store.restore_index(message.incarnation, Arc::new(index));
        let mut collection = Collection::new(settings, created, message.incarnation, message.generation);
        collection.restore(records, live);
        Ok(collection)
    }
}
