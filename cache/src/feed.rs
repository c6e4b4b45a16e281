//! Purges between gateways: a log that each of them appends its purges to and reads the others' from, in one order.
//!
//! A log and not publish/subscribe, so that a gateway that was cut off reads what it missed. A purge that could not be
//! appended stays due until it can. A gateway that cannot be sure to have read everything forgets all that it has rather
//! than give what was purged; one that has heard nothing for a while takes what it has for stale, and asks anew.
//!
//! [`Feed`] is the seam: a Redis stream and a NATS JetStream stream stand behind it, and pass the same tests.

mod due;
mod link;
mod record;

use std::time::Duration;

use serde::Deserialize;

use crate::{nats, redis};

pub(crate) use due::Outbox;
pub use link::Link;

/// How far back a gateway reads when it starts; what was asked for earlier is no answer any more. Longer than any purge
/// is spread.
pub(crate) const BACK: Duration = Duration::from_secs(75 * 60);
/// Records that the log keeps, about.
pub(crate) const KEPT: u32 = 100_000;
/// Records appended or read in one exchange.
pub(crate) const BATCH: usize = 1_000;
/// A reading that finds nothing returns after this, which tells that the feed is well.
pub(crate) const BEAT: Duration = Duration::from_secs(1);
/// How long an exchange with the feed may take, connecting included: over the longest way, and a lost packet or two.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(3);
/// How long a gateway counts as there that has not said so again.
pub(crate) const PRESENCE: Duration = Duration::from_secs(15);

/// `[cache.feed]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `redis://…` or `nats://…`, several servers of NATS with commas between them. Absent: the cache's Redis, if any.
    pub url: Option<String>,
    /// Having heard nothing for this long, a gateway takes answers from before for stale.
    #[serde(with = "humantime_serde")]
    pub max_silence: Duration,
    /// How long a purge's answer waits for the other gateways.
    #[serde(with = "humantime_serde")]
    pub confirm_timeout: Duration,
    pub nats: nats::Config,
}

impl Default for Config {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { url: None, max_silence: seconds(5), confirm_timeout: seconds(5), nats: nats::Config::default() }
    }
}

/// The URL is none that is understood.
#[derive(Debug, thiserror::Error)]
pub enum BadUrl {
    #[error("`cache.feed.url` is none of NATS")]
    Nats(#[source] std::io::Error),
    #[error(transparent)]
    Redis(#[from] redis::BadUrl),
    #[error("`cache.feed.url` begins with neither redis:// nor nats://")]
    Scheme,
}

/// A gateway as others know it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    pub region: String,
    /// Unique in its region.
    pub instance: String,
}

impl Name {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (region, instance) = text.split_once('.')?;
        Some(Self { region: region.to_owned(), instance: instance.to_owned() })
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.region, self.instance)
    }
}

/// Another gateway, and whether it has said that it has applied a purge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub name: Name,
    pub confirmed: bool,
}

/// Why the feed was of no use.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("the feed failed")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the feed is late")]
    Late,
}

impl Failure {
    pub(crate) fn of(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Failed(Box::new(error))
    }
}

/// A log of records that all gateways have together, and a list of who is there.
#[async_trait::async_trait]
pub(crate) trait Feed: Send + Sync {
    /// Appends all records in their order. After an error some may have been appended.
    async fn append(&self, records: &[Vec<u8>]) -> Result<(), Failure>;

    /// Someone who reads, from [`BACK`] ago on.
    fn follow(&self) -> Box<dyn Follower>;

    /// Says that a gateway is there, for [`PRESENCE`].
    async fn attend(&self, name: &str) -> Result<(), Failure>;

    async fn present(&self) -> Result<Vec<String>, Failure>;

    /// Says who has come to a question in the log.
    async fn confirm(&self, question: u64, name: &str) -> Result<(), Failure>;

    /// What is said to `question` from now on.
    async fn confirmations(&self, question: u64) -> Result<Box<dyn Confirmations>, Failure>;
}

/// A place in the log, which outlives connections.
#[async_trait::async_trait]
pub(crate) trait Follower: Send {
    /// Connects, again after a failure; each exchange that this takes has [`TIMEOUT`]. False when records may have been missed since the last reading.
    async fn resume(&mut self) -> Result<bool, Failure>;

    /// What comes next: nothing when nothing came for a [`BEAT`].
    async fn read(&mut self) -> Result<Batch, Failure>;
}

#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) records: Vec<Vec<u8>>,
    /// There was no more when it was read.
    pub(crate) is_last: bool,
}

#[async_trait::async_trait]
pub(crate) trait Confirmations: Send {
    /// Who has confirmed since the last call, after some waiting.
    async fn next(&mut self) -> Result<Vec<String>, Failure>;
}

/// Within [`TIMEOUT`].
pub(crate) async fn in_time<T>(exchange: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::time::timeout(TIMEOUT, exchange).await.unwrap_or(Err(Failure::Late))
}
