//! From a query's filter to the slots that it admits: from the cache, from the indexes over metadata, and from the records
//! of which these are not sure.

use std::sync::Arc;

use crate::engine::{Collection, Slot};
use crate::filter::Filter;
use crate::index::admitted::Admitted;
use crate::metadata;
use crate::metadata::bounds::Bounds;
use crate::metadata::recent::Moment;

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
    let name = masks.name(filter, opened.incarnation);
    let (known, coverage, moment) = view.look(|state| {
        let collection = current(state, query, opened).ok_or(Error::NoCollection)?;
        let metadata = view.store.metadata(opened.incarnation).ok_or(Error::NoCollection)?;
        let metadata = metadata.read();
        let kept = name.and_then(|name| masks.get(name, |then| metadata.changed_since(then)));
        let known = match kept {
            Some((mask, changed)) => {
                let look = |slot: Slot| (slot, matches(collection, slot, filter));
                Known::Before(mask, changed.into_iter().map(look).collect())
            }
            None => Known::Now(metadata.evaluate(filter, collection.slots())),
        };
        Ok::<_, Error>((known, coverage(&metadata, collection), metadata.now()))
    })?;
    let (admitted, kept, read, is_of_moment) = match known {
        Known::Before(mask, changed) if changed.is_empty() => (mask, true, 0, false),
        Known::Before(mask, changed) => (Arc::new(mask.with(&changed)), true, changed.len(), true),
        Known::Now(Bounds { mut sure, doubt }) => {
            let doubtful: Vec<Slot> = doubt.iter().collect();
            // Block by block, so that writes get in between.
            for block in doubtful.chunks(READ_BLOCK) {
                stop.check()?;
                view.look(|state| {
                    let Some(collection) = current(state, query, opened) else { return };
                    sure.extend(block.iter().copied().filter(|slot| matches(collection, *slot, filter)));
                });
            }
            let is_of_moment = doubtful.is_empty() || now(view, opened) == Some(moment);
            (Arc::new(Admitted::new(sure)), false, doubtful.len(), is_of_moment)
        }
    };
    if let (Some(name), true) = (name, is_of_moment) {
        masks.put(name, moment, &admitted);
    }
    let used = FilterUse { admitted: admitted.len() as u64, kept, index: coverage, read: read as u64 };
    Ok((admitted, used))
}

/// What is known of a filter at one moment.
enum Known {
    /// What it admitted before, and whether it admits slots that changed since.
    Before(Arc<Admitted>, Vec<(Slot, bool)>),
    Now(Bounds),
}

fn now(view: &View<'_>, opened: &Opened) -> Option<Moment> {
    view.look(|_| view.store.metadata(opened.incarnation).map(|metadata| metadata.read().now()))
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
