//! Which region answers: where the regions are, how they are, and the rule that chooses one.
//!
//! The rule is a pure function ([`decision::decide`]); [`Regions`] feeds it with what this gateway sees.

pub mod comeback;
pub mod decision;
pub mod geo;
mod residency;
pub mod topology;
mod view;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use serde::{Deserialize, Serialize};

use self::comeback::Comeback;
use self::decision::{Client, Health, State};
use self::geo::Coordinates;
use self::residency::Residencies;
use self::topology::Topology;
use crate::error::Error;
use crate::forward::metrics::Metrics;
use crate::forward::{self, CallContext, Changes, Upstream};

/// The settings' section `[topology]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The topology file; without one, the fifteen regions that this program knows.
    pub file: Option<PathBuf>,
    /// Areas whose data this gateway's region may hold when the topology does not know it; `*` stands for all.
    pub residency: Vec<String>,
    /// For how long it is remembered where a collection's data may be.
    #[serde(with = "humantime_serde")]
    pub residency_ttl: Duration,
    pub comeback: comeback::Config,
}

impl Default for Config {
    fn default() -> Self {
        let (residency, residency_ttl) = (Vec::new(), Duration::from_secs(30));
        Self { file: None, residency, residency_ttl, comeback: comeback::Config::default() }
    }
}

/// The regions with their clusters. Clones are the same.
#[derive(Clone)]
pub struct Regions(Arc<Inner>);

struct Inner {
    topology: Topology,
    /// The cluster of each region, in the topology's order; none where no searchd runs.
    upstreams: Vec<Option<Upstream>>,
    here: usize,
    changes: Changes,
    /// The regions' names, for the header `Nearfield-Region`.
    names: Vec<HeaderValue>,
    residencies: Residencies,
    /// How each region comes back, in the topology's order.
    comebacks: Vec<Arc<Comeback>>,
    comeback: comeback::Config,
    /// Every region that is there may hold everything, so nobody need ask where a collection may be.
    holds_all: bool,
}

/// Why the regions cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the areas {0:?} are not printable ASCII")]
    Area(String),
    #[error("the region's name {0:?} is not printable ASCII")]
    Name(String),
    #[error("reading the topology")]
    Topology(#[from] topology::Error),
    #[error("the upstream of region {region}")]
    Upstream { region: String, source: forward::discovery::Error },
}

impl Regions {
    /// Sets up the clusters of all regions that have endpoints: `upstream`'s for the one named `here`, the topology's
    /// for the others. A region that the topology does not know (a developer's machine) is added to it. Needs a tokio
    /// runtime around it.
    ///
    /// # Errors
    /// A topology that cannot be read, or an endpoint that is none.
    pub fn start(
        config: &Config,
        here: &str,
        upstream: &forward::Config,
        metrics: &Metrics,
    ) -> Result<Self, StartError> {
        Self::start_behind(None, config, here, upstream, metrics)
    }

