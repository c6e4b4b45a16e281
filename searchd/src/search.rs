//! One search, from a checked query to hits with their metadata. Runs on the search pool; blocks.

pub mod load;
pub mod pool;
pub mod stop;

use std::cmp::Ordering;
use std::sync::Arc;

use bytes::Bytes;
use roaring::RoaringBitmap;

use crate::engine::{Address, Collection, Slot, State};
use crate::filter::Filter;
use crate::index::admitted::Admitted;
use crate::index::nearest::Hit;
use crate::index::{Index, Wanted, score};
use crate::store::Store;
use stop::{Stop, Stopped};

/// What is near?
#[derive(Clone, Debug)]
pub struct Query {
    pub address: Address,
    pub target: Target,
    pub k: usize,
    /// Absent for the collection's own.
    pub ef: Option<usize>,
    pub exact: bool,
    pub filter: Option<Arc<Filter>>,
    pub include: Include,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    Values(Vec<f32>),
    /// A stored point, which is left out of its own result.
    Point(String),
}

/// What comes with a hit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Include {
    pub metadata: bool,
    pub values: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    pub id: String,
    pub score: f32,
    /// A JSON object, when asked for.
    pub metadata: Bytes,
    /// When asked for.
    pub values: Vec<f32>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Best first; ties by id.
    pub hits: Vec<Found>,
    /// The collection's generation that the answer is of.
    pub generation: u64,
    /// The collection's, too.
    pub incarnation: u64,
    /// Nothing was written while the search ran: the answer is that of the generation, not merely as good as.
    pub is_settled: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no such collection")]
    NoCollection,
    #[error("no such point")]
    NoPoint,
    #[error(transparent)]
    Stopped(#[from] Stopped),
    #[error("the query has {actual} numbers, the collection has {expected}")]
    Dimension { expected: usize, actual: usize },
}

/// Finds min(k, matches) hits.
pub fn run(store: &Store, query: &Query, stop: &Stop) -> Result<Answer, Error> {
    for _ in 0..UNDISTURBED {
        if let Some(answer) = attempt(&View { store, held: None }, query, stop)? {
            return Ok(answer);
        }
    }
    // Writes keep replacing what is found. Hold them off for once.
    let held = store.read();
    attempt(&View { store, held: Some(&held) }, query, stop)?.ok_or(Error::NoCollection)
}

/// The state: locked anew for each look, or held all the time.
struct View<'a> {
    store: &'a Store,
    held: Option<&'a State>,
}

impl View<'_> {
    fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        match self.held {
            Some(state) => look(state),
            None => look(&self.store.read()),
        }
    }
}

/// What a search starts from.
struct Opened {
    index: Arc<Index>,
    incarnation: u64,
    generation: u64,
    slots: Slot,
    target: Vec<f32>,
    except: Option<Slot>,
}

/// `None` when a hit was replaced or deleted while the search ran, so that another one may be missing.
fn attempt(view: &View<'_>, query: &Query, stop: &Stop) -> Result<Option<Answer>, Error> {
    stop.check()?;
    let opened = view.look(|state| open(view.store, state, query))?;
    let admitted =
        query.filter.as_ref().map(|filter| kept_or_admitted(view, query, &opened, filter, stop)).transpose()?;
    let scorer = opened.index.scorer(&opened.target);
    let wanted = Wanted {
        scorer: &scorer,
        k: query.k,
        ef: query.ef.unwrap_or(opened.index.settings.ef_search as usize).max(query.k),
        exact: query.exact,
        admitted: admitted.as_deref(),
        except: opened.except,
    };
    let by_id = |a, b| view.look(|state| compare_ids(state, query, a, b));
    let (hits, _trail) = opened.index.search(&wanted, &by_id, stop)?;
    Ok(view.look(|state| gather(state, query, &opened, &hits)))
}

