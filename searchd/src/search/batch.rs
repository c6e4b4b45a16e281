//! Several queries of one collection at once. All look at the state together and start from one generation; a filter that
//! several have is evaluated once; what is compared row by row is compared for all while a row is at hand
//! ([`crate::index::batch`]). A search alone is a batch of one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::explain::{Explanation, FilterUse, Stopwatch};
use super::stop::{Stop, Stopped};
use super::{Error, Opened, Query, View, admission, compare_ids, damage, open};
use crate::engine::State;
use crate::index::Wanted;
use crate::index::admitted::Admitted;
use crate::index::batch::Lost;
use crate::index::nearest::Hit;
use crate::processor;
use crate::store::Store;

/// Makes hits what is answered; `None` when what was written meanwhile forbids it.
pub(super) type Finish<'f, T> = &'f dyn Fn(&State, &Query, &Opened, Vec<Hit>) -> Result<Option<T>, Error>;

/// Attempts beside writes before they are held off.
const UNDISTURBED: usize = 3;

/// One of the queries.
struct Run<'q, T> {
    query: &'q Query,
    explanation: Explanation,
    outcome: Option<Result<T, Error>>,
}

/// An attempt of one of the queries.
struct Attempt<'r, 'q, T> {
    run: &'r mut Run<'q, T>,
    opened: Opened,
    filtered: Option<(Arc<Admitted>, FilterUse)>,
}

/// All queries are of one collection.
pub(super) fn run<T>(
    store: &Store,
    queries: &[&Query],
    stop: &Stop,
    finish: Finish<'_, T>,
) -> Vec<(Result<T, Error>, Explanation)> {
    let begun = queries.iter().map(|query| Run { query, explanation: Explanation::default(), outcome: None });
    let mut runs: Vec<Run<'_, T>> = begun.collect();
    for _ in 0..UNDISTURBED {
        let mut going: Vec<_> = runs.iter_mut().filter(|run| run.outcome.is_none()).collect();
        if going.is_empty() {
            break;
        }
        attempt(&View { store, held: None }, &mut going, stop, finish);
    }
    for run in runs.iter_mut().filter(|run| run.outcome.is_none()) {
        // Writes keep replacing what is found. Hold them off for once.
        let held = store.read();
        attempt(&View { store, held: Some(&held) }, &mut [run], stop, finish);
    }
    runs.into_iter().map(|run| (run.outcome.unwrap_or(Err(Error::NoCollection)), run.explanation)).collect()
}

/// Leaves those without an outcome of whose hits one was replaced or deleted meanwhile.
fn attempt<T>(view: &View<'_>, runs: &mut [&mut Run<'_, T>], stop: &Stop, finish: Finish<'_, T>) {
    if let Err(stopped) = try_attempt(view, runs, stop, finish) {
        for run in runs.iter_mut().filter(|run| run.outcome.is_none()) {
            run.outcome = Some(Err(stopped.into()));
        }
    }
}

fn try_attempt<T>(
    view: &View<'_>,
    runs: &mut [&mut Run<'_, T>],
    stop: &Stop,
    finish: Finish<'_, T>,
) -> Result<(), Stopped> {
    let mut stopwatch = Stopwatch::start();
    stop.check()?;
    let mut attempts = open_all(view, runs);
    lap(&mut stopwatch, "open", &mut attempts);
    admit_all(view, &mut attempts, stop);
    attempts.retain(|attempt| attempt.run.outcome.is_none());
    lap(&mut stopwatch, "filter", &mut attempts);
    let Some(first) = attempts.first() else { return Ok(()) };
    let (index, query) = (first.opened.index.clone(), first.run.query);
    let by_id = |a, b| view.look(|state| compare_ids(state, query, a, b));
    let found = {
        let scorers: Vec<_> = attempts.iter().map(|attempt| index.scorer(&attempt.opened.target)).collect();
        let wanted = attempts.iter().zip(&scorers).map(|(attempt, scorer)| Wanted {
            scorer,
            k: attempt.run.query.k,
            effort: attempt.run.query.effort.unwrap_or(index.settings.effort),
            exact: attempt.run.query.exact,
            admitted: attempt.filtered.as_ref().map(|(admitted, _)| &**admitted),
            except: attempt.opened.except,
        });
        let before = processor::faults_of_thread();
        let found = index.search_all(&wanted.collect::<Vec<_>>(), &by_id, stop)?;
        index.searched(processor::faults_of_thread() - before);
        found
    };
    lap(&mut stopwatch, "search", &mut attempts);
    for (Attempt { run, opened, filtered }, found) in attempts.into_iter().zip(found) {
        let finished = match found {
            Ok((hits, trail)) => {
                run.explanation.trail = trail;
                view.look(|state| finish(state, run.query, &opened, hits))
            }
            Err(Lost::Overtaken) => Ok(None),
            Err(Lost::Damaged(damaged)) => Err(view.look(|state| match state.collection(&run.query.address) {
                Some(collection) => damage(collection, damaged),
                None => Error::NoCollection,
            })),
        };
        run.outcome = finished.transpose();
        run.explanation.add("gather", stopwatch.lap());
        (run.explanation.points, run.explanation.filter) = (opened.points, filtered.map(|(_, used)| used));
        run.explanation.attempts += 1;
    }
    Ok(())
}

/// One look for all, so that all start from the same generation.
fn open_all<'r, 'q, T>(view: &View<'_>, runs: &'r mut [&mut Run<'q, T>]) -> Vec<Attempt<'r, 'q, T>> {
    view.look(|state| {
        let opened = runs.iter_mut().filter_map(|run| match open(view.store, state, run.query) {
            Ok(opened) => Some(Attempt { run, opened, filtered: None }),
            Err(error) => {
                run.outcome = Some(Err(error));
                None
            }
        });
        opened.collect()
    })
}

/// Finds out what the filters admit, of those that are the same once.
fn admit_all<T>(view: &View<'_>, attempts: &mut [Attempt<'_, '_, T>], stop: &Stop) {
    let mut known: HashMap<String, (Arc<Admitted>, FilterUse)> = HashMap::new();
    let are_several = attempts.len() > 1;
    for attempt in attempts {
        let Some(filter) = &attempt.run.query.filter else { continue };
        let name = are_several.then(|| filter.canonical());
        if let Some((admitted, used)) = name.as_ref().and_then(|name| known.get(name)) {
            let used = FilterUse { kept: true, read: 0, ..used.clone() };
            attempt.filtered = Some((admitted.clone(), used));
            continue;
        }
        match admission::admitted(view, attempt.run.query, &attempt.opened, filter, stop) {
            Ok(filtered) => {
                known.extend(name.map(|name| (name, filtered.clone())));
                attempt.filtered = Some(filtered);
            }
            Err(error) => attempt.run.outcome = Some(Err(error)),
        }
    }
}

/// What is done together is each one's in equal parts.
fn lap<T>(stopwatch: &mut Stopwatch, phase: &'static str, attempts: &mut [Attempt<'_, '_, T>]) {
    let took: Duration = stopwatch.lap() / attempts.len().max(1) as u32;
    for attempt in attempts {
        attempt.run.explanation.add(phase, took);
    }
}
