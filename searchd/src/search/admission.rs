//! From a query's filter to the slots that it admits: from the cache, from the indexes over metadata, and from the records
//! of which these are not sure.

use std::sync::Arc;

use crate::engine::{Collection, Slot};
use crate::filter::Filter;
use crate::index::admitted::Admitted;
use crate::metadata;
use crate::metadata::bounds::Bounds;

use super::explain::{Coverage, FilterUse};
use super::stop::Stop;
use super::{Error, Opened, Query, View, current};

/// The slots that the filter admits, and how that was found out.
pub(super) fn admitted(
    view: &View<'_>,
    query: &Query,
    opened: &Opened,
    filter: &Filter,
    stop: &Stop,
) -> Result<(Arc<Admitted>, FilterUse), Error> {
    let masks = view.store.masks();
    if let Some(kept) = masks.get(filter, opened.incarnation, opened.generation) {
        let index = view.look(|state| {
            let collection = current(state, query, opened).ok_or(Error::NoCollection)?;
            let metadata = view.store.metadata(opened.incarnation).ok_or(Error::NoCollection)?;
            Ok::<_, Error>(coverage(&metadata.read(), collection))
        })?;
        let used = FilterUse { admitted: kept.len() as u64, kept: true, index, read: 0 };
        return Ok((kept, used));
    }
    let (Bounds { mut sure, doubt }, coverage, generation) = view.look(|state| {
        let collection = current(state, query, opened).ok_or(Error::NoCollection)?;
        let metadata = view.store.metadata(opened.incarnation).ok_or(Error::NoCollection)?;
        let metadata = metadata.read();
        let bounds = metadata.evaluate(filter, collection.slots());
        Ok::<_, Error>((bounds, coverage(&metadata, collection), collection.generation))
    })?;
    let doubtful: Vec<Slot> = doubt.iter().collect();
    // Block by block, so that writes get in between.
    for block in doubtful.chunks(READ_BLOCK) {
        stop.check()?;
        view.look(|state| {
            let Some(collection) = current(state, query, opened) else { return };
            sure.extend(block.iter().copied().filter(|slot| matches(collection, *slot, filter)));
        });
    }
    let admitted = Arc::new(Admitted::new(sure));
    let now = view.look(|state| current(state, query, opened).map(|collection| collection.generation));
    // What is kept is exactly of one generation.
    if now == Some(generation) {
        masks.put(filter, opened.incarnation, generation, &admitted);
    }
    let read = doubtful.len() as u64;
    let used = FilterUse { admitted: admitted.len() as u64, kept: false, index: coverage, read };
    Ok((admitted, used))
}

/// Every slot of a collection that the filter admits, in ascending order. The collection must not change meanwhile.
pub fn matching(collection: &Collection, metadata: &metadata::Index, filter: &Filter) -> Vec<Slot> {
    let Bounds { mut sure, doubt } = metadata.evaluate(filter, collection.slots());
    sure.extend(doubt.iter().filter(|slot| matches(collection, *slot, filter)));
    sure.iter().collect()
}

/// Every slot that the filter may admit, in ascending order.
pub fn candidates(collection: &Collection, metadata: &metadata::Index, filter: &Filter) -> Vec<Slot> {
    let Bounds { sure, doubt } = metadata.evaluate(filter, collection.slots());
    (sure | doubt).iter().collect()
}

/// Whether the slot's record lives and its metadata match.
pub fn matches(collection: &Collection, slot: Slot, filter: &Filter) -> bool {
    let record = collection.slot(slot).map(|(_, record)| record).filter(|record| record.is_live());
    record.is_some_and(|record| filter.matches_json(record.metadata()))
}

fn coverage(metadata: &metadata::Index, collection: &Collection) -> Coverage {
    match metadata.is_complete() {
        true => Coverage::Complete,
        false if collection.slots() <= metadata::SMALL => Coverage::None,
        false => Coverage::Building,
    }
}

/// Records looked at under one lock.
const READ_BLOCK: usize = 256;