    /// The same in the place of others: a region that has the same searchds by the same settings keeps its cluster, and
    /// one that comes back goes on doing so.
    ///
    /// # Errors
    /// As [`Regions::start`].
    pub(crate) fn start_behind(
        before: Option<&Self>,
        config: &Config,
        here: &str,
        upstream: &forward::Config,
        metrics: &Metrics,
    ) -> Result<Self, StartError> {
        let mut topology = Topology::load(config.file.as_deref())?;
        let here_index = topology.find_or_add(here, &config.residency);
        let name = |name: &String| HeaderValue::from_str(name).map_err(|_| StartError::Name(name.clone()));
        let names = topology.regions.iter().map(|region| name(&region.name)).collect::<Result<_, _>>()?;
        // Clusters that are kept go on telling the changes that they know.
        let changes = before.map(|before| before.0.changes.clone()).unwrap_or_default();
        let mut upstreams: Vec<Option<Upstream>> = Vec::with_capacity(topology.regions.len());
        for (i, region) in topology.regions.iter().enumerate() {
            let mut config = upstream.clone();
            if i != here_index {
                config.endpoints = region.endpoints.iter().cloned().map(forward::EndpointConfig::Url).collect();
                // What is discovered are the searchds of this region.
                config.discovery = forward::discovery::Config::default();
            }
            let start = |config: &forward::Config| {
                let named = |source| StartError::Upstream { region: region.name.clone(), source };
                let areas =
                    region.areas().map(|areas| HeaderValue::try_from(&areas).map_err(|_| StartError::Area(areas)));
                let areas = areas.transpose()?;
                let known = before.and_then(|before| before.upstream_of(&region.name));
                match known.filter(|known| known.is_by(config, areas.as_ref())) {
                    Some(known) => Ok(known.clone()),
                    None => Upstream::start(config, areas, &changes).map_err(named),
                }
            };
            let is_empty = config.endpoints.is_empty() && !config.discovery.is_used();
            upstreams.push(if is_empty { None } else { Some(start(&config)?) });
            if let Some(Some(upstream)) = upstreams.last() {
                metrics.add(&region.name, upstream.clone());
            }
        }
        let residencies = Residencies::new(config.residency_ttl);
        let mut there = topology.regions.iter().zip(&upstreams).filter(|(_, upstream)| upstream.is_some());
        let holds_all = there.all(|(region, _)| region.holds_all());
        let comeback = |region: &topology::Region| before.and_then(|before| before.comeback_of(&region.name));
        let comebacks = topology.regions.iter().map(|region| comeback(region).unwrap_or_default()).collect();
        Ok(Self(Arc::new(Inner {
            topology,
            upstreams,
            here: here_index,
            changes,
            names,
            residencies,
            comebacks,
            comeback: config.comeback.clone(),
            holds_all,
        })))
    }

    fn upstream_of(&self, region: &str) -> Option<&Upstream> {
        self.0.upstreams[self.0.topology.find(region)?].as_ref()
    }

    fn comeback_of(&self, region: &str) -> Option<Arc<Comeback>> {
        Some(self.0.comebacks[self.0.topology.find(region)?].clone())
    }

    /// This gateway's own region.
    pub fn here(&self) -> &str {
        &self.0.topology.regions[self.0.here].name
    }

    /// Can any region answer?
    pub fn is_healthy(&self) -> bool {
        self.0.upstreams.iter().flatten().any(Upstream::is_healthy)
    }

