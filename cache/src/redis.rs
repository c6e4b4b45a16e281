//! The regional tier: Redis, shared by the gateways of a region, found again after a restart.
//!
//! It is an opportunity, never a dependency. A look-up waits [`Config::patience`] at most; a failure opens a circuit
//! breaker, and until Redis answers a probe again every look-up is a miss that costs nothing. Stores go out behind the
//! request's back, through a bounded queue.

mod breaker;
pub(crate) mod feed;
mod pool;
pub mod quotas;
pub mod trends;

use std::sync::Arc;
use std::time::Duration;

use redis::{Client, Cmd, Pipeline};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::{Entry, Key, Metrics, Store};

use breaker::Breaker;
use pool::{Lease, Pool};

/// An entry that is not asked for this long is gone; each look-up begins the hour anew (GETEX).
pub const SLIDING_TTL: Duration = Duration::from_secs(3600);
/// Larger answers stay in the gateway's memory.
pub const MAX_ENTRY_BYTES: usize = 1 << 20;
/// Connecting, and storing behind the request's back.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Stores waiting to be sent; more are dropped.
const MAX_QUEUED: usize = 1_000;
/// Commands sent together.
const PIPELINE: usize = 10;
/// Fields of a head; answers with more stay in the gateway too.
const MAX_FIELDS: usize = 256;
const PREFIX: &[u8] = b"nearfield:1:";

/// `[cache.redis]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Connections at most; they are opened as they are needed.
    pub pool_size: usize,
    /// Of these, how many are kept when there is nothing to do.
    pub idle: usize,
    /// The longest that a request waits for Redis.
    #[serde(with = "humantime_serde")]
    pub patience: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { pool_size: 50, idle: 20, patience: Duration::from_millis(25) }
    }
}

/// The URL is none that is understood.
#[derive(Debug, thiserror::Error)]
#[error("redis_url is not of the form redis://[user:password@]host[:port][/database]")]
pub struct BadUrl(#[source] redis::RedisError);

/// Dropped, it stops its tasks.
pub struct Redis {
    shared: Arc<Shared>,
    /// What is to be stored, or None for what is to be forgotten.
    puts: mpsc::Sender<(Key, Option<Arc<Entry>>)>,
    _tasks: JoinSet<()>,
}

struct Shared {
    pool: Arc<Pool>,
    breaker: Arc<Breaker>,
    metrics: Arc<Metrics>,
    patience: Duration,
}

impl Redis {
    /// Begins to connect and returns: Redis may come later. Needs a runtime, on which its tasks run.
    ///
    /// # Errors
    /// A URL that is none.
    pub fn start(url: &str, config: &Config, metrics: Arc<Metrics>) -> Result<Self, BadUrl> {
        let client = Client::open(url).map_err(BadUrl)?;
        let breaker = Arc::new(Breaker::default());
        let pool = Pool::new(client, Arc::clone(&breaker), config.pool_size.max(1), config.idle.max(1));
        // The first connection is made before the first request asks for it.
        drop(pool.lease());
        let shared = Arc::new(Shared { pool, breaker, metrics, patience: config.patience });
        let (puts, queue) = mpsc::channel(MAX_QUEUED);
        let mut tasks = JoinSet::new();
        tasks.spawn(write(Arc::clone(&shared), queue));
        Ok(Self { shared, puts, _tasks: tasks })
    }
}

#[async_trait::async_trait]
impl Store for Redis {
    async fn get(&self, key: &Key) -> Option<Arc<Entry>> {
        let mut command = redis::cmd("GETEX");
        command.arg(name(key)).arg("EX").arg(SLIDING_TTL.as_secs());
        let bytes: Vec<u8> = self.shared.ask(command).await??;
        match Entry::decode(key, bytes.into()) {
            Ok(entry) => Some(Arc::new(entry)),
            Err(error) => {
                tracing::debug!(%error, "a value in Redis is passed over");
                None
            }
        }
    }

    async fn put(&self, key: Key, entry: Arc<Entry>) {
        if entry.body.len() <= MAX_ENTRY_BYTES && entry.head.len() <= MAX_FIELDS {
            self.send(key, Some(entry));
        }
    }

    fn remove(&self, key: &Key) {
        self.send(*key, None);
    }
}

impl Redis {
    fn send(&self, key: Key, entry: Option<Arc<Entry>>) {
        if self.puts.try_send((key, entry)).is_err() {
            Metrics::count(&self.shared.metrics.redis_skipped);
        }
    }
}

impl Shared {
    /// None when Redis was not asked, or did not answer in time.
    async fn ask<T: redis::FromRedisValue>(&self, command: Cmd) -> Option<Option<T>> {
        let lease = if self.breaker.admits() { self.pool.lease() } else { None };
        let Some(mut lease) = lease else {
            Metrics::count(&self.metrics.redis_skipped);
            return None;
        };
        let answered = timeout(self.patience, command.query_async::<Option<T>>(&mut lease.connection)).await;
        match answered {
            Ok(Ok(value)) => {
                self.breaker.succeeded();
                if value.is_none() {
                    Metrics::count(&self.metrics.redis_misses);
                }
                Some(value)
            }
            Ok(Err(error)) => {
                self.failed(lease, &error);
                None
            }
            Err(_elapsed) => {
                Metrics::count(&self.metrics.redis_failures);
                self.breaker.was_slow();
                None
            }
        }
    }

    fn failed(&self, lease: Lease, error: &redis::RedisError) {
        Metrics::count(&self.metrics.redis_failures);
        // An error that Redis itself answered (another type, out of memory) is no reason to stop asking.
        if !(error.is_io_error() || error.is_timeout() || error.is_unrecoverable_error()) {
            return tracing::debug!(error = error as &dyn std::error::Error, "Redis refused a command");
        }
        if self.breaker.failed() {
            tracing::warn!(error = error as &dyn std::error::Error, "Redis failed, the cache goes on without it");
        }
        lease.broken();
    }
}

fn name(key: &Key) -> Vec<u8> {
    [PREFIX, key.as_bytes()].concat()
}

/// Sends what is to be stored or forgotten, several at a time.
async fn write(shared: Arc<Shared>, mut queue: mpsc::Receiver<(Key, Option<Arc<Entry>>)>) {
    let mut batch = Vec::with_capacity(PIPELINE);
    while queue.recv_many(&mut batch, PIPELINE).await > 0 {
        let lease = if shared.breaker.admits() { shared.pool.lease() } else { None };
        let Some(mut lease) = lease else {
            shared.metrics.redis_skipped.fetch_add(batch.len() as u64, std::sync::atomic::Ordering::Relaxed);
            batch.clear();
            continue;
        };
        let mut pipeline = Pipeline::with_capacity(batch.len());
        for (key, entry) in batch.drain(..) {
            let ttl = SLIDING_TTL.as_secs();
            match entry {
                Some(entry) => pipeline.cmd("SET").arg(name(&key)).arg(entry.encode(&key)).arg("EX").arg(ttl).ignore(),
                None => pipeline.cmd("DEL").arg(name(&key)).ignore(),
            };
        }
        match timeout(TIMEOUT, pipeline.exec_async(&mut lease.connection)).await {
            Ok(Ok(())) => shared.breaker.succeeded(),
            Ok(Err(error)) => shared.failed(lease, &error),
            Err(_elapsed) => {
                Metrics::count(&shared.metrics.redis_failures);
                shared.breaker.failed();
                lease.broken();
            }
        }
    }
}

#[cfg(test)]
mod tests;