fn open(store: &Store, state: &State, query: &Query) -> Result<Opened, Error> {
    let collection = state.collection(&query.address).ok_or(Error::NoCollection)?;
    let index = store.index(collection.incarnation).ok_or(Error::NoCollection)?;
    let (target, except) = match &query.target {
        Target::Values(values) => (values.clone(), None),
        Target::Point(id) => {
            let (slot, _) = collection.get(id).ok_or(Error::NoPoint)?;
            (index.values(slot).ok_or(Error::NoPoint)?, Some(slot))
        }
    };
    let expected = index.settings.dimension as usize;
    if target.len() != expected {
        return Err(Error::Dimension { expected, actual: target.len() });
    }
    let (incarnation, generation, slots) = (collection.incarnation, collection.generation, collection.slots());
    Ok(Opened { index, incarnation, generation, slots, target, except })
}

/// The slots that the filter admits, from the cache where the collection is as it was.
fn kept_or_admitted(
    view: &View<'_>,
    query: &Query,
    opened: &Opened,
    filter: &Filter,
    stop: &Stop,
) -> Result<Arc<Admitted>, Error> {
    let masks = view.store.masks();
    if let Some(kept) = masks.get(filter, opened.incarnation, opened.generation) {
        return Ok(kept);
    }
    let admitted = Arc::new(admitted(view, query, opened, filter, stop)?);
    let now = view.look(|state| current(state, query, opened).map(|collection| collection.generation));
    if now == Some(opened.generation) {
        masks.put(filter, opened.incarnation, opened.generation, &admitted);
    }
    Ok(admitted)
}

/// The slots whose metadata the filter matches, looked at block by block so that writes get in between.
fn admitted(view: &View<'_>, query: &Query, opened: &Opened, filter: &Filter, stop: &Stop) -> Result<Admitted, Error> {
    let mut admitted = RoaringBitmap::new();
    for start in (0..opened.slots).step_by(FILTER_BLOCK) {
        stop.check()?;
        view.look(|state| {
            let Some(collection) = current(state, query, opened) else { return };
            for slot in start..(start + FILTER_BLOCK as Slot).min(opened.slots) {
                if collection
                    .slot(slot)
                    .is_some_and(|(_, record)| record.is_live() && filter.matches_json(record.metadata()))
                {
                    admitted.insert(slot);
                }
            }
        });
    }
    Ok(Admitted::new(admitted))
}

fn current<'a>(state: &'a State, query: &Query, opened: &Opened) -> Option<&'a Collection> {
    state.collection(&query.address).filter(|found| found.incarnation == opened.incarnation)
}

fn compare_ids(state: &State, query: &Query, a: Slot, b: Slot) -> Ordering {
    let Some(collection) = state.collection(&query.address) else { return a.cmp(&b) };
    let id = |slot| collection.slot(slot).map(|(id, _)| id);
    id(a).cmp(&id(b))
}

/// Looks the hits up. What was written since the search began is checked again.
fn gather(state: &State, query: &Query, opened: &Opened, hits: &[Hit]) -> Option<Answer> {
    let collection = current(state, query, opened)?;
    let unchanged = collection.generation == opened.generation;
    let mut answer = Answer {
        hits: Vec::with_capacity(hits.len()),
        generation: collection.generation,
        incarnation: collection.incarnation,
        is_settled: unchanged,
    };
    for hit in hits {
        if opened.index.row(hit.slot) != Some(hit.row) {
            return None;
        }
        let (id, record) = collection.slot(hit.slot)?;
        if !unchanged && query.filter.as_ref().is_some_and(|filter| !filter.matches_json(record.metadata())) {
            return None;
        }
        answer.hits.push(Found {
            id: id.to_owned(),
            score: score::score(opened.index.settings.metric, hit.rank),
            metadata: if query.include.metadata { record.metadata_bytes() } else { Bytes::new() },
            values: if query.include.values { opened.index.values(hit.slot)? } else { Vec::new() },
        });
    }
    Some(answer)
}

/// Attempts beside writes before they are held off.
const UNDISTURBED: usize = 3;
/// Records looked at under one lock.
const FILTER_BLOCK: usize = 256;
