//! A region's cluster of searchds: chooses one for each call, repeats what may be repeated, and watches their health.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::HeaderMap;
use prost::Message;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};

use super::balance::{Key, Table};
use super::call::CallContext;
use super::connection::{Failure, Origin};
use super::endpoint::Endpoint;
use super::grpc::{self, Messages};
use super::health::{self, Observation, State};
use super::load::Told;
use super::retry::{Budget, Safety};
use super::{Config, ConfigError};
use crate::error::Error;

/// A cheap handle; clones are the same cluster. When the last one is dropped, the health checks end.
#[derive(Clone)]
pub struct Upstream {
    cluster: Arc<Cluster>,
    _checks: Arc<JoinSet<()>>,
}

struct Cluster {
    endpoints: Vec<Arc<Endpoint>>,
    table: Table,
    budget: Budget,
    config: Config,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    answered: AtomicU64,
    failed: AtomicU64,
    repeated: AtomicU64,
}

/// How many attempts at calls there were, by how they ended.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    /// By searchd, whatever it said.
    pub answered: u64,
    /// For want of a connection, or an UNAVAILABLE.
    pub failed: u64,
    /// Of the failed, those that were tried again.
    pub repeated: u64,
}

/// Tells that some endpoint's health changed. The value means nothing.
pub type Changes = Arc<watch::Sender<()>>;

/// One endpoint, as operators see it.
#[derive(Clone, Debug)]
pub struct EndpointStatus {
    pub id: String,
    pub state: State,
    pub in_flight: usize,
    /// None when it has told nothing lately.
    pub told: Option<Told>,
}

impl Upstream {
    /// Starts the health checks; the first ones at once. Needs a tokio runtime around it. Connections are made by the
    /// runtimes that use them. Changes of health are told to `changes`.
    ///
    /// # Errors
    /// What [`Config::validate`] finds.
    pub fn start(config: &Config, changes: &Changes) -> Result<Self, ConfigError> {
        config.validate()?;
        let endpoints: Vec<Arc<Endpoint>> = config
            .endpoints
            .iter()
            .filter_map(|e| {
                Some(Arc::new(Endpoint::new(e.url(), Origin::parse(e.url())?, e.weight(), config, changes)))
            })
            .collect();
        let named: Vec<(&str, u32)> = endpoints.iter().map(|e| (e.id.as_str(), e.weight)).collect();
        let table = Table::build(&named);
        let mut checks = JoinSet::new();
        for endpoint in &endpoints {
            checks.spawn(watch(endpoint.clone(), config.health.clone()));
        }
        let budget = Budget::new(&config.retry);
        let cluster =
            Arc::new(Cluster { endpoints, table, budget, config: config.clone(), counters: Counters::default() });
        Ok(Self { cluster, _checks: Arc::new(checks) })
    }

    /// Is there anybody to send a call to?
    pub fn is_healthy(&self) -> bool {
        self.cluster.endpoints.iter().any(|e| matches!(e.state(), State::Healthy | State::Suspect))
    }

    /// Has nobody been checked yet?
    pub fn is_unknown(&self) -> bool {
        self.cluster.endpoints.iter().all(|e| e.state() == State::Unknown)
    }

    pub fn counts(&self) -> Counts {
        let Counters { answered, failed, repeated } = &self.cluster.counters;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts { answered: load(answered), failed: load(failed), repeated: load(repeated) }
    }

    pub fn endpoints(&self) -> Vec<EndpointStatus> {
        let status = |e: &Arc<Endpoint>| EndpointStatus {
            id: e.id.clone(),
            state: e.state(),
            in_flight: e.in_flight(),
            told: e.load.told(),
        };
        self.cluster.endpoints.iter().map(status).collect()
    }

