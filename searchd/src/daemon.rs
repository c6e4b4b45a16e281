//! The order in which searchd starts and stops.
//!
//! Start: restore an empty data directory when told from where → lock it → checkpoint → rest of the log → committer →
//! maintenance → archive → search threads → gRPC → ready. Stop: not ready → finish what was admitted → gRPC → committer →
//! archive → last checkpoint. Nothing is answered before everything that was acknowledged is back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use nearfield_telemetry::debug::Views;
use nearfield_telemetry::drain::Drain;
use nearfield_telemetry::readiness::{Readiness, State as Ready};
use nearfield_telemetry::{admin, allowance, otlp, process};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::backup::arriving::{self, Arriving};
use crate::backup::{self, create::Identity, restore};
use crate::cache::{Caches, Results};
use crate::checkpoint::{self, Checkpointer};
use crate::commit::{self, Committer, Kept, Origin, Pace, Progress, Room};
use crate::engine::Malformed;
use crate::engine::stamp::HybridClock;
use crate::index::engines::{Crew, Engines, Work};
use crate::index::head::CHUNK_ROWS;
use crate::maintenance::{self, Maintenance};
use crate::metadata::catch_up;
use crate::metrics::{Calls, Gauges};
use crate::node::{self, Node};
use crate::recall;
use crate::replication::{self, Links};
use crate::rpc::backpressure::Backpressure;
use crate::rpc::{Parts, Service};
use crate::search::pool::Pool;
use crate::serving::{self, Services};
use crate::store::Store;
use crate::wal::{self, Wal};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Admin(#[from] admin::Error),
    #[error(transparent)]
    Backup(#[from] backup::Error),
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    #[error("binding the gRPC port {address}")]
    Bind { address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Log(#[from] wal::Error),
    #[error("record {number} of the log")]
    Malformed { number: u64, source: Malformed },
    #[error(transparent)]
    Node(#[from] node::Error),
    #[error("a restore into {} was not finished: run it again, or empty the directory", .0.display())]
    Restoring(std::path::PathBuf),
    #[error("starting the gRPC server")]
    Serving(#[from] serving::Error),
    #[error("starting a thread")]
    Thread(#[source] std::io::Error),
}

/// A running searchd.
pub struct Searchd {
    grpc: SocketAddr,
    admin: admin::Server,
    readiness: Readiness,
    drain: Drain,
    patience: Duration,
    serving: tokio::task::JoinHandle<()>,
    committing: JoinHandle<()>,
    maintaining: maintenance::Running,
    observing: Observing,
    links: Links,
    archiving: Option<backup::running::Running>,
    filling: Filling,
    _node: Arc<Node>,
}

/// Fetches what a start from object storage has left there.
struct Filling {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Filling {
    fn start(config: &Config, arriving: Arriving) -> Self {
        let (stop, concurrency) = (CancellationToken::new(), config.archive.concurrency);
        let task = tokio::spawn(arriving.fill(concurrency, config.storage.restore_bytes_per_second, stop.clone()));
        Self { stop, task }
    }

    async fn stop(self) {
        self.stop.cancel();
        // A panic was reported by itself.
        let _ = self.task.await;
    }
}

/// The threads that only look: for what filters ask, and at how much searches find.
struct Observing {
    describing: catch_up::Running,
    watching: recall::Watching,
}

impl Observing {
    fn start(store: &Arc<Store>, watch: recall::Watch) -> std::io::Result<Self> {
        Ok(Self { describing: catch_up::start(store.clone())?, watching: watch.start()? })
    }

    /// Blocks.
    fn stop(self) {
        self.describing.stop();
        self.watching.finish();
    }
}

impl Searchd {
    /// Starts on the current tokio runtime. Returns when requests are answered.
    pub async fn start(config: Config) -> Result<Self, Error> {
        let readiness = Readiness::new();
        let mut registry = Registry::default();
        process::register(&mut registry);
        otlp::register(&mut registry);
        if !restore_empty(&config).await? {
            arriving::complete(&config.storage.data_dir, config.archive.concurrency).await?;
        }
        let opened = config.clone();
        let caches = Caches::new(&config.cache);
        let kept = caches.clone();
        let opened = tokio::task::spawn_blocking(move || open(&opened, kept)).await.expect("opening does not panic")?;
        let arriving = opened.arriving.clone();
        let built = Arc::new(Work::default());
        let pool = Pool::start(config.engine.threads(), config.engine.search_queue).map_err(Error::Thread)?;
        let Written { node, store, log, pace, committer, committing, maintaining, archiving } =
            write(&config, opened, built.clone(), pool.clone())?;
        let watch = recall::Watch::new(store.clone(), config.engine.recall_interval, &mut registry);
        let observing = Observing::start(&store, watch).map_err(Error::Thread)?;
        let drain = Drain::new();
        let address = config.server.listen;
        let listener = TcpListener::bind(address).await.map_err(|source| Error::Bind { address, source })?;
        let grpc = listener.local_addr().map_err(|source| Error::Bind { address, source })?;
        let links = Links::start(&config.replication.peers, node.id, &store, &committer, config.engine.waiting_bytes);
        let results = Results::new(config.cache.result_bytes);
        let backpressure = Arc::new(Backpressure::new(config.engine.bounds()));
        let calls = Calls::register(&mut registry);
        registry.register_collector(Box::new(Gauges {
            store: store.clone(),
            committer: committer.downgrade(),
            pool: pool.clone(),
            results: results.clone(),
            backpressure: backpressure.clone(),
            pace: pace.clone(),
            caches,
            links: links.states.clone(),
            archive: archiving.as_ref().map(|archiving| archiving.states.clone()),
            arriving: arriving.clone(),
            built,
        }));
        let replication = replication::Server { store: store.clone(), log, origin: node.id, drain: drain.clone() };
        let residency = config.server.residency.clone();
        let service = {
            let (pool, drain, under_way) = (pool.clone(), drain.clone(), calls.under_way.clone());
            Service::new(Parts { store, committer, pool, results, backpressure, pace, drain, under_way, residency })
        };
        let backups = archiving.as_ref().map(|archiving| archiving.backups.clone());
        let backups = crate::rpc::backups::Server { backups, drain: drain.clone() };
        let services = Services { service, replication, backups, calls, pool };
        let serving = tokio::spawn(serving::serve(listener, services, drain.clone(), readiness.clone())?);
        let admin = admin::Server::start(config.server.admin, registry, readiness.clone(), Views::default()).await?;
        readiness.set(Ready::Ready);
        tracing::info!(%grpc, admin = %admin.addr(), node = node.id, "ready");
        let (patience, filling) = (config.server.drain, Filling::start(&config, arriving));
        Ok(Self {
            grpc,
            admin,
            readiness,
            drain,
            patience,
            serving,
            committing,
            maintaining,
            observing,
            links,
            archiving,
            filling,
            _node: node,
        })
    }

    pub fn grpc_addr(&self) -> SocketAddr {
        self.grpc
    }

    pub fn admin_addr(&self) -> SocketAddr {
        self.admin.addr()
    }

    /// Finishes what was admitted, then stops.
    pub async fn shutdown(mut self) {
        self.readiness.set(Ready::Draining);
        if !self.drain.finish(self.patience).await {
            tracing::warn!("gave up waiting for what was admitted");
        }
        // Idle connections close by themselves; one that does not read is cut.
        if tokio::time::timeout(LAST_CALL, &mut self.serving).await.is_err() {
            self.serving.abort();
            let _ = self.serving.await;
        }
        self.filling.stop().await;
        // The services held the last handles; the committer ends when its queue is empty and closed.
        self.links.stop().await;
        let (committing, maintaining, observing) = (self.committing, self.maintaining, self.observing);
        let _ = tokio::task::spawn_blocking(move || (committing.join(), observing.stop())).await;
        if let Some(archiving) = self.archiving {
            archiving.stop().await;
        }
        let _ = tokio::task::spawn_blocking(move || maintaining.finish()).await;
        self.admin.stop().await;
    }
}

/// Everything that writes, running.
struct Written {
    node: Arc<Node>,
    store: Arc<Store>,
    log: wal::Reader,
    pace: Arc<Pace>,
    committer: Committer,
    committing: JoinHandle<()>,
    maintaining: maintenance::Running,
    archiving: Option<backup::running::Running>,
}

fn write(config: &Config, opened: Opened, built: Arc<Work>, pool: Pool) -> Result<Written, Error> {
    let Opened { node, store, wal, clock, progress, checkpointer, arriving } = opened;
    let (log, region) = (wal.reader(), &config.server.region);
    let room = || Room::new(&node.directory, config.storage.reserve_bytes);
    let pace = Arc::new(Pace::new(config.engine.storing_share, allowance::cpus()));
    let parts = commit::Parts {
        store: store.clone(),
        wal,
        origin: Origin { id: node.id, region: region.clone() },
        now: Box::new(unix_nanoseconds),
        clock,
        progress: progress.clone(),
        room: room(),
        pace: pace.clone(),
    };
    let (committer, committing) = Committer::start(parts).map_err(Error::Thread)?;
    let stop = Arc::new(AtomicBool::new(false));
    let crew = Crew { threads: config.engine.builders(), stop: stop.clone(), work: built };
    let maintenance = Maintenance {
        store: store.clone(),
        progress: progress.clone(),
        log: log.clone(),
        checkpointer,
        builder: Arc::new(builder(config).by(crew)),
        stop,
        directory: node.directory.clone(),
        seal_chunks: config.engine.seal_rows / CHUNK_ROWS,
        bounds: config.engine.bounds(),
        pool,
        rest_after: config.engine.rest_after,
        checkpoint_bytes: config.storage.checkpoint_bytes,
        room: room(),
    };
    let maintaining = maintenance.start().map_err(Error::Thread)?;
    let identity = Identity { node: node.id, region: region.clone() };
    let snapshots = maintaining.snapshots();
    let archiving = backup::running::start(&config.archive, identity, log.clone(), progress, snapshots, arriving)?;
    Ok(Written { node, store, log, pace, committer, committing, maintaining, archiving })
}

/// What is there before anything runs.
struct Opened {
    node: Arc<Node>,
    store: Arc<Store>,
    wal: Wal,
    clock: HybridClock,
    progress: Arc<Progress>,
    checkpointer: Checkpointer,
    arriving: Arriving,
}

fn open(config: &Config, caches: Caches) -> Result<Opened, Error> {
    let started = Instant::now();
    let node = Node::open(&config.storage.data_dir, rand::random::<u64>().max(1))?;
    if restore::is_unfinished(&node.directory) {
        return Err(Error::Restoring(node.directory.clone()));
    }
    checkpoint::remove_leftovers(&node.directory);
    let arriving = Arriving::open(&node.directory, &tokio::runtime::Handle::current())?;
    let restored = checkpoint::restore(&node.directory, &builder(config), caches, &arriving.arrivals())?;
    let (store, from, checkpointer) = (restored.store, restored.from_record, restored.checkpointer);
    let (mut records, mut bytes) = (0u64, 0u64);
    let wal = Wal::open(&node.directory.join("wal"), config.storage.log_file_bytes, from, |replay| {
        records += 1;
        bytes += replay.bytes;
        store.apply([&replay.entry]).map_err(|source| Error::Malformed { number: replay.number, source })
    })?;
    let mut clock = HybridClock::default();
    if let Some(latest) = store.read().latest() {
        clock.observe(&latest.to_message());
    }
    let kept = Kept {
        for_peers: if config.replication.peers.is_empty() { 0 } else { config.replication.kept_log_bytes },
        for_archive: (!config.archive.url.is_empty()).then_some(config.archive.max_behind_bytes),
    };
    let progress = Arc::new(Progress::new(&wal, from, bytes, kept));
    let seconds = started.elapsed().as_secs_f64();
    tracing::info!(from, records, seconds, "read the checkpoint and the log after it");
    Ok(Opened { node: Arc::new(node), store: Arc::new(store), wal, clock, progress, checkpointer, arriving })
}

/// Fetches what a start needs first from object storage when the settings say so and the data directory has nothing; whether it
/// did.
async fn restore_empty(config: &Config) -> Result<bool, Error> {
    let directory = &config.storage.data_dir;
    if config.storage.restore_from.is_empty() || !restore::is_empty(directory)? && !restore::is_unfinished(directory) {
        return Ok(false);
    }
    let started = Instant::now();
    let repository = backup::Repository::open(&config.storage.restore_from)?;
    let wanted = restore::Wanted {
        backup: None,
        until: restore::Until::Latest,
        concurrency: config.archive.concurrency,
        log_file_bytes: config.storage.log_file_bytes,
        lazily: true,
    };
    match restore::restore(&repository, &wanted, directory).await {
        Ok(restored) => {
            let (id, records, seconds) = (restored.backup.id, restored.records, started.elapsed().as_secs_f64());
            tracing::info!(id, records, seconds, "restored the data directory from object storage");
            Ok(true)
        }
        // The first instance of all has nothing to come back to.
        Err(backup::Error::Unreachable(_)) => {
            tracing::warn!(url = repository.url(), "there is no backup to start from: starting empty");
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Every search thread may be inside the same graph, and one more call must never fail.
fn builder(config: &Config) -> Engines {
    Engines::new(config.engine.threads() + EXTRA_THREADS)
}

fn unix_nanoseconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// How long connections may take to close once everything admitted is done.
const LAST_CALL: Duration = Duration::from_secs(2);
/// Threads beside those of the pool that may be inside a graph: the one that measures recall, and one to spare.
const EXTRA_THREADS: usize = 2;
