//! One search, from a checked query to hits with their metadata. Runs on the search pool; blocks.

pub mod admission;
pub mod batch;
pub mod explain;
pub mod hits;
pub mod load;
pub mod pool;
pub mod stop;

#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::sync::Arc;

use bytes::Bytes;

use crate::engine::record::Record;
use crate::engine::settings::Effort;
use crate::engine::{Address, Collection, Slot, State};
use crate::filter::Filter;
use crate::index::damage::Damaged;
use crate::index::nearest::Hit;
use crate::index::{Index, score};
use crate::store::Store;
use explain::Explanation;
use stop::{Stop, Stopped};

/// What is near?
#[derive(Clone, Debug)]
pub struct Query {
    pub address: Address,
    pub target: Target,
    pub k: usize,
    /// Absent for the collection's own.
    pub effort: Option<Effort>,
    pub exact: bool,
    pub filter: Option<Arc<Filter>>,
    pub include: Include,
    /// The answer says how it was found. Not part of what is looked for: see [`crate::cache::Results`].
    pub explain: bool,
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
    /// When asked for.
    pub explanation: Option<Box<Explanation>>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no such collection")]
    NoCollection,
    #[error("no such point")]
    NoPoint,
    #[error(transparent)]
    Stopped(#[from] Stopped),
    #[error("the vector of the point {id:?}, in segment {segment}, is damaged")]
    Damaged { segment: u32, id: String },
    #[error("the query has {actual} numbers, the collection has {expected}")]
    Dimension { expected: usize, actual: usize },
}

/// Finds min(k, matches) hits.
///
/// # Errors
/// See [`Error`].
pub fn run(store: &Store, query: &Query, stop: &Stop) -> Result<Answer, Error> {
    run_all(store, &[query], stop).pop().expect("one answer for one query")
}

/// Finds min(k, matches) hits for each of several queries of one collection, in their order. What they share is done
/// once: looks at the state, filters that are the same, rows that are compared.
pub fn run_all(store: &Store, queries: &[&Query], stop: &Stop) -> Vec<Result<Answer, Error>> {
    if let Err(stopped) = bring_targets(store, queries, stop) {
        return queries.iter().map(|_| Err(stopped.into())).collect();
    }
    let done = batch::run(store, queries, stop, &gather);
    let answers = done.into_iter().zip(queries).map(|((answer, explanation), query)| {
        Ok(Answer { explanation: query.explain.then(|| Box::new(explanation)), ..answer? })
    });
    answers.collect()
}

/// Vectors of stored points from which searches start: to be there before they are asked for under a lock.
fn bring_targets(store: &Store, queries: &[&Query], stop: &Stop) -> Result<(), Stopped> {
    let ids = queries.iter().filter_map(|query| match &query.target {
        Target::Values(_) => None,
        Target::Point(id) => Some(id),
    });
    let slots = |collection: &Collection| ids.filter_map(|id| Some(collection.get(id)?.0)).collect();
    queries.first().map_or(Ok(()), |query| store.bring(&query.address, slots, stop))
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
    /// Live ones.
    points: u64,
    target: Vec<f32>,
    except: Option<Slot>,
}

fn open(store: &Store, state: &State, query: &Query) -> Result<Opened, Error> {
    let collection = state.collection(&query.address).ok_or(Error::NoCollection)?;
    let index = store.index(collection.incarnation).ok_or(Error::NoCollection)?;
    let (target, except) = match &query.target {
        Target::Values(values) => (values.clone(), None),
        Target::Point(id) => {
            let (slot, _) = collection.get(id).ok_or(Error::NoPoint)?;
            let values = index.values(slot).map_err(|damaged| damage(collection, damaged))?;
            (values.ok_or(Error::NoPoint)?, Some(slot))
        }
    };
    let expected = index.settings.dimension as usize;
    if target.len() != expected {
        return Err(Error::Dimension { expected, actual: target.len() });
    }
    let (incarnation, generation, points) = (collection.incarnation, collection.generation, collection.count());
    Ok(Opened { index, incarnation, generation, points, target, except })
}

fn current<'a>(state: &'a State, query: &Query, opened: &Opened) -> Option<&'a Collection> {
    state.collection(&query.address).filter(|found| found.incarnation == opened.incarnation)
}

fn compare_ids(state: &State, query: &Query, a: Slot, b: Slot) -> Ordering {
    let Some(collection) = state.collection(&query.address) else { return a.cmp(&b) };
    let id = |slot| collection.slot(slot).map(|(id, _)| id);
    id(a).cmp(&id(b))
}

/// Says whose vector it is.
pub fn damage(collection: &Collection, damaged: Damaged) -> Error {
    let id = collection.slot(damaged.slot).map(|(id, _)| id.to_owned()).unwrap_or_default();
    Error::Damaged { segment: damaged.row.part, id }
}

/// Looks the hits up. `None` when one was replaced or deleted while the search ran, so that another one may be missing.
fn gather(state: &State, query: &Query, opened: &Opened, hits: Vec<Hit>) -> Result<Option<Answer>, Error> {
    let Some(collection) = current(state, query, opened) else { return Ok(None) };
    let unchanged = collection.generation == opened.generation;
    let mut answer = Answer {
        hits: Vec::with_capacity(hits.len()),
        generation: collection.generation,
        incarnation: collection.incarnation,
        is_settled: unchanged,
        explanation: None,
    };
    for hit in hits {
        let stands = |record: &Record| opened.index.row(hit.slot) == Some(hit.row) && still_matches(query, record);
        let Some((id, record)) = collection.slot(hit.slot).filter(|(_, record)| unchanged || stands(record)) else {
            return Ok(None);
        };
        match look_up(collection, &opened.index, query, &hit, (id, record))? {
            Some(found) => answer.hits.push(found),
            None => return Ok(None),
        }
    }
    Ok(Some(answer))
}

fn still_matches(query: &Query, record: &Record) -> bool {
    query.filter.as_ref().is_none_or(|filter| filter.matches_json(record.metadata()))
}

/// A hit with what was asked for; none where its vector is gone.
fn look_up(
    collection: &Collection,
    index: &Index,
    query: &Query,
    hit: &Hit,
    (id, record): (&str, &Record),
) -> Result<Option<Found>, Error> {
    let values = match query.include.values {
        true => index.values(hit.slot).map_err(|damaged| damage(collection, damaged))?,
        false => Some(Vec::new()),
    };
    let Some(values) = values else { return Ok(None) };
    Ok(Some(Found {
        id: id.to_owned(),
        score: score::score(index.settings.metric, hit.rank),
        metadata: if query.include.metadata { record.metadata_bytes() } else { Bytes::new() },
        values,
    }))
}