    /// The share of healthy endpoints' capacity that is free, 0 to 1: of their call places, and of their search threads'
    /// time as far as they tell, whichever is less.
    pub fn capacity_left(&self) -> f64 {
        let places = (self.cluster.config.connections_max * self.cluster.config.streams_per_connection) as f64;
        let healthy = self.cluster.endpoints.iter().filter(|e| matches!(e.state(), State::Healthy | State::Unknown));
        let free = |e: &Arc<Endpoint>| {
            let free_time = e.load.told().map_or(1.0, |told| 1.0 - told.utilization);
            (1.0 - e.in_flight() as f64 / places).min(free_time).max(0.0)
        };
        let left = healthy.map(free).sum::<f64>();
        left / self.cluster.endpoints.len().max(1) as f64
    }

    /// A unary call.
    ///
    /// # Errors
    /// What searchd answered after the repeats that `safety` allows, [`Error::NoRegion`] when nobody can be asked.
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

    async fn attempt<T, F, R>(&self, call: &Call<'_>, frame: Bytes, read: R) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Status>>,
        R: Fn(http::Response<crate::body::Body>) -> F,
    {
        self.cluster.budget.deposit();
        let (mut key, mut home) = (call.key, call.home);
        let mut tried = Tried::default();
        let mut last = Error::NoRegion;
        for _ in 0..self.cluster.config.retry.attempts {
            let Some(endpoint) = self.choose(key, &mut tried) else { return Err(last) };
            let mut headers = HeaderMap::with_capacity(8);
            call.context.write(&mut headers)?;
            let request = grpc::request(&endpoint.origin, call.path, headers, frame.clone());
            let failure = match until(call.context, endpoint.send(request)).await? {
                Ok(response) => match until(call.context, read(response)).await? {
                    Ok(answer) => {
                        self.cluster.counters.answered.fetch_add(1, Ordering::Relaxed);
                        return Ok(answer);
                    }
                    Err(status) if status.code() == Code::NotFound && self.is_elsewhere(home, endpoint) => {
                        self.cluster.counters.answered.fetch_add(1, Ordering::Relaxed);
                        (key, home) = (home.unwrap_or(key), None);
                        last = status.into();
                        continue;
                    }
                    Err(status) => {
                        if status.code() != Code::Unavailable {
                            self.cluster.counters.answered.fetch_add(1, Ordering::Relaxed);
                            return Err(status.into());
                        }
                        endpoint.recheck.notify_one();
                        Attempt::Answered(status)
                    }
                },
                Err(Failure::Unsent { cause, .. }) => Attempt::Unsent(cause),
                Err(Failure::Broken(error)) => Attempt::Broken(error),
            };
            let repeat = failure.may_repeat(call.safety, &self.cluster.budget);
            last = failure.into_error();
            self.cluster.counters.failed.fetch_add(1, Ordering::Relaxed);
            if !repeat {
                break;
            }
            self.cluster.counters.repeated.fetch_add(1, Ordering::Relaxed);
        }
        Err(last)
    }

    /// The endpoint for `key` among those not tried yet: the well ones that spare it no call, else the well ones, else
    /// the suspect ones.
    pub(crate) fn choose(&self, key: Key, tried: &mut Tried) -> Option<&Arc<Endpoint>> {
        let Cluster { endpoints, table, .. } = &*self.cluster;
        let well = |i: usize| !tried.has(i) && matches!(endpoints[i].state(), State::Healthy | State::Unknown);
        let suspect = |i: usize| !tried.has(i) && endpoints[i].state() == State::Suspect;
        let calm = |i: usize| well(i) && !endpoints[i].load.spills(key);
        let chosen = if endpoints.len() == 1 {
            (well(0) || suspect(0)).then_some(0)
        } else if (0..endpoints.len()).any(calm) {
            table.pick(key.hash(), calm)
        } else if (0..endpoints.len()).any(well) {
            table.pick(key.hash(), well)
        } else if (0..endpoints.len()).any(suspect) {
            table.pick(key.hash(), suspect)
        } else {
            None
        }?;
        tried.add(chosen);
        Some(&endpoints[chosen])
    }

    /// Do two keys belong to one endpoint?
    pub(crate) fn is_same(&self, a: Key, b: Key) -> bool {
        let owner = |key| self.choose(key, &mut Tried::default()).map(Arc::as_ptr);
        owner(a) == owner(b)
    }

    /// Does `home` belong to another endpoint than this one?
    fn is_elsewhere(&self, home: Option<Key>, endpoint: &Arc<Endpoint>) -> bool {
        let mut nowhere = Tried::default();
        let owner = home.and_then(|home| self.choose(home, &mut nowhere));
        owner.is_some_and(|owner| !Arc::ptr_eq(owner, endpoint))
    }

    /// Takes the price of a repeat from the budget.
    pub(crate) fn may_repeat(&self) -> bool {
        self.cluster.budget.withdraw()
    }

    pub(crate) fn attempts(&self) -> u32 {
        self.cluster.config.retry.attempts
    }
}

/// One call: where to, for whom, and whether it may be made twice.
pub(crate) struct Call<'a> {
    pub path: &'static str,
    pub context: &'a CallContext,
    pub key: Key,
    /// Where the collection's writes go: asked when the first endpoint knows of no such thing, which may just not have
    /// reached it yet.
    pub home: Option<Key>,
    pub safety: Safety,
}

