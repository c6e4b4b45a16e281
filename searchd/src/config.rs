//! The settings of `searchd.toml`. Every key has a default that serves one machine.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use nearfield_telemetry::{logging, otlp};
use serde::Deserialize;

use crate::index::headroom::Bounds;

const MIB: u64 = 1024 * 1024;

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub server: Server,
    pub storage: Storage,
    pub archive: Archive,
    pub engine: Engine,
    pub cache: Cache,
    pub replication: Replication,
    pub log: logging::Config,
    pub otlp: otlp::Config,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// gRPC; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Health and metrics; port 0 picks a free one.
    pub admin: SocketAddr,
    /// This region's name: part of every stamp.
    pub region: String,
    /// Areas whose data this searchd may hold; `*` stands for all, none for those that the gateway says.
    pub residency: Vec<String>,
    /// This instance's name in logs and traces; empty for the number that the data directory keeps.
    pub instance: String,
    /// How long a shutdown waits for what was admitted.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: ([127, 0, 0, 1], 50051).into(),
            admin: ([127, 0, 0, 1], 9091).into(),
            region: "local".to_owned(),
            residency: Vec::new(),
            instance: String::new(),
            drain: Duration::from_secs(30),
        }
    }
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Storage {
    /// Everything that is stored is in here; one searchd at a time uses it.
    pub data_dir: PathBuf,
    /// A log file that reached this size is followed by a new one.
    pub log_file_bytes: u64,
    /// After so much log a checkpoint is written; a restart replays at most about that. One is also written once segments of a
    /// collection that nobody writes to are new.
    pub checkpoint_bytes: u64,
    /// Writes are refused, and only deletes taken, while less than that is free on the disk: checkpoints need room
    /// before they give any back. 0 for none.
    pub reserve_bytes: u64,
    /// An object storage, as `archive.url` names one: an empty data directory is restored from it before the start.
    pub restore_from: String,
    /// Most bytes a second that such a start fetches in the background while it serves; what searches wait for is not counted.
    /// 0 for no bound.
    pub restore_bytes_per_second: u64,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            data_dir: "nearfield-data/searchd".into(),
            log_file_bytes: MIB * 64,
            checkpoint_bytes: MIB * 64,
            reserve_bytes: MIB * 256,
            restore_from: String::new(),
            restore_bytes_per_second: 0,
        }
    }
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Archive {
    /// Where backups and the log go: `s3://bucket/prefix`, `gs://bucket/prefix` or an absolute path; empty for nowhere.
    pub url: String,
    /// At most so long after it was acknowledged, a write is in the archive, while that can be reached.
    #[serde(with = "humantime_serde")]
    pub rpo: Duration,
    /// Between two backups; 0 for only those that are asked for.
    #[serde(with = "humantime_serde")]
    pub backup_every: Duration,
    /// So many backups are kept however old they are.
    pub keep: usize,
    /// Backups younger than that are kept however many they are, and with them every moment in between.
    #[serde(with = "humantime_serde")]
    pub keep_for: Duration,
    /// Chunks of 8 MiB that are sent or fetched at the same time.
    pub concurrency: usize,
    /// Most log that waits on the disk for an archive that does not answer. What is let go then is in the next backup.
    pub max_behind_bytes: u64,
}

