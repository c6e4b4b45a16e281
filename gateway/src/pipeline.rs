//! The table of contents of a request's life: every layer, outermost first, and why it stands where it does.

use std::sync::Arc;

use nearfield_telemetry::debug::Views;
use nearfield_telemetry::readiness::Readiness;
use nearfield_telemetry::settings::Changed;
use prometheus_client::registry::Registry;
use tokio_util::task::AbortOnDropHandle;
use tower::ServiceBuilder;

use crate::body::{Request, Response};
use crate::config::Config;
use crate::current::Current;
use crate::dispatch::Administered;
use crate::error::Error;
use crate::gateway;
use crate::layers::client_addr::proof::Secrets;
use crate::layers::gate::{Gate, Passed};
use crate::layers::observe::metrics::Metrics;
use crate::layers::shed::Shedding;
use crate::layers::shed::sampler::Sampler;
use crate::layers::{
    audit, authenticate, classify, client_addr, compression, cors, deadline, early_data, grpc_web, head, lasting,
    locate, observe, options, pace, perimeter, rate_limit, ready, request_body, request_id, rescue, response_cache,
    server_timing, target,
};
use crate::listener;
use crate::listener::door::Door;
use crate::streams::Streams;
use crate::view::Edge;

/// What the layers are made of.
#[derive(Clone)]
pub(crate) struct Context {
    config: Config,
    readiness: Readiness,
    audit: audit::Layer,
    lasting: lasting::Layer,
    authenticate: authenticate::Layer,
    cache: response_cache::Cache,
    client_addr: client_addr::Layer,
    locate: locate::Layer,
    requests: Metrics,
    shedding: Shedding,
    limits: rate_limit::Limits,
    door: Arc<Door>,
    streams: Streams,
    /// The limits for what comes in behind the pipeline.
    passed: Current<Passed>,
}

impl Context {
    /// Layers that have metrics are made here, while the registry can still be written to. Needs a tokio runtime around
    /// it, for what watches files.
    pub(crate) fn new(
        config: &Config,
        administered: Administered,
        readiness: Readiness,
        registry: &mut Registry,
    ) -> Result<Self, gateway::Error> {
        let secrets = Secrets::start(&config.client.proof).map_err(gateway::Error::Proof)?;
        let limits = rate_limit::Limits::start(&config.rate_limit, &config.server.instance, registry)
            .map_err(gateway::Error::Quotas)?;
        let shedding = Shedding::new(&config.shed, &limits, registry);
        let (authenticator, streams) = (administered.authenticator.clone(), Streams::default());
        Ok(Self {
            lasting: lasting::Layer { authenticator, streams: streams.clone() },
            audit: audit::Layer { audit: administered.audit },
            authenticate: authenticate::Layer::register(administered.authenticator, registry),
            cache: response_cache::Cache::start(&config.cache, &config.server.name(), registry)
                .map_err(gateway::Error::Cache)?,
            client_addr: client_addr::Layer::new(config.client.clone(), secrets),
            locate: locate::Layer::start(&config.client.geo, registry).map_err(gateway::Error::Geo)?,
            requests: Metrics::register(registry),
            passed: Current::from(Passed { limits: limits.clone(), shedding: shedding.clone() }),
            shedding,
            limits,
            door: Arc::new(Door::new(&config.listener, &config.client.trusted, registry)),
            streams,
            config: config.clone(),
            readiness,
        })
    }

    /// The same by other settings, in use from [`Context::take_effect`] on. A part that counts or remembers goes on doing so;
    /// layers that do neither are made anew by [`build`]. Needs a tokio runtime around it.
    ///
    /// # Errors
    /// Files of `client` that cannot be read, and a `rate_limit.redis_url` that is none.
    pub(crate) fn renewed(&self, config: &Config, changed: &Changed) -> Result<Self, gateway::Error> {
        let mut renewed = Self { config: config.clone(), ..self.clone() };
        if changed.touches("client") {
            let secrets = match changed.touches("client.proof") {
                true => Secrets::start(&config.client.proof).map_err(gateway::Error::Proof)?,
                false => self.client_addr.secrets(),
            };
            renewed.client_addr = client_addr::Layer::new(config.client.clone(), secrets);
        }
        if changed.touches("client.geo") {
            renewed.locate = self.locate.renewed(&config.client.geo).map_err(gateway::Error::Geo)?;
        }
        if changed.touches("rate_limit") {
            let (before, instance) = (&self.config.rate_limit, &config.server.instance);
            let limits = self.limits.renewed(before, &config.rate_limit, instance);
            renewed.limits = limits.map_err(gateway::Error::Quotas)?;
        }
        if changed.touches("rate_limit") || changed.touches("shed") {
            renewed.shedding = self.shedding.renewed(&config.shed, &renewed.limits);
        }
        Ok(renewed)
    }

