//! The gRPC surface: decode, ask the engine, encode. No rule about what is stored or found lives here.

pub mod backups;

mod caller;
mod collections;
mod explanation;
pub mod load_report;
pub mod observe;
mod request;
mod status;
mod stream;
mod vector_search;
mod write;

use std::sync::Arc;
use std::time::{Duration, Instant};

use nearfield_telemetry::drain::Drain;
use tonic::Status;

use crate::cache::Results;
use crate::commit::Committer;
use crate::engine::Address;
use crate::engine::settings::Settings;
use crate::engine::vector_clock::VectorClock;
use crate::search::pool::Pool;
use crate::search::{self, Answer, Query, Target};
use crate::store::Store;
use caller::Caller;

/// Largest message that is taken.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// Largest answer that is given in one message.
pub const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// A read whose session's writes have not come by then is refused, whatever its deadline: they may never come.
const MAX_SESSION_WAIT: Duration = Duration::from_secs(30);

/// What all services share. Clones are the same.
#[derive(Clone)]
pub struct Service(Arc<Parts>);

pub struct Parts {
    pub store: Arc<Store>,
    pub committer: Committer,
    pub pool: Pool,
    pub results: Results,
    pub drain: Drain,
}

impl Service {
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// Waits until the session's writes are here.
    async fn await_session(&self, token: &str) -> Result<(), Status> {
        if token.is_empty() {
            return Ok(());
        }
        let session =
            VectorClock::from_token(token).map_err(|error| status::violation("/session", error.to_string()))?;
        let waiting = self.0.store.applied(&session);
        tokio::time::timeout(MAX_SESSION_WAIT, waiting).await.map_err(|_| status::deadline())
    }

    fn settings(&self, address: &Address) -> Option<Settings> {
        self.0.store.with_collection(address, |collection, _| collection.settings.clone())
    }

    /// Answers a checked search from the cache, or runs it on the pool.
    async fn run(&self, query: Query, caller: &Caller) -> Result<Arc<Answer>, Status> {
        let now = self.0.store.with_collection(&query.address, |found, _| (found.incarnation, found.generation));
        let (incarnation, generation) = now.ok_or_else(|| status::no_collection(&query.address.name))?;
        // A search that is to be explained is run, whether its answer is kept or not.
        let kept = query.explain && self.0.results.has(&query, incarnation, generation);
        if !query.explain
            && let Some(answer) = self.0.results.get(&query, incarnation, generation)
        {
            return Ok(answer);
        }
        let asked_at = Instant::now();
        let (store, query) = (self.0.store.clone(), Arc::new(query));
        let asked = query.clone();
        let span = tracing::info_span!("search", k = query.k, filtered = query.filter.is_some(), exact = query.exact);
        let searching = self.0.pool.run(caller.deadline, move |stop| {
            let waited = asked_at.elapsed();
            span.in_scope(|| search::run(&store, &asked, stop)).map(|answer| (answer, waited))
        });
        let outcome = searching.await;
        let point = match &query.target {
            Target::Point(id) => id,
            Target::Values(_) => "",
        };
        let answer = outcome.map_err(status::pool)?;
        let (mut answer, waited) = answer.map_err(|error| status::search(error, &query.address.name, point))?;
        if let Some(explanation) = &mut answer.explanation {
            explanation.is_kept = kept;
            explanation.phases.insert(0, ("wait", waited));
        }
        let answer = Arc::new(answer);
        if answer.incarnation == incarnation {
            self.0.results.put(&query, incarnation, &answer);
        }
        Ok(answer)
    }
}
