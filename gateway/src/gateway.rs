//! The gateway as a value: start it, ask where it listens, drain it.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use nearfield_auth::Authenticator;
use nearfield_telemetry::admin;
use nearfield_telemetry::debug::Views;
use nearfield_telemetry::drain::Drain;
use nearfield_telemetry::readiness::{Readiness, State};
use nearfield_telemetry::settings::{Changed, Values};
use prometheus_client::registry::Registry;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::audit::{self, Act, Audit};
use crate::body::{Request, Response};
use crate::config::{Config, Invalid, Server};
use crate::current::Current;
use crate::dispatch::{Administered, Dispatch};
use crate::handover::{self, Estate, Offer, Sockets};
use crate::layers::client_addr::proof::{self, Secrets};
use crate::layers::response_cache;
use crate::listener::host::{Host, Plan};
use crate::listener::tls::{self, Certificates};
use crate::listener::{Pipeline, sockets};
use crate::live::{Live, LiveRegions, Rebuild};
use crate::pipeline;
use crate::region::geo::database::Database;
use crate::region::topology::Topology;
use crate::region::{self, Regions, geo};
use crate::streams::Streams;
use crate::{forward, live, sse, websocket};

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("starting the admin port")]
    Admin(#[source] admin::Error),
    #[error("opening the audit log")]
    Audit(#[source] audit::Error),
    #[error("making keys")]
    Keys,
    #[error(transparent)]
    HandOver(#[from] handover::Error),
    #[error("`server.upgrade_socket` is not set")]
    NoUpgradeSocket,
    #[error("setting up authentication")]
    Auth(#[source] nearfield_auth::Error),
    #[error("listening")]
    Bind(#[source] sockets::Error),
    #[error("setting up the cache")]
    Cache(#[source] response_cache::StartError),
    #[error("setting up shared quotas")]
    Quotas(#[source] nearfield_cache::redis::BadUrl),
    #[error("setting up where clients are")]
    Geo(#[source] geo::database::Error),
    #[error("the listener's host ended while it started")]
    Host,
    #[error("checking the settings")]
    Config(#[source] Invalid),
    #[error("setting up the proof of the perimeter")]
    Proof(#[source] proof::Error),
    #[error("starting QUIC")]
    Quic(#[source] std::io::Error),
    #[error("setting up the regions")]
    Regions(#[source] region::StartError),
    #[error("starting the listener's thread")]
    Thread(#[source] std::io::Error),
    #[error("loading the certificate")]
    Tls(#[source] tls::Error),
}

/// What the edge gives to the innermost service.
pub struct Inside {
    pub drain: Drain,
    /// The limits, for requests that come inside of a stream.
    pub admission: Arc<dyn websocket::Admission>,
    /// What `/debug` shows.
    pub views: Views,
    pub administered: Administered,
    /// Where streams are listed that may be closed when they are idle.
    pub streams: Streams,
    /// Settings of what stands behind the pipeline.
    pub served: Served,
}

/// Settings of streams and WebSockets, as they are in use.
#[derive(Clone)]
pub struct Served {
    pub stream: Current<sse::Config>,
    pub websocket: Current<websocket::Config>,
}

/// A running gateway. Dropping it hangs up on everybody; [`Gateway::shutdown`] lets them finish.
pub struct Gateway {
    https: Vec<SocketAddr>,
    admin: admin::Server,
    audit: Audit,
    live: Live,
    readiness: Readiness,
    drain: Drain,
    host: Host,
    views: Views,
    /// None once it has been handed over.
    estate: Option<Estate>,
    config: Server,
}

impl Gateway {
    /// Binds, builds the pipeline and returns once requests are answered. The listeners run on threads of their own;
    /// the admin port runs on the caller's runtime.
    ///
    /// # Errors
    /// When something in `config` cannot be had: an address, a certificate, a file.
    pub async fn start(config: Config) -> Result<Self, Error> {
        Self::start_with_searchds(config, None).await
    }

    /// The same with the sockets of the process at `server.upgrade_socket`, which drains once this one is ready.
    ///
    /// # Errors
    /// As [`Self::start`]; or when there is no such process, which serves on if anything fails.
    pub async fn take_over(config: Config) -> Result<Self, Error> {
        let path = config.server.upgrade_socket.clone().ok_or(Error::NoUpgradeSocket)?;
        let (offer, taking) = handover::ask(&path).await?;
        let gateway = Self::start_with_searchds(config, Some(offer)).await?;
        taking.take().await?;
        gateway.host.udp.iter().for_each(|socket| socket.take());
        Ok(gateway)
    }

    async fn start_with_searchds(config: Config, offer: Option<Offer>) -> Result<Self, Error> {
        let settings = config.clone();
        let first_checks = config.upstream.health.timeout;
        let mut registry = Registry::default();
        let metrics = forward::metrics::Metrics::register(&mut registry);
        let (tell, regions) = oneshot::channel();
        let build = move |inside: Inside| async move {
            let views = inside.views.clone();
            let (dispatch, regions) = dispatch(settings, inside, &metrics)?;
            // Nobody waits for them any more when the start has failed elsewhere.
            let _ = tell.send((regions, metrics, views, Handle::current()));
            Ok(dispatch)
        };
        let mut gateway = Self::start_with(config, offer, registry, build).await?;
        let (current, metrics, views, runtime) = regions.await.map_err(|_gone| Error::Host)?;
        let regions = Regions::clone(&current.get());
        // So that who asks right behind the start is told what is, not that it is not known yet.
        let _ = tokio::time::timeout(first_checks, regions.checked()).await;
        let readiness = gateway.readiness.clone();
        let following = LiveRegions::follow(regions, readiness.clone());
        gateway.live.set_regions(LiveRegions { current, metrics, views, runtime, readiness, following });
        Ok(gateway)
    }

    /// The same edge around another innermost service, which `inner` makes on the runtime that will call it.
    ///
    /// # Errors
    /// As [`Self::start`], and whatever `inner` fails with.
    pub async fn start_around<S, F, I>(config: Config, inner: I) -> Result<Self, Error>
    where
        S: hyper::service::Service<Request, Response = Response, Error = crate::error::Error>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
        F: Future<Output = Result<S, Error>> + Send + 'static,
        I: FnOnce(Inside) -> F + Send + Sync + 'static,
    {
        let gateway = Self::start_with(config, None, Registry::default(), inner).await?;
        gateway.readiness.set(State::Ready);
        Ok(gateway)
    }

    async fn start_with<S, F, I>(
        config: Config,
        offer: Option<Offer>,
        mut registry: Registry,
        inner: I,
    ) -> Result<Self, Error>
    where
        S: hyper::service::Service<Request, Response = Response, Error = crate::error::Error>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
        F: Future<Output = Result<S, Error>> + Send + 'static,
        I: FnOnce(Inside) -> F + Send + Sync + 'static,
    {
        Self::check(&config)?;
        let reloads = live::Metrics::register(&mut registry);
        let tls_metrics = tls::Metrics::register(&mut registry);
        let certificates = Arc::new(Certificates::load(config.tls.clone(), tls_metrics).map_err(Error::Tls)?);
        let (Sockets { sockets, admin }, mut estate) = Sockets::of(&config.listener, offer)?;
        let https: Vec<SocketAddr> = sockets.iter().map(|bound| bound.addr).collect();
        let drain = Drain::new();
        let readiness = Readiness::new();
        nearfield_telemetry::process::register(&mut registry);
        nearfield_telemetry::otlp::register(&mut registry);
        let authenticator = Current::from(Authenticator::start(&config.auth).await.map_err(Error::Auth)?);
        let audit = Audit::open(&config.audit, &mut registry).map_err(Error::Audit)?;
        let name = config.server.name();
        let administered = Administered { authenticator: authenticator.clone(), audit: audit.clone(), name };
        let context = pipeline::Context::new(&config, administered.clone(), readiness.clone(), &mut registry)?;
        let views = Views::default();
        context.show_in(&views);
        let (admission, streams) = (Arc::new(context.gate()), context.streams());
        let admin = admin::Server::start_on(admin, registry, readiness.clone(), views.clone()).map_err(Error::Admin)?;
        let shown = views.clone();
        let (stream, websocket) = (config.stream.clone(), config.websocket.clone());
        let served = Served { stream: Current::from(stream), websocket: Current::from(websocket) };
        let inside = Inside { drain: drain.clone(), admission, views, administered, streams, served: served.clone() };
        let (tell, built) = oneshot::channel();
        let first = context.clone();
        let build = async move || {
            let inner = inner(inside).await?;
            let pipeline = Pipeline::new(pipeline::build(first, inner.clone()));
            let rebuild: Rebuild = Box::new(move |context| pipeline::build(context, inner.clone()));
            // Nobody waits for it any more when the start has failed elsewhere.
            let _ = tell.send((pipeline.clone(), rebuild));
            Ok(pipeline)
        };
        let plan = Plan {
            threads: threads(config.server.threads),
            config: config.listener.clone(),
            sockets,
            certificates: certificates.clone(),
            door: context.door(),
            quic: (estate.mark, estate.secrets),
            drain: drain.clone(),
            build: Box::new(move || Box::pin(build())),
            interim: false,
        };
        let host = Host::start(plan).await?;
        estate.share(&host.udp);
        let built = built.await.map_err(|_gone| Error::Host)?;
        let server = config.server.clone();
        let live = Live::new(config, context, authenticator, certificates, served, built, reloads);
        let estate = Some(estate);
        Ok(Self { https, admin, audit, live, readiness, drain, host, estate, views: shown, config: server })
    }

    /// Reads what [`Self::start`] would read, without listening.
    ///
    /// # Errors
    /// What `start` would fail with before it binds.
    pub fn check(config: &Config) -> Result<(), Error> {
        tls::install_provider();
        config.check().map_err(Error::Config)?;
        Topology::load(config.topology.file.as_deref()).map_err(|e| Error::Regions(e.into()))?;
        Certificates::load(config.tls.clone(), tls::Metrics::default()).map_err(Error::Tls)?;
        Secrets::check(&config.client.proof).map_err(Error::Proof)?;
        config.client.geo.database.as_deref().map_or(Ok(()), Database::check).map_err(Error::Geo)?;
        Ok(())
    }

    /// The first address of `listener.https`, with its real port.
    pub fn https_addr(&self) -> SocketAddr {
        self.https[0]
    }

    /// All of them.
    pub fn https_addrs(&self) -> &[SocketAddr] {
        &self.https
    }

    pub fn admin_addr(&self) -> SocketAddr {
        self.admin.addr()
    }

    /// Reads the files of `[tls]` again, for TCP and QUIC. Needs a tokio runtime around it.
    ///
    /// # Errors
    /// The first that cannot be used; in its place the old one stays.
    pub fn reload_certificate(&self) -> Result<(), tls::Error> {
        let outcome = self.live.certificates.reload();
        let audit = self.audit.clone();
        let act = operated("certificate.reload", outcome.is_ok(), []);
        tokio::spawn(async move { audit.record(act).await });
        outcome
    }

    /// Goes on with `config`, which differs from what is in use in `changed`: whole, or not at all. Keys that need a restart
    /// ([`live::need_a_restart`]) keep their values.
    ///
    /// # Errors
    /// What [`Self::start`] would fail with.
    pub async fn apply(&self, config: Config, changed: &Changed) -> Result<(), Error> {
        let outcome = self.live.apply(config, changed).await;
        self.audit.record(operated("settings.reload", outcome.is_ok(), changed.keys())).await;
        outcome
    }

    /// Notes settings that were refused before they came to [`Self::apply`].
    pub async fn note_refused_settings(&self) {
        self.live.metrics.count(false);
        self.audit.record(operated("settings.reload", false, [])).await;
    }

    /// Shows in `/debug` which settings were set, and to what.
    pub fn show_settings(&self, values: &Values) {
        let shown = values.shown();
        self.views.add("settings", move || shown.clone());
    }

    /// What it takes to hand over; once. It keeps the listening sockets open, so it has to be gone before
    /// [`Self::shutdown`].
    pub fn take_estate(&mut self) -> Option<Estate> {
        self.estate.take()
    }

    /// Whoever looks at the admin port from now on is to see the process that has taken over.
    pub fn leave_admin(&self) {
        self.admin.close();
    }

    /// Stops admitting, tells every client so, waits until what was admitted is answered (at most
    /// `server.drain_timeout`), then ends. True when nothing had to be cut off.
    pub async fn shutdown(self) -> bool {
        // A listener that is still open here would go on taking connections for nobody.
        drop(self.estate);
        self.readiness.set(State::Draining);
        let finished = self.drain.finish(self.config.drain_timeout).await;
        if !finished {
            tracing::warn!(timeout = ?self.config.drain_timeout, "drain timed out, cutting off what is left");
        }
        self.host.stop().await;
        self.admin.stop().await;
        finished
    }
}

/// The innermost service: REST, SSE, WebSocket and gRPC to the searchds of the regions.
fn dispatch(
    config: Config,
    Inside { drain, admission, views, administered, streams, served }: Inside,
    metrics: &forward::metrics::Metrics,
) -> Result<(Dispatch, Current<Regions>), Error> {
    let Config { server, topology, upstream, .. } = config;
    let Served { stream, websocket } = served;
    let regions = Regions::start(&topology, &server.region, &upstream, metrics).map_err(Error::Regions)?;
    regions.show_in(&views);
    let regions = Current::from(regions);
    let authenticator = administered.authenticator.clone();
    let websockets = websocket::Server::new(websocket, regions.clone(), drain, admission, authenticator, streams);
    Ok((Dispatch::new(regions.clone(), websockets, stream, administered), regions))
}

/// An act of whoever may signal this process or write its files, who is not known by any other name.
fn operated<'a>(action: &'static str, taken: bool, on: impl IntoIterator<Item = &'a str>) -> Act {
    let outcome = if taken { "taken" } else { "refused" };
    let target = std::iter::once(outcome).chain(on.into_iter().take(MAX_KEYS_NAMED)).collect::<Vec<_>>().join(" ");
    Act { subject: "operator".to_owned(), action, target, ..Act::default() }
}

/// Of the keys that a reload changed, those that the audit log names.
const MAX_KEYS_NAMED: usize = 32;

pub(crate) fn threads(configured: usize) -> usize {
    match configured {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    }
}
