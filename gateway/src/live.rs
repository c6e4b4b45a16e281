//! Settings that change while the gateway runs: `gateway.toml` is read again as a whole, checked, and swapped as one.
//!
//! Layers know nothing of this. What they are made of, [`pipeline::Context`], is made anew: a part whose section has not
//! changed is carried over with all that it counts and remembers. Then the pipeline is built around the same innermost
//! service, and one pointer is swapped; requests under way end in the pipeline that they began in. Everything that may
//! fail comes before the first swap, so settings are taken whole or not at all.

use std::sync::Arc;

use nearfield_auth::Authenticator;
use nearfield_telemetry::debug::Views;
use nearfield_telemetry::readiness::{Readiness, State};
use nearfield_telemetry::settings::Changed;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use crate::config::Config;
use crate::current::Current;
use crate::forward;
use crate::gateway::{Error, Served};
use crate::listener::tls::Certificates;
use crate::listener::{Pipeline, Service};
use crate::pipeline::Context;
use crate::region::Regions;

/// What takes effect without a restart: keys, and sections that do so whole.
const LIVE: &[&str] = &[
    "access_log",
    "auth",
    "body",
    "cache.cdn_max_age",
    "cache.embed_ttl",
    "cache.search_ttl",
    "cache.stale_if_error",
    "client",
    "compression",
    "cors",
    "deadline",
    "log.level",
    "pace",
    "rate_limit",
    "shed",
    "stream",
    "tls",
    "topology",
    "upstream",
    "websocket",
];

/// The keys among `changed` that take effect with the next start only.
pub fn need_a_restart(changed: &Changed) -> Vec<&str> {
    changed.outside(LIVE)
}

/// Builds the pipeline of a context around the innermost service that the process began with.
pub(crate) type Rebuild = Box<dyn Fn(Context) -> Service + Send + Sync>;

/// The regions in use, and what follows them.
pub(crate) struct LiveRegions {
    pub(crate) current: Current<Regions>,
    pub(crate) metrics: forward::metrics::Metrics,
    pub(crate) views: Views,
    /// Where the channels to searchds live.
    pub(crate) runtime: Handle,
    pub(crate) readiness: Readiness,
    /// Keeps the readiness in step with the regions' health.
    pub(crate) following: AbortOnDropHandle<()>,
}

impl LiveRegions {
    pub(crate) fn follow(regions: Regions, readiness: Readiness) -> AbortOnDropHandle<()> {
        let ready = |healthy| if healthy { State::Ready } else { State::Unready("no searchd answers") };
        AbortOnDropHandle::new(tokio::spawn(async move {
            regions.follow(|healthy| readiness.set(ready(healthy))).await;
        }))
    }

    /// Other regions, looked at once; nobody is sent there yet.
    async fn prepare(&self, config: &Config) -> Result<(Regions, forward::metrics::Metrics), Error> {
        let (topology, here) = (config.topology.clone(), config.server.region.clone());
        let upstream = config.upstream.clone();
        let metrics = forward::metrics::Metrics::default();
        let patience = upstream.health.timeout;
        let counted = metrics.clone();
        let before = self.current.get();
        let start = async move { Regions::start_behind(Some(&before), &topology, &here, &upstream, &counted) };
        let regions = self.runtime.spawn(start).await.map_err(|_stopped| Error::Host)?.map_err(Error::Regions)?;
        let _late = tokio::time::timeout(patience, regions.checked()).await;
        Ok((regions, metrics))
    }

    fn replace(&mut self, (regions, metrics): (Regions, forward::metrics::Metrics)) {
        self.metrics.replace(&metrics);
        regions.show_in(&self.views);
        self.following = Self::follow(regions.clone(), self.readiness.clone());
        self.current.replace(regions);
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reload {
    outcome: &'static str,
}

const APPLIED: Reload = Reload { outcome: "applied" };
const REFUSED: Reload = Reload { outcome: "refused" };

/// How often settings were read again.
#[derive(Clone, Default)]
pub(crate) struct Metrics(Family<Reload, Counter>);

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for outcome in [APPLIED, REFUSED] {
            drop(metrics.0.get_or_create(&outcome));
        }
        let text = "times that changed settings were read";
        registry.sub_registry_with_prefix("gateway").register("settings_reloads", text, metrics.0.clone());
        metrics
    }

    pub(crate) fn count(&self, applied: bool) {
        self.0.get_or_create(if applied { &APPLIED } else { &REFUSED }).inc();
    }
}

