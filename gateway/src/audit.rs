//! The audit log: who administered what, when, from where, and with what outcome.
//!
//! An act is a line of JSON in a file, synced to disk before its answer leaves. Each line holds the hash of the line
//! before it, so that a line that was changed, removed or put in shows ([`chain`]). The files have a bound; the oldest
//! goes. Every act stands in the process's log too: whoever ships that elsewhere can prove that the files are whole.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

pub mod chain;
mod files;
mod reader;
mod writer;

pub use reader::Page;

/// Acts that wait to be written; whoever does one more waits.
const QUEUED: usize = 1_024;

/// `[audit]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the files are; without it acts are logged only.
    pub directory: Option<PathBuf>,
    /// A file past this size is followed by a new one.
    pub file_bytes: u64,
    /// Files that are kept, the one being written included.
    pub max_files: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { directory: None, file_bytes: 16 << 20, max_files: 64 }
    }
}

/// What was done.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Act {
    /// Who did it: the token's subject, or the API key's.
    pub subject: String,
    /// The tenant that they are confined to.
    pub tenant: Option<String>,
    /// The API key's id, where there was one.
    pub key: Option<String>,
    /// The client's address.
    pub from: Option<String>,
    pub request_id: Option<String>,
    /// `keys.create`, `collections.delete`, …
    pub action: &'static str,
    /// What it was done to.
    pub target: String,
    /// The HTTP status that it was answered with.
    pub status: u16,
    /// The gRPC status, where that is what counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<i32>,
}

/// On an answer: what was acted on, where the path does not say it.
#[derive(Clone, Debug)]
pub(crate) struct Target(pub(crate) String);

/// The log's handle. Clones write to the same log.
#[derive(Clone)]
pub struct Audit(Arc<Inner>);

struct Inner {
    directory: Option<PathBuf>,
    queue: Option<mpsc::Sender<Queued>>,
    failures: Counter,
}

/// An act on its way to disk.
struct Queued {
    act: Act,
    at: SystemTime,
    /// Takes the hash of its line.
    done: oneshot::Sender<std::io::Result<String>>,
}

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("the audit log in {}", directory.display())]
pub struct Error {
    directory: PathBuf,
    source: std::io::Error,
}

impl Audit {
    /// Opens the log, cutting off a line that a crash left half written, and starts its thread.
    ///
    /// # Errors
    /// A directory that cannot be written.
    pub fn open(config: &Config, registry: &mut Registry) -> Result<Self, Error> {
        let failures = Counter::default();
        let registry = registry.sub_registry_with_prefix("gateway");
        registry.register("audit_failures", "administrative acts that could not be written down", failures.clone());
        let Some(directory) = &config.directory else {
            return Ok(Self(Arc::new(Inner { directory: None, queue: None, failures })));
        };
        let failed = |source| Error { directory: directory.clone(), source };
        let writer = writer::Writer::open(directory, config.file_bytes, config.max_files).map_err(failed)?;
        let (queue, queued) = mpsc::channel(QUEUED);
        let thread = std::thread::Builder::new().name("audit".to_owned());
        thread.spawn(move || writer.run(queued)).map_err(failed)?;
        Ok(Self(Arc::new(Inner { directory: Some(directory.clone()), queue: Some(queue), failures })))
    }

    /// Writes `act` down; durable when this returns. It is logged too, with its line's hash. A failure to write is logged
    /// and counted, and no more: what was done is done.
    pub async fn record(&self, act: Act) {
        let written = match &self.0.queue {
            Some(queue) => write(queue, act.clone()).await.map(Some),
            None => Ok(None),
        };
        tracing::info!(
            target: "audit",
            parent: None,
            subject = act.subject,
            tenant = act.tenant,
            key = act.key,
            from = act.from,
            request_id = act.request_id,
            action = act.action,
            acted_on = act.target,
            status = act.status,
            grpc_status = act.grpc_status,
            hash = written.as_ref().ok().and_then(Option::as_deref),
            "administered"
        );
        if let Err(error) = written {
            self.0.failures.inc();
            tracing::error!(error = &error as &dyn std::error::Error, "an administrative act was not written down");
        }
    }

    /// A page of the log, the newest act first: those before the number `before`, of `tenant` alone when it is given.
    /// None without a log.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub async fn page(
        &self,
        tenant: Option<String>,
        before: Option<u64>,
        limit: usize,
    ) -> std::io::Result<Option<Page>> {
        let Some(directory) = self.0.directory.clone() else { return Ok(None) };
        let read = move || reader::page(&directory, tenant.as_deref(), before, limit);
        tokio::task::spawn_blocking(read).await.map_err(std::io::Error::other)?.map(Some)
    }
}

/// Gives the hash of the act's line once that is on disk.
async fn write(queue: &mpsc::Sender<Queued>, act: Act) -> std::io::Result<String> {
    let (done, written) = oneshot::channel();
    let gone = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
    queue.send(Queued { act, at: SystemTime::now(), done }).await.map_err(|_| gone())?;
    written.await.unwrap_or_else(|_| Err(gone()))
}

#[cfg(test)]
mod tests;
