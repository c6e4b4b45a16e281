//! The gRPC surface: decode, ask the engine, encode. No rule about what is stored or found lives here.

pub mod backpressure;
pub mod backups;

mod answers;
mod blocks;
mod caller;
mod collections;
mod explanation;
pub mod load_report;
pub mod observe;
mod records;
mod request;
mod residency;
mod status;
mod stream;
mod vector_search;
mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nearfield_telemetry::drain::Drain;
use tonic::Status;

use crate::cache::Results;
use crate::commit::{Committer, Pace};
use crate::engine::Address;
use crate::engine::settings::Settings;
use crate::engine::vector_clock::VectorClock;
use crate::search;
use crate::search::pool::Pool;
use crate::store::Store;
use backpressure::Backpressure;

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
    pub backpressure: Arc<Backpressure>,
    pub pace: Arc<Pace>,
    pub drain: Drain,
    /// Calls that came and whose answers have not begun.
    pub under_way: Arc<AtomicUsize>,
    /// Areas whose data may be here; none: those that a gateway says.
    pub residency: Vec<String>,
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

    /// What a caller is told of a search that failed, or of points that cannot be read. `point` is the id that a search was
    /// to start from.
    fn failed(&self, error: search::Error, collection: &str, point: &str) -> Status {
        if matches!(error, search::Error::Damaged { .. }) {
            self.0.store.damages.fetch_add(1, Ordering::Relaxed);
        }
        status::search(error, collection, point)
    }

    fn settings(&self, address: &Address) -> Option<Settings> {
        self.0.store.with_collection(address, |collection, _| collection.settings.clone())
    }
}
