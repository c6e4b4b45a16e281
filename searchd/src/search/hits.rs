//! Hits in their final order that are looked up block by block: for those who send the first before the last are known.
//!
//! The order is settled when the search is done. A point that is deleted, gets another vector or stops matching the filter
//! before its block is looked up is left out, and nothing takes its place: to show it would be to show something that was
//! not found. Metadata are those of the moment when the block is looked up. With no writes in between, all blocks together
//! are what [`super::run`] answers.

use std::ops::Range;
use std::sync::Arc;

use super::stop::Stop;
use super::{Error, Found, Opened, Query, batch, bring_targets, current, look_up, still_matches};
use crate::engine::State;
use crate::engine::stamp::Stamp;
use crate::index::Index;
use crate::index::nearest::Hit;
use crate::store::Store;

/// What a search found.
pub struct Hits {
    query: Query,
    settled: Settled,
}

struct Settled {
    index: Arc<Index>,
    incarnation: u64,
    generation: u64,
    /// With the stamp of the vector that was found.
    hits: Vec<(Hit, Option<Stamp>)>,
}

/// Finds min(k, matches) hits, and looks none of them up.
///
/// # Errors
/// As [`super::run`].
pub fn find(store: &Store, query: Query, stop: &Stop) -> Result<Hits, Error> {
    bring_targets(store, &[&query], stop)?;
    let (settled, _) = batch::run(store, &[&query], stop, &settle).pop().expect("one outcome for one query");
    Ok(Hits { settled: settled?, query })
}

/// `None` when a hit was replaced or deleted while the search ran, so that another one may be missing.
fn settle(state: &State, query: &Query, opened: &Opened, hits: Vec<Hit>) -> Result<Option<Settled>, Error> {
    let Some(collection) = current(state, query, opened) else { return Ok(None) };
    let unchanged = collection.generation == opened.generation;
    let mut settled = Vec::with_capacity(hits.len());
    for hit in hits {
        let stands = unchanged || opened.index.row(hit.slot) == Some(hit.row);
        match collection.slot(hit.slot).filter(|(_, record)| stands && (unchanged || still_matches(query, record))) {
            Some((_, record)) => settled.push((hit, record.vector().cloned())),
            None => return Ok(None),
        }
    }
    let (index, incarnation) = (opened.index.clone(), opened.incarnation);
    Ok(Some(Settled { index, incarnation, generation: collection.generation, hits: settled }))
}

impl Hits {
    pub fn len(&self) -> usize {
        self.settled.hits.len()
    }

    pub fn is_empty(&self) -> bool {
        self.settled.hits.is_empty()
    }

    /// Looks up the hits at these places that are still what was found.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn look_up(&self, store: &Store, places: Range<usize>) -> Result<Vec<Found>, Error> {
        let Settled { index, incarnation, generation, hits } = &self.settled;
        let state = store.read();
        let known = state.collection(&self.query.address).filter(|known| known.incarnation == *incarnation);
        let Some(collection) = known else { return Ok(Vec::new()) };
        let unchanged = collection.generation == *generation;
        let mut found = Vec::with_capacity(places.len());
        for (hit, vector) in &hits[places] {
            let Some((id, record)) = collection.slot(hit.slot) else { continue };
            let stands =
                || record.is_live() && record.vector() == vector.as_ref() && still_matches(&self.query, record);
            if unchanged || stands() {
                found.extend(look_up(collection, index, &self.query, hit, (id, record))?);
            }
        }
        Ok(found)
    }
}