/// The endpoints that a call has been to.
#[derive(Default)]
pub(crate) struct Tried(Vec<usize>);

impl Tried {
    fn has(&self, endpoint: usize) -> bool {
        self.0.contains(&endpoint)
    }

    fn add(&mut self, endpoint: usize) {
        self.0.push(endpoint);
    }
}

/// How one attempt failed.
enum Attempt {
    /// searchd said UNAVAILABLE: it drains or starts, and did nothing. A broken answer looks the same.
    Answered(Status),
    Broken(hyper::Error),
    Unsent(super::connection::Unreachable),
}

impl Attempt {
    fn may_repeat(&self, safety: Safety, budget: &Budget) -> bool {
        match self {
            Self::Unsent(_) => true,
            Self::Answered(_) | Self::Broken(_) => safety == Safety::Repeatable && budget.withdraw(),
        }
    }

    fn into_error(self) -> Error {
        match self {
            Self::Answered(status) => status.into(),
            Self::Broken(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "upstream call failed");
                Status::unavailable("the connection to searchd broke").into()
            }
            Self::Unsent(cause) => {
                tracing::warn!(error = &cause as &dyn std::error::Error, "no connection to searchd");
                Error::NoRegion
            }
        }
    }
}

/// Waits at most until the caller's deadline.
async fn until<T>(context: &CallContext, work: impl Future<Output = T>) -> Result<T, Error> {
    match context.deadline {
        None => Ok(work.await),
        Some(deadline) => tokio::time::timeout_at(deadline.into(), work).await.map_err(|_| Error::DeadlineExceeded),
    }
}

/// Checks one endpoint for ever.
async fn watch(endpoint: Arc<Endpoint>, config: health::Config) {
    loop {
        let observation = tokio::time::timeout(config.timeout, check(&endpoint)).await.unwrap_or(Observation::Failed);
        endpoint.observe(observation);
        let pause = if endpoint.is_eager() { config.interval_eager.min(config.interval) } else { config.interval };
        // A call that was refused asks for a check at once; not more often than the eager interval, or a storm of
        // refused calls would become one of checks.
        tokio::time::sleep(config.interval_eager.min(pause)).await;
        let rest = pause.saturating_sub(config.interval_eager);
        let _ = tokio::time::timeout(rest, endpoint.recheck.notified()).await;
    }
}

async fn check(endpoint: &Endpoint) -> Observation {
    let frame = grpc::frame(&HealthCheckRequest { service: String::new() });
    let request = grpc::request(&endpoint.origin, "/grpc.health.v1.Health/Check", HeaderMap::new(), frame);
    let Ok(response) = endpoint.send_check(request).await else { return Observation::Failed };
    let answer = match Messages::<HealthCheckResponse>::new(response) {
        Ok(messages) => messages.only().await,
        Err(status) => Err(status),
    };
    match answer.map(|answer| answer.status()) {
        Ok(ServingStatus::Serving) => Observation::Serving,
        Ok(ServingStatus::NotServing) => Observation::NotServing,
        Ok(ServingStatus::Unknown | ServingStatus::ServiceUnknown) | Err(_) => Observation::Failed,
    }
}
