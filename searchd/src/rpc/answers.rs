//! From searches to their answers: those that are kept, and those that the pool finds.
//!
//! The searches of a batch run in groups, a group on one thread: what its members share is done once
//! ([`crate::search::batch`]). As many groups as there are threads are under way at once, and each is small, so that a
//! batch uses all cores and others get in between.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::StreamExt;
use nearfield_proto::v1;
use tonic::Status;

use super::caller::Caller;
use super::{Service, request, status};
use crate::cache::Fingerprint;
use crate::engine::Address;
use crate::index::Wanted;
use crate::search::stop::Stop;
use crate::search::{self, Answer, Query, Target};

/// Most searches of one group: whoever comes meanwhile waits for so many at the most, on each thread.
const GROUP_SEARCHES: usize = 8;

/// What is run on the reactor takes no longer than this by the planner's account, which is rather too high, and gives at most so many
/// hits, which have to be looked up besides.
const LONGEST_HERE: Duration = Duration::from_micros(500);
const MOST_HITS_HERE: usize = 100;

/// A search that is not answered yet.
pub(super) struct Asked {
    pub(super) query: Query,
    /// Under which its answer is kept.
    fingerprint: Option<Fingerprint>,
    incarnation: u64,
    /// It is run to be explained, though its answer is kept.
    is_kept: bool,
}

/// Where a search is run.
#[derive(Clone, Copy)]
enum Place {
    Pool,
    /// On the reactor that it came to: see [`crate::search::pool`].
    Here,
}

pub(super) enum LookedUp {
    Answer(Arc<Answer>),
    Asked(Asked),
}

type Outcome = Result<Arc<Answer>, Status>;

impl Service {
    pub(super) async fn search_once(&self, message: v1::SearchRequest, caller: &Caller) -> Outcome {
        let query = self.checked(message, caller).await?;
        match self.look_up(query)? {
            LookedUp::Answer(answer) => Ok(answer),
            LookedUp::Asked(asked) if self.is_alone() && self.is_short(&asked.query) => {
                self.run_at(Place::Here, asked, caller).await
            }
            LookedUp::Asked(asked) => self.run_one(asked, caller).await,
        }
    }

    pub(super) async fn run_one(&self, asked: Asked, caller: &Caller) -> Outcome {
        self.run_at(Place::Pool, asked, caller).await
    }

    async fn run_at(&self, place: Place, asked: Asked, caller: &Caller) -> Outcome {
        let outcome = self.run_group(place, vec![asked], caller).await.pop();
        outcome.unwrap_or_else(|| Err(Status::internal("the search failed")))
    }

    /// Whether there is nothing else to do: no other call, no other search.
    fn is_alone(&self) -> bool {
        self.0.under_way.load(Ordering::Relaxed) <= 1 && self.0.pool.is_idle()
    }

    /// Whether a search takes no longer than other things that are done on the reactor, as far as anybody can tell, and waits
    /// for nothing.
    fn is_short(&self, query: &Query) -> bool {
        let Target::Values(values) = &query.target else { return false };
        let Query { k, exact, .. } = *query;
        if exact || k > MOST_HITS_HERE || query.filter.is_some() {
            return false;
        }
        let index = self.0.store.with_collection(&query.address, |_, index| index.clone());
        index.filter(|index| index.is_warm()).is_some_and(|index| {
            let (scorer, effort) = (index.scorer(values), query.effort.unwrap_or(index.settings.effort));
            index.cost(&Wanted { scorer: &scorer, k, effort, exact, admitted: None, except: None }) <= LONGEST_HERE
        })
    }

    /// Answers each search by itself, in their order.
    pub(super) async fn search_batch(&self, searches: Vec<v1::SearchRequest>, caller: &Caller) -> Vec<Outcome> {
        let checked = searches.into_iter().map(|message| self.checked(message, caller));
        let checked = futures::future::join_all(checked).await;
        let mut outcomes: Vec<Option<Outcome>> = Vec::with_capacity(checked.len());
        let mut waiting: BTreeMap<Address, Vec<(usize, Asked)>> = BTreeMap::new();
        for (place, query) in checked.into_iter().enumerate() {
            outcomes.push(match query.and_then(|query| self.look_up(query)) {
                Ok(LookedUp::Answer(answer)) => Some(Ok(answer)),
                Ok(LookedUp::Asked(asked)) => {
                    waiting.entry(asked.query.address.clone()).or_default().push((place, asked));
                    None
                }
                Err(status) => Some(Err(status)),
            });
        }
        let groups = waiting.into_values().flat_map(|asked| groups(asked, self.0.pool.threads()));
        let running = groups.map(async |group| {
            let (places, asked): (Vec<usize>, Vec<Asked>) = group.into_iter().unzip();
            places.into_iter().zip(self.run_group(Place::Pool, asked, caller).await).collect::<Vec<_>>()
        });
        let mut answered = futures::stream::iter(running).buffer_unordered(self.0.pool.threads());
        while let Some(group) = answered.next().await {
            group.into_iter().for_each(|(place, outcome)| outcomes[place] = Some(outcome));
        }
        let outcomes =
            outcomes.into_iter().map(|done| done.unwrap_or_else(|| Err(Status::internal("the search failed"))));
        outcomes.collect()
    }

