//! A region's cluster of searchds: who they are now, how they stand, and what calls to them cost.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderValue};
use nearfield_proto::AREAS_METADATA;
use prost::Message;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::balance::Key;
use super::call::CallContext;
use super::class::Class;
use super::discovery;
use super::endpoint::Endpoint;
use super::grpc::{self, Messages};
use super::health::State;
use super::latency::Window;
use super::load::Told;
use super::members::{Maker, Members, Tried};
use super::outlier::{self, Reason};
use super::race::Race;
use super::retry::Budget;
use super::{Config, ConfigError, EndpointConfig};
use crate::error::Error;

/// A cheap handle; clones are the same cluster. When the last one is dropped, the health checks end.
#[derive(Clone)]
pub struct Upstream {
    cluster: Arc<Cluster>,
    _tasks: Arc<JoinSet<()>>,
}

/// A cluster that may be gone: for tasks that must not keep it.
#[derive(Clone)]
pub(super) struct Gone {
    cluster: Weak<Cluster>,
    tasks: Weak<JoinSet<()>>,
}

impl Gone {
    pub(super) fn upgrade(&self) -> Option<Upstream> {
        Some(Upstream { cluster: self.cluster.upgrade()?, _tasks: self.tasks.upgrade()? })
    }
}

pub(super) struct Cluster {
    pub(super) members: ArcSwap<Members>,
    pub(super) budget: Budget,
    pub(super) hedges: Budget,
    pub(super) config: Config,
    pub(super) counters: Counters,
    /// Of each class, in its order.
    latencies: [Window; Class::ALL.len()],
    maker: Maker,
    /// For which areas its region may hold data, as searchds are told; none: for all.
    areas: Option<HeaderValue>,
    /// Held while members are replaced, or ejected.
    changing: parking_lot::Mutex<()>,
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) answered: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) hedged: AtomicU64,
    pub(super) hedges_won: AtomicU64,
    pub(super) hung: AtomicU64,
    pub(super) repeated: AtomicU64,
    /// By reason, in their order.
    ejections: [AtomicU64; Reason::ALL.len()],
}

/// How many attempts at calls there were, by how they ended.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Counts {
    /// By searchd, whatever it said.
    pub answered: u64,
    /// For want of a connection, by an UNAVAILABLE, or by an answer that is none.
    pub failed: u64,
    /// Begun because a read was late.
    pub hedged: u64,
    /// Of those, that came first.
    pub hedges_won: u64,
    /// Silent for longer than patience lasts.
    pub hung: u64,
    /// Of the failed and hung, those that were tried again.
    pub repeated: u64,
}

/// Tells that some endpoint's standing changed. The value means nothing.
pub type Changes = Arc<watch::Sender<()>>;

/// One endpoint, as operators see it.
#[derive(Clone, Debug)]
pub struct EndpointStatus {
    pub id: String,
    pub weight: u32,
    /// The share of its clients that it is given now, 0 to 1.
    pub share: f64,
    pub state: State,
    /// Why, for how much longer.
    pub ejected: Option<(Reason, Duration)>,
    pub in_flight: usize,
    /// None when it has told nothing lately.
    pub told: Option<Told>,
}

