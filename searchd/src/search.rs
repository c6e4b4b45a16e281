//! One search, from a checked query to hits with their metadata. Runs on the search pool; blocks.

pub mod admission;
pub mod explain;
pub mod load;
pub mod pool;
pub mod stop;

use std::cmp::Ordering;
use std::sync::Arc;

use bytes::Bytes;

use crate::engine::settings::Effort;
use crate::engine::{Address, Collection, Slot, State};
use crate::filter::Filter;
use crate::index::nearest::Hit;
use crate::index::{Index, Wanted, score};
use crate::store::Store;
use explain::{Explanation, Stopwatch};
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
    #[error("the query has {actual} numbers, the collection has {expected}")]
    Dimension { expected: usize, actual: usize },
}

/// Finds min(k, matches) hits.
pub fn run(store: &Store, query: &Query, stop: &Stop) -> Result<Answer, Error> {
    let mut explanation = Explanation::default();
    let mut answer = None;
    for _ in 0..UNDISTURBED {
        answer = attempt(&View { store, held: None }, query, stop, &mut explanation)?;
        if answer.is_some() {
            break;
        }
    }
    if answer.is_none() {
        // Writes keep replacing what is found. Hold them off for once.
        let held = store.read();
        answer = attempt(&View { store, held: Some(&held) }, query, stop, &mut explanation)?;
    }
    let answer = answer.ok_or(Error::NoCollection)?;
    Ok(Answer { explanation: query.explain.then(|| Box::new(explanation)), ..answer })
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

/// `None` when a hit was replaced or deleted while the search ran, so that another one may be missing.
fn attempt(
    view: &View<'_>,
    query: &Query,
    stop: &Stop,
    explanation: &mut Explanation,
) -> Result<Option<Answer>, Error> {
    let mut stopwatch = Stopwatch::start();
    stop.check()?;
    let opened = view.look(|state| open(view.store, state, query))?;
    stopwatch.lap("open", explanation);
    let filter = query.filter.as_ref();
    let admitted = filter.map(|filter| admission::admitted(view, query, &opened, filter, stop)).transpose()?;
    let (admitted, used) = admitted.unzip();
    stopwatch.lap("filter", explanation);
    let scorer = opened.index.scorer(&opened.target);
    let wanted = Wanted {
        scorer: &scorer,
        k: query.k,
        effort: query.effort.unwrap_or(opened.index.settings.effort),
        exact: query.exact,
        admitted: admitted.as_deref(),
        except: opened.except,
    };
    let by_id = |a, b| view.look(|state| compare_ids(state, query, a, b));
    let (hits, trail) = opened.index.search(&wanted, &by_id, stop)?;
    stopwatch.lap("search", explanation);
    let answer = view.look(|state| gather(state, query, &opened, &hits));
    stopwatch.lap("gather", explanation);
    (explanation.points, explanation.filter, explanation.trail) = (opened.points, used, trail);
    explanation.attempts += 1;
    Ok(answer)
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

/// Looks the hits up. What was written since the search began is checked again.
fn gather(state: &State, query: &Query, opened: &Opened, hits: &[Hit]) -> Option<Answer> {
    let collection = current(state, query, opened)?;
    let unchanged = collection.generation == opened.generation;
    let mut answer = Answer {
        hits: Vec::with_capacity(hits.len()),
        generation: collection.generation,
        incarnation: collection.incarnation,
        is_settled: unchanged,
        explanation: None,
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