    /// Parts that are shared with what is in use go on by these settings.
    pub(crate) fn take_effect(&self) {
        self.shedding.resize(&self.config.shed);
        self.cache.set_terms(&self.config.cache);
        self.door.expect(&self.config.client.trusted);
        self.passed.replace(Passed { limits: self.limits.clone(), shedding: self.shedding.clone() });
    }

    /// The limits, for what comes in behind the pipeline: a WebSocket's messages.
    pub(crate) fn gate(&self) -> Gate {
        Gate(self.passed.clone())
    }

    /// Adds to `/debug` what the layers count.
    pub(crate) fn show_in(&self, views: &Views) {
        let (door, streams, cache, passed) =
            (self.door.clone(), self.streams.clone(), self.cache.clone(), self.passed.clone());
        Edge { door, streams, cache, passed }.show_in(views);
    }

    /// What connections come in by.
    pub(crate) fn door(&self) -> Arc<Door> {
        self.door.clone()
    }

    /// Where open streams are listed that may be closed when they are idle.
    pub(crate) fn streams(&self) -> Streams {
        self.streams.clone()
    }

    /// Begins to watch the process and to set the level of pressure, until the handle is dropped; none when that is off.
    /// Needs a tokio runtime around it.
    pub(crate) fn watch_pressure(&self) -> Option<AbortOnDropHandle<()>> {
        let config = self.config.shed.pressure.clone();
        let enabled = config.enabled;
        let (gauge, door, streams) = (self.shedding.gauge.clone(), self.door.clone(), self.streams.clone());
        let sampler = Sampler { config, gauge, door, streams };
        if enabled {
            return Some(AbortOnDropHandle::new(tokio::spawn(sampler.run())));
        }
        sampler.leave();
        None
    }
}

/// The pipeline around `inner`.
pub(crate) fn build<S>(context: Context, inner: S) -> listener::Service
where
    S: hyper::service::Service<Request, Response = Response, Error = Error> + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    let config = context.config;
    let service = ServiceBuilder::new()
        // First, because every other layer asks what the request is for.
        .layer(classify::Layer)
        // Before logs and limits speak of the client.
        .layer(context.client_addr)
        // Before anything can fail, so that every answer names its request.
        .layer(request_id::Layer::new(&config.server.region, &config.server.instance))
        // Inside of nothing that writes a body.
        .layer(head::Layer)
        // Around all that takes time, so that the log and the metrics tell all of it.
        .layer(observe::Layer::new(config.access_log, context.requests))
        .layer(server_timing::Layer)
        // Outside of every refusal: they too say what is left of the limits.
        .layer(context.limits.announce)
        // Outside of every refusal: they too say that no cache was asked.
        .layer(response_cache::status::Layer)
        // Outside of authentication: browsers ask what they may send without credentials.
        .layer(options::Layer { mode: config.client.mode })
        // Outside of every refusal: a page may read them too.
        .layer(cors::Layer::new(&config.cors))
        // Outside of every refusal, so that they are translated too; inside of CORS, which its callers need.
        .layer(grpc_web::Layer)
        // Everything inside may fail; everything outside only watches.
        .layer(rescue::Layer)
        // Nothing else is done for what passed by the load balancer.
        .layer(perimeter::Layer { mode: config.client.mode })
        // The cheapest refusals first: these read nothing but the head.
        .layer(target::Layer { max_headers: config.listener.http1.max_headers })
        // Before a request is paid for, or does anything, that may have been sent by somebody else.
        .layer(early_data::Layer)
        // Load balancers ask without credentials, and must be answered under any load.
        .layer(ready::Layer { readiness: context.readiness })
        // From here on everything knows when the caller stops waiting.
        .layer(deadline::Layer::new(config.deadline))
        // One atomic decides; nothing has been spent on the request yet.
        .layer(context.shedding.ceiling)
        // Ahead of authentication: a flood from one address must not even cost a signature check.
        .layer(context.limits.by_address)
        // From here on there is a caller, and no credentials any more.
        .layer(context.authenticate)
        // Right behind authentication: it needs the caller's name and plan.
        .layer(context.limits.by_caller)
        // As soon as it is known how much the request matters.
        .layer(context.shedding.triage)
        // From here on what administrators do is done.
        .layer(context.audit)
        // Behind authentication, since a stream ends with its caller's credentials; outside of what may buffer.
        .layer(context.lasting)
        // Outside of the cache, which keeps one identity copy of an answer for all codings.
        .layer(compression::Layer::new(config.compression))
        // Around the body as it comes, so before it is decompressed; behind authentication, which reads none of it.
        .layer(pace::Layer { config: config.pace })
        // Before anyone reads the body.
        .layer(request_body::Layer::new(config.body))
        // What it keeps is what the region answers, and a hit has still paid every toll above.
        .layer(response_cache::Layer { cache: context.cache })
        // Innermost: where the client is matters only to what a region has to answer.
        .layer(context.locate)
        // Innermost: a place is held for as long as what is behind the gateway takes, and a hit needs none.
        .layer(context.shedding.admission)
        .service(inner);
    Arc::new(service)
}