    /// Waits for the search's session, and checks the search.
    pub(super) async fn checked(&self, message: v1::SearchRequest, caller: &Caller) -> Result<Query, Status> {
        self.await_session(&message.session).await?;
        let query = request::query(&caller.tenant, message, |address| self.settings(address))?;
        self.confine(caller, &query.address)?;
        Ok(query)
    }

    pub(super) fn look_up(&self, query: Query) -> Result<LookedUp, Status> {
        let now = self.0.store.with_collection(&query.address, |found, _| (found.incarnation, found.generation));
        let (incarnation, generation) = now.ok_or_else(|| status::no_collection(&query.address.name))?;
        let results = &self.0.results;
        let fingerprint = results.fingerprint(&query);
        // A search that is to be explained is run, whether its answer is kept or not.
        let is_kept = query.explain && fingerprint.is_some_and(|query| results.has(query, incarnation, generation));
        let kept = fingerprint.filter(|_| !query.explain).and_then(|query| results.get(query, incarnation, generation));
        Ok(match kept {
            Some(answer) => LookedUp::Answer(answer),
            None => LookedUp::Asked(Asked { query, fingerprint, incarnation, is_kept }),
        })
    }

    /// Runs searches of one collection on one thread; answers in their order.
    async fn run_group(&self, place: Place, group: Vec<Asked>, caller: &Caller) -> Vec<Outcome> {
        let (asked_at, searches) = (Instant::now(), group.len());
        let (store, group) = (self.0.store.clone(), Arc::new(group));
        let asked = group.clone();
        let (k, filtered, exact) = (
            asked.iter().map(|asked| asked.query.k).max(),
            asked.iter().any(|asked| asked.query.filter.is_some()),
            asked.iter().any(|asked| asked.query.exact),
        );
        let span = tracing::info_span!("search", otel.name = "HNSW search", k, filtered, exact, searches);
        let search = move |stop: &Stop| {
            let waited = asked_at.elapsed();
            let queries: Vec<&Query> = asked.iter().map(|asked| &asked.query).collect();
            (span.in_scope(|| search::run_all(&store, &queries, stop)), waited)
        };
        let searched = match place {
            Place::Pool => self.0.pool.run(caller.deadline, search).await,
            Place::Here => self.0.pool.run_here(caller.deadline, search),
        };
        let (answers, waited) = match searched {
            Ok(done) => done,
            Err(error) => return group.iter().map(|_| Err(status::pool(error))).collect(),
        };
        let outcomes = group.iter().zip(answers).map(|(asked, answer)| {
            let Asked { query, fingerprint, incarnation, is_kept } = asked;
            let mut answer = answer.map_err(|error| self.failed(error, &query.address.name, point(query)))?;
            if let Some(explanation) = &mut answer.explanation {
                explanation.is_kept = *is_kept;
                explanation.phases.insert(0, ("wait", waited));
            }
            let answer = Arc::new(answer);
            if let Some(fingerprint) = fingerprint.filter(|_| answer.incarnation == *incarnation) {
                self.0.results.put(fingerprint, *incarnation, &answer);
            }
            Ok(answer)
        });
        outcomes.collect()
    }
}

/// The id that a search starts from, empty for none.
pub(super) fn point(query: &Query) -> &str {
    match &query.target {
        Target::Point(id) => id,
        Target::Values(_) => "",
    }
}

/// Splits the searches of one collection into groups, so that those with most to share come together: exact ones, and
/// those of one filter.
fn groups(mut asked: Vec<(usize, Asked)>, threads: usize) -> Vec<Vec<(usize, Asked)>> {
    asked.sort_by_cached_key(|(_, asked)| {
        (!asked.query.exact, asked.query.filter.as_ref().map(|filter| filter.canonical()))
    });
    let size = asked.len().div_ceil(threads.max(1)).clamp(1, GROUP_SEARCHES);
    let mut groups = Vec::with_capacity(asked.len().div_ceil(size));
    while !asked.is_empty() {
        let rest = asked.split_off(size.min(asked.len()));
        groups.push(std::mem::replace(&mut asked, rest));
    }
    groups
}