    /// Resolves when every region has been checked once, so that [`Regions::is_healthy`] is known.
    pub async fn checked(&self) {
        let mut changes = self.0.changes.subscribe();
        while self.0.upstreams.iter().flatten().any(Upstream::is_unknown) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Calls `follow` with [`Regions::is_healthy`], now and whenever some endpoint's health changes, for ever.
    pub async fn follow(&self, follow: impl Fn(bool)) {
        let mut changes = self.0.changes.subscribe();
        loop {
            changes.mark_unchanged();
            // Who is lost, and who came back, is noticed whether somebody asks or not.
            let _ = self.states();
            follow(self.is_healthy());
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// The region that takes a request about `collection`.
    ///
    /// # Errors
    /// As [`Regions::route`], and when nobody can say where the collection may be.
    pub(crate) async fn route_for(&self, context: &CallContext, collection: &str) -> Result<Chosen, Error> {
        let areas = self.residency_of(context, collection).await?.unwrap_or_default();
        self.route(context, &areas)
    }

    /// The region that takes a request, by where its client is, among those that may hold data of one of `areas`; of
    /// none stands for any.
    ///
    /// # Errors
    /// [`Error::NoRegion`]; [`Error::Residency`] when others could answer, and may not.
    pub(crate) fn route(&self, context: &CallContext, areas: &[String]) -> Result<Chosen, Error> {
        let (regions, states) = (&self.0.topology.regions, self.states());
        // A client of unknown place came to this gateway because it is near.
        let place = context.location.or_else(|| regions[self.0.here].location());
        let client = Client { place, rank: context.read_key().rank() };
        let Some(decision) = decision::decide(client, regions, &states, areas) else {
            return Err(self.refusal(&states, areas));
        };
        let region = decision.region;
        let upstream = self.0.upstreams[region].clone().ok_or(Error::NoRegion)?;
        let may_keep = regions[self.0.here].may_hold(areas);
        Ok(Chosen { region, upstream, name: self.0.names[region].clone(), may_keep })
    }

    fn refusal(&self, states: &[State], areas: &[String]) -> Error {
        let regions = &self.0.topology.regions;
        if decision::decide(Client::default(), regions, states, &[]).is_none() {
            return Error::NoRegion;
        }
        let mut allowed = regions.iter().zip(states).filter(|(region, _)| region.may_hold(areas));
        let may_pass = allowed.any(|(_, state)| state.health != Health::Absent);
        Error::Residency { areas: areas.join(", "), may_pass }
    }

    /// May data that is confined to `areas` be at a region that was chosen?
    pub(crate) fn may_answer(&self, chosen: &Chosen, areas: &[String]) -> bool {
        self.0.topology.regions[chosen.region].may_hold(areas)
    }

    /// How each region is, told to a caller.
    pub(crate) fn status(&self, client: Option<Coordinates>) -> Vec<RegionStatus<'_>> {
        let (regions, states) = (&self.0.topology.regions, self.states());
        regions
            .iter()
            .zip(&states)
            .enumerate()
            .map(|(i, (region, state))| {
                let spillover = state.health != Health::Absent && !state.takes_more();
                let neighbour = Client { place: region.location(), ..Client::default() };
                let elsewhere = || decision::decide(neighbour, regions, &states, &[]).map(|d| d.region);
                RegionStatus {
                    region: &region.name,
                    place: &region.place,
                    area: &region.area,
                    residency: region.residency(),
                    tier: region.tier,
                    here: i == self.0.here,
                    health: state.health,
                    capacity_left: state.capacity_left,
                    share: state.share,
                    spillover,
                    spillover_to: spillover
                        .then(elsewhere)
                        .flatten()
                        .filter(|target| *target != i)
                        .map(|target| regions[target].name.as_str()),
                    replication_lag_seconds: None,
                    distance_km: client.zip(region.location()).map(|(a, b)| a.distance_km(b).round()),
                }
            })
            .collect()
    }

    fn states(&self) -> Vec<State> {
        let state = |(upstream, comeback): (&Option<Upstream>, &Arc<Comeback>)| {
            let Some(upstream) = upstream else { return State::absent() };
            let health = health_of(upstream);
            State { health, capacity_left: upstream.capacity_left(), share: comeback.share(health, &self.0.comeback) }
        };
        self.0.upstreams.iter().zip(&self.0.comebacks).map(state).collect()
    }
}

fn health_of(upstream: &Upstream) -> Health {
    if upstream.is_healthy() {
        Health::Healthy
    } else if upstream.is_unknown() {
        Health::Unknown
    } else {
        Health::Unhealthy
    }
}

/// The region that takes a request.
#[derive(Clone)]
pub(crate) struct Chosen {
    /// Its place in the topology.
    pub region: usize,
    pub upstream: Upstream,
    /// Its name, for the header `Nearfield-Region`.
    pub name: HeaderValue,
    /// What it answers may be kept in this gateway's region.
    pub may_keep: bool,
}

/// One region, as `GET /regions` tells it.
#[derive(Debug, Serialize)]
pub(crate) struct RegionStatus<'a> {
    region: &'a str,
    place: &'a str,
    area: &'a str,
    residency: &'a str,
    tier: u8,
    /// It is the region of the gateway that answers.
    here: bool,
    health: Health,
    /// 0 to 1.
    capacity_left: f64,
    /// Of its clients, those that it is given, 0 to 1: less than all while it comes back.
    share: f64,
    /// Its clients are sent elsewhere.
    spillover: bool,
    spillover_to: Option<&'a str>,
    /// Unknown until regions replicate.
    replication_lag_seconds: Option<f64>,
    /// From the caller; unknown when the caller's place is.
    distance_km: Option<f64>,
}