/// The parts of a running gateway that settings reach.
pub(crate) struct Live {
    pub(crate) certificates: Arc<Certificates>,
    pipeline: Pipeline,
    rebuild: Rebuild,
    authenticator: Current<Authenticator>,
    served: Served,
    pub(crate) metrics: Metrics,
    /// One change at a time.
    state: tokio::sync::Mutex<InUse>,
}

struct InUse {
    config: Config,
    context: Context,
    /// None around another innermost service than ours.
    regions: Option<LiveRegions>,
    /// Watches what the process uses; none when that is off.
    pressure: Option<AbortOnDropHandle<()>>,
}

impl Live {
    /// Needs a tokio runtime around it.
    pub(crate) fn new(
        config: Config,
        context: Context,
        authenticator: Current<Authenticator>,
        certificates: Arc<Certificates>,
        served: Served,
        (pipeline, rebuild): (Pipeline, Rebuild),
        metrics: Metrics,
    ) -> Self {
        let pressure = context.watch_pressure();
        let state = tokio::sync::Mutex::new(InUse { config, context, regions: None, pressure });
        Self { certificates, pipeline, rebuild, authenticator, served, metrics, state }
    }

    pub(crate) fn set_regions(&mut self, regions: LiveRegions) {
        self.state.get_mut().regions = Some(regions);
    }

    /// Goes on with `config`, which differs from what is in use in `changed`.
    pub(crate) async fn apply(&self, config: Config, changed: &Changed) -> Result<(), Error> {
        let outcome = self.try_apply(config, changed).await;
        self.metrics.count(outcome.is_ok());
        outcome
    }

    async fn try_apply(&self, mut config: Config, changed: &Changed) -> Result<(), Error> {
        let mut state = self.state.lock().await;
        config.check().map_err(Error::Config)?;
        // These are what they were when the process began.
        config.server = state.config.server.clone();
        config.listener = state.config.listener.clone();
        let authenticator = match changed.touches("auth") {
            true => Some(Authenticator::start(&config.auth).await.map_err(Error::Auth)?),
            false => None,
        };
        let context = state.context.renewed(&config, changed)?;
        let regions = match &state.regions {
            Some(regions) if changed.touches("upstream") || changed.touches("topology") => {
                Some(regions.prepare(&config).await?)
            }
            _ => None,
        };
        if changed.touches("tls") {
            self.certificates.replace(&config.tls).map_err(Error::Tls)?;
        }
        // From here on nothing fails.
        if let Some(authenticator) = authenticator {
            self.authenticator.replace(authenticator);
        }
        if let (Some(live), Some(new)) = (&mut state.regions, regions) {
            live.replace(new);
        }
        self.served.stream.replace(config.stream.clone());
        self.served.websocket.replace(config.websocket.clone());
        context.take_effect();
        self.pipeline.replace((self.rebuild)(context.clone()));
        if changed.touches("shed.pressure") {
            // The old one first: two would each set the level.
            state.pressure = None;
            state.pressure = context.watch_pressure();
        }
        state.context = context;
        state.config = config;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_key_is_live_by_itself_or_by_its_section() {
        let changed =
            Changed::from_iter(["log.level", "log.format", "tls.client.ca", "listener.https", "cacheable", "auth"]);
        assert_eq!(need_a_restart(&changed), ["cacheable", "listener.https", "log.format"]);
    }

    /// The words in backticks.
    fn named(text: &str) -> BTreeSet<&str> {
        text.split('`').skip(1).step_by(2).collect()
    }

    #[test]
    fn of_every_section_the_reference_says_when_it_takes_effect() {
        let page = include_str!("../../docs/config-gateway.md");
        let example = page.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
        let headers = example.lines().filter_map(|line| line.strip_prefix('[')?.split([']', '.']).next());
        let part = page.split("\n## Changes\n").nth(1).unwrap().split("\n## ").next().unwrap();
        let rows = part.lines().filter(|line| line.starts_with("| `")).filter_map(|line| line.split('|').nth(1));
        let live: BTreeSet<&str> = rows.flat_map(named).collect();
        assert_eq!(live, LIVE.iter().copied().collect());
        let restart = named(part.lines().find(|line| line.starts_with("Needs a restart:")).unwrap());
        let sections = live.iter().chain(&restart).filter_map(|key| key.split('.').next());
        assert_eq!(sections.collect::<BTreeSet<_>>(), headers.collect());
        assert!(live.is_disjoint(&restart));
    }
}