impl Default for Archive {
    fn default() -> Self {
        Self {
            url: String::new(),
            rpo: Duration::from_secs(60),
            backup_every: Duration::from_secs(6 * 60 * 60),
            keep: 4,
            keep_for: Duration::from_secs(7 * 24 * 60 * 60),
            concurrency: 8,
            max_behind_bytes: MIB * 4_096,
        }
    }
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Engine {
    /// Threads that search; 0 for one a core.
    pub search_threads: usize,
    /// Searches that may wait; one more is refused.
    pub search_queue: usize,
    /// Rows that a collection gathers before they are sealed into a graph, rounded down to whole chunks of 1,024. Up to this many,
    /// comparing each is about as fast.
    pub seal_rows: usize,
    /// Bytes of vectors, four for each number, that may wait in a collection to be sealed; past it writes wait before they are
    /// accepted. 0 for no bound.
    pub waiting_bytes: u64,
    /// The same for writes of more than 64 points while searches are asked, each of which goes through what waits. 0 for no bound.
    pub searched_bytes: u64,
    /// The part of all processors' time that storing may take while searches are asked; past it writes wait. 1 for any part.
    pub storing_share: f64,
    /// Threads that build graphs, all together, at a lower priority than searches; 0 for one a core.
    pub build_threads: usize,
    /// Time without a write after which a collection is at rest: what waits is sealed, and its segments become one.
    #[serde(with = "humantime_serde")]
    pub rest_after: Duration,
    /// How often the recall of collections is looked at, for the metric.
    #[serde(with = "humantime_serde")]
    pub recall_interval: Duration,
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            search_threads: 0,
            search_queue: 1_024,
            seal_rows: 16 * 1_024,
            waiting_bytes: MIB * 256,
            searched_bytes: MIB * 32,
            storing_share: 0.125,
            build_threads: 0,
            rest_after: Duration::from_secs(2),
            recall_interval: Duration::from_secs(30),
        }
    }
}

impl Engine {
    /// Threads that search.
    pub fn threads(&self) -> usize {
        or_cores(self.search_threads)
    }

    /// What may wait to be sealed in a collection.
    pub fn bounds(&self) -> Bounds {
        Bounds { always: self.waiting_bytes, searched: self.searched_bytes }
    }

    /// Threads that build graphs.
    pub fn builders(&self) -> usize {
        or_cores(self.build_threads)
    }
}

fn or_cores(threads: usize) -> usize {
    if threads == 0 { std::thread::available_parallelism().map_or(1, usize::from) } else { threads }
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Cache {
    /// Bytes of search results that are kept; 0 for none.
    pub result_bytes: u64,
    /// Bytes of vectors by id that are kept; 0 for none.
    pub vector_bytes: u64,
    /// Bytes of what filters admit that are kept; 0 for none.
    pub filter_bytes: u64,
}

impl Default for Cache {
    fn default() -> Self {
        Self { result_bytes: MIB * 256, vector_bytes: MIB * 64, filter_bytes: MIB * 64 }
    }
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Replication {
    /// The other searchds of this region, `http://host:port` each.
    pub peers: Vec<String>,
    /// With peers: bytes of log that are kept for one that comes back, although a checkpoint has them. One that was
    /// away for longer gets the whole state.
    pub kept_log_bytes: u64,
}

impl Default for Replication {
    fn default() -> Self {
        Self { peers: Vec::new(), kept_log_bytes: MIB * 256 }
    }
}

/// A setting that cannot work.
#[derive(Debug, thiserror::Error)]
#[error("`{key}` {description}")]
pub struct Invalid {
    key: &'static str,
    description: &'static str,
}

impl Config {
    /// What the types alone do not rule out.
    pub fn check(&self) -> Result<(), Invalid> {
        let invalid = |key, description| Err(Invalid { key, description });
        if self.server.region.is_empty() || self.server.region.len() > 64 {
            return invalid("server.region", "must have 1 to 64 bytes");
        }
        if self.storage.data_dir.as_os_str().is_empty() {
            return invalid("storage.data_dir", "must name a directory");
        }
        if self.archive.rpo.is_zero() {
            return invalid("archive.rpo", "must be longer than nothing");
        }
        if !(1..=64).contains(&self.archive.concurrency) {
            return invalid("archive.concurrency", "must be between 1 and 64");
        }
        if self.engine.recall_interval.is_zero() {
            return invalid("engine.recall_interval", "must be longer than nothing");
        }
        if self.engine.search_queue == 0 {
            return invalid("engine.search_queue", "must be at least 1");
        }
        if !(self.engine.storing_share > 0.0 && self.engine.storing_share <= 1.0) {
            return invalid("engine.storing_share", "must be above 0 and at most 1");
        }
        if let Some(_peer) = self.replication.peers.iter().find(|peer| !peer.starts_with("http://")) {
            return invalid("replication.peers", "must be addresses such as http://10.0.0.2:50051");
        }
        Ok(())
    }
}