impl Upstream {
    /// Starts the health checks; the first ones at once. Needs a tokio runtime around it. Connections are made by the
    /// runtimes that use them. Changes of health are told to `changes`, and to searchds, for which `areas` they may hold data.
    ///
    /// # Errors
    /// What [`Config::validate`] finds, and what is wrong with a file that names the endpoints.
    pub fn start(config: &Config, areas: Option<HeaderValue>, changes: &Changes) -> Result<Self, discovery::Error> {
        config.validate()?;
        let source = config.discovery.source()?;
        let first = match &source {
            Some(source) => source.first()?,
            None => config.endpoints.clone(),
        };
        let runtime = tokio::runtime::Handle::current();
        let maker = Maker { config: config.clone(), changes: changes.clone(), runtime };
        let cluster = Arc::new(Cluster {
            members: ArcSwap::from_pointee(Members::of(&first, None, &maker)),
            budget: Budget::new(config.retry.budget_ratio, config.retry.budget_max),
            hedges: Budget::new(config.hedge.budget_ratio, config.hedge.budget_max),
            config: config.clone(),
            counters: Counters::default(),
            latencies: std::array::from_fn(|_| Window::new()),
            maker,
            areas,
            changing: parking_lot::Mutex::new(()),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(compare(Arc::downgrade(&cluster), config.outlier.clone()));
        let upstream = Self { cluster, _tasks: Arc::new(tasks) };
        if let Some(source) = source {
            let gone = Gone { cluster: Arc::downgrade(&upstream.cluster), tasks: Arc::downgrade(&upstream._tasks) };
            tokio::spawn(source.follow(gone));
        }
        Ok(upstream)
    }

    /// Puts other endpoints in the place of these, at once for new calls. Those that stay keep their connections and
    /// standing; calls at those that go may end within the drain timeout; new ones get their clients little by little.
    ///
    /// # Errors
    /// What is wrong with the new ones; then nothing changes.
    pub fn replace(&self, endpoints: &[EndpointConfig]) -> Result<(), ConfigError> {
        super::validate(endpoints)?;
        let Cluster { changing, members, maker, .. } = &*self.cluster;
        let _alone = changing.lock();
        let now = Members::of(endpoints, Some(&members.load()), maker);
        members.store(Arc::new(now));
        maker.changes.send_replace(());
        Ok(())
    }

    /// Was it started by just these settings?
    pub(crate) fn is_by(&self, config: &Config, areas: Option<&HeaderValue>) -> bool {
        self.cluster.config == *config && self.cluster.areas.as_ref() == areas
    }

    /// Is there anybody to send a call to?
    pub fn is_healthy(&self) -> bool {
        self.cluster.members.load().iter().any(|e| matches!(e.state(), State::Healthy | State::Suspect))
    }

    /// Has nobody been checked yet?
    pub fn is_unknown(&self) -> bool {
        self.cluster.members.load().iter().all(|e| e.state() == State::Unknown)
    }

    pub fn counts(&self) -> Counts {
        let Counters { answered, failed, hedged, hedges_won, hung, repeated, .. } = &self.cluster.counters;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            answered: load(answered),
            failed: load(failed),
            hedged: load(hedged),
            hedges_won: load(hedges_won),
            hung: load(hung),
            repeated: load(repeated),
        }
    }

    /// How often endpoints were ejected, by why.
    pub fn ejections(&self) -> impl Iterator<Item = (Reason, u64)> {
        let counts = self.cluster.counters.ejections.each_ref().map(|count| count.load(Ordering::Relaxed));
        Reason::ALL.into_iter().zip(counts)
    }

    /// After how long a read of each kind is asked for twice; kinds of which too few were measured are left out.
    pub fn hedge_delays(&self) -> impl Iterator<Item = (&'static str, Duration)> {
        let delay = |class: Class| Some((class.label(), self.cluster.hedge_delay(class, Instant::now())?));
        Class::ALL.into_iter().filter_map(delay)
    }

    pub fn endpoints(&self) -> Vec<EndpointStatus> {
        let status = |(e, weight): (&Arc<Endpoint>, u32)| EndpointStatus {
            id: e.id.clone(),
            weight,
            share: e.share(),
            state: e.state(),
            ejected: e.ejected(),
            in_flight: e.in_flight(),
            told: e.load.told(),
        };
        self.cluster.members.load().weighted().map(status).collect()
    }

    /// The share of healthy endpoints' capacity that is free, 0 to 1: of their call places, and of their search threads'
    /// time as far as they tell, whichever is less.
    pub fn capacity_left(&self) -> f64 {
        let places = (self.cluster.config.connections_max * self.cluster.config.streams_per_connection) as f64;
        let members = self.cluster.members.load();
        let healthy = members.iter().filter(|e| matches!(e.state(), State::Healthy | State::Unknown));
        let free = |e: &Arc<Endpoint>| {
            let free_time = e.load.told().map_or(1.0, |told| 1.0 - told.utilization);
            (1.0 - e.in_flight() as f64 / places).min(free_time).max(0.0)
        };
        let left = healthy.map(free).sum::<f64>();
        left / members.len().max(1) as f64
    }

    /// A unary call.
    ///
    /// # Errors
    /// What searchd answered after the repeats that the call's class allows, [`Error::NoRegion`] when nobody can be
    /// asked.
    pub(crate) async fn unary<M: Message + Default>(
        &self,
        call: &Call<'_>,
        message: &impl Message,
    ) -> Result<M, Error> {
        self.attempt(call, grpc::frame(message), |response| async { Messages::new(response)?.only().await }).await
    }

    /// A call that is answered by a stream. It is repeated only before its first message.
    ///
    /// # Errors
    /// As [`Upstream::unary`], for what happens before the first message.
    pub(crate) async fn streaming<M: Message + Default>(
        &self,
        call: &Call<'_>,
        message: &impl Message,
    ) -> Result<(Option<M>, Messages<M>), Error> {
        let read = |response| async {
            let mut messages = Messages::new(response)?;
            let first = messages.next().await?;
            Ok((first, messages))
        };
        self.attempt(call, grpc::frame(message), read).await
    }

    /// Makes attempts until one is `read` to satisfaction.
    pub(super) async fn attempt<T, F, R>(&self, call: &Call<'_>, frame: bytes::Bytes, read: R) -> Result<T, Error>
    where
        F: Future<Output = Result<T, tonic::Status>>,
        R: Fn(http::Response<crate::body::Body>) -> F,
    {
        self.cluster.budget.deposit();
        if call.class.hedges() {
            self.cluster.hedges.deposit();
        }
        Race::new(&self.cluster, call, frame).run(read).await
    }

    /// Where a call of one attempt goes next.
    pub(super) fn choose(&self, key: Key, tried: &mut Tried) -> Option<Arc<Endpoint>> {
        let chosen = self.cluster.members.load().choose(key, tried).cloned()?;
        tried.add(&chosen);
        Some(chosen)
    }

    pub(super) fn note_failure(&self, endpoint: &Endpoint) {
        self.cluster.note_failure(endpoint);
    }

    /// Do two keys belong to one endpoint?
    pub(crate) fn is_same(&self, a: Key, b: Key) -> bool {
        let members = self.cluster.members.load();
        let owner = |key| members.choose(key, &Tried::default()).map(Arc::as_ptr);
        owner(a) == owner(b)
    }

    pub(super) fn write(&self, context: &CallContext, headers: &mut HeaderMap) -> Result<(), Error> {
        self.cluster.write(context, headers)
    }

    pub(crate) fn attempts(&self) -> u32 {
        self.cluster.config.retry.attempts
    }
}

impl Cluster {
    /// Writes the metadata of a call that is made here.
    ///
    /// # Errors
    /// As of [`CallContext::write`].
    pub(super) fn write(&self, context: &CallContext, headers: &mut HeaderMap) -> Result<(), Error> {
        if let Some(areas) = &self.areas {
            headers.insert(AREAS_METADATA, areas.clone());
        }
        context.write(headers)
    }

    pub(super) fn latency(&self, class: Class) -> &Window {
        &self.latencies[class as usize]
    }

    /// How long a read is waited for before it is asked for twice.
    pub(super) fn hedge_delay(&self, class: Class, now: Instant) -> Option<Duration> {
        let config = &self.config.hedge;
        let usual =
            (config.enabled && class.hedges()).then(|| self.latency(class).quantile(config.quantile, now))??;
        Some(usual.max(config.delay_min))
    }

    /// How long a call may be silent before it counts as hung.
    pub(super) fn patience(&self, class: Class, now: Instant) -> Option<Duration> {
        let usual = self.latency(class).quantile(self.config.hedge.quantile, now).unwrap_or_default();
        class.can_hang().then(|| self.config.retry.patience.max(usual * HANG_FACTOR))
    }

    /// A call at this endpoint came to nothing by its fault; so many in a row eject it.
    pub(super) fn note_failure(&self, endpoint: &Endpoint) {
        let in_a_row = endpoint.failed();
        if self.config.outlier.enabled && in_a_row >= self.config.outlier.consecutive_failures {
            self.eject(endpoint, Reason::ConsecutiveFailures);
        }
    }

    /// Ejects an endpoint unless it is, or too many are.
    fn eject(&self, endpoint: &Endpoint, reason: Reason) {
        let _alone = self.changing.lock();
        let members = self.members.load();
        let ejected = members.iter().filter(|e| e.ejected().is_some()).count();
        if endpoint.ejected().is_some() || ejected >= self.config.outlier.ejected_max(members.len()) {
            return;
        }
        endpoint.eject(reason, &self.config.outlier);
        self.counters.ejections[reason as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// Compares a cluster's endpoints for as long as there is one.
async fn compare(cluster: Weak<Cluster>, config: outlier::Config) {
    let mut since_compared = Duration::ZERO;
    let tick = config.interval.min(EJECTION_TICK);
    loop {
        tokio::time::sleep(tick).await;
        let Some(cluster) = cluster.upgrade() else { return };
        since_compared += tick;
        let members = cluster.members.load();
        if since_compared < config.interval {
            members.iter().for_each(|endpoint| endpoint.end_ejection(false));
            continue;
        }
        since_compared = Duration::ZERO;
        let tallies: Vec<_> = members.iter().map(|endpoint| endpoint.take_tally()).collect();
        let outliers = if config.enabled { outlier::compare(&tallies, &config) } else { Vec::new() };
        for (i, endpoint) in members.iter().enumerate() {
            endpoint.end_ejection(outliers.iter().all(|(outlier, _)| *outlier != i));
        }
        for (i, reason) in outliers {
            if let Some(endpoint) = members.iter().nth(i) {
                cluster.eject(endpoint, reason);
            }
        }
    }
}

/// One call: where to, for whom, and of what kind.
pub(crate) struct Call<'a> {
    pub path: &'static str,
    pub context: &'a CallContext,
    pub key: Key,
    /// Where the collection's writes go: asked when the first endpoint knows of no such thing, which may just not have
    /// reached it yet.
    pub home: Option<Key>,
    pub class: Class,
    /// What else the caller's metadata says.
    pub headers: Option<&'a HeaderMap>,
}

/// A call that takes this many times its kind's usual longest hangs.
const HANG_FACTOR: u32 = 4;
/// How often it is looked whether an ejection's time has come.
const EJECTION_TICK: Duration = Duration::from_secs(1);
