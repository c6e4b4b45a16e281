//! The gateway as a value: start it, ask where it listens, drain it.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use nearfield_auth::Authenticator;
use nearfield_telemetry::admin;
use nearfield_telemetry::debug::Views;
use nearfield_telemetry::drain::Drain;
use nearfield_telemetry::readiness::{Readiness, State};
use prometheus_client::registry::Registry;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use crate::audit::{self, Act, Audit};
use crate::body::{Request, Response};
use crate::config::{Config, Invalid, Server};
use crate::dispatch::{Administered, Dispatch};
use crate::layers::client_addr::proof::{self, Secrets};
use crate::listener::host::{Host, Plan};
use crate::listener::sockets;
use crate::listener::tls::{self, Certificates};
use crate::pipeline;
use crate::region::geo::database::Database;
use crate::region::topology::Topology;
use crate::region::{self, Regions, geo};
use crate::{forward, websocket};

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("starting the admin port")]
    Admin(#[source] admin::Error),
    #[error("opening the audit log")]
    Audit(#[source] audit::Error),
    #[error("setting up authentication")]
    Auth(#[source] nearfield_auth::Error),
    #[error("listening")]
    Bind(#[source] sockets::Error),
    #[error("setting up the cache")]
    Cache(#[source] nearfield_cache::redis::BadUrl),
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
    pub streams: websocket::Connections,
}

/// A running gateway. Dropping it hangs up on everybody; [`Gateway::shutdown`] lets them finish.
pub struct Gateway {
    https: Vec<SocketAddr>,
    admin: admin::Server,
    audit: Audit,
    certificates: Arc<Certificates>,
    readiness: Readiness,
    drain: Drain,
    host: Host,
    /// Keeps the readiness in step with the regions' health.
    following: Option<AbortOnDropHandle<()>>,
    /// Watches what the process uses.
    _sampling: Option<AbortOnDropHandle<()>>,
    config: Server,
}

impl Gateway {
    /// Binds, builds the pipeline and returns once requests are answered. The listeners run on threads of their own;
    /// the admin port runs on the caller's runtime.
    ///
    /// # Errors
    /// When something in `config` cannot be had: an address, a certificate, a file.
    pub async fn start(config: Config) -> Result<Self, Error> {
        let settings = config.clone();
        let first_checks = config.upstream.health.timeout;
        let mut registry = Registry::default();
        let metrics = forward::metrics::Metrics::register(&mut registry);
        let (tell, regions) = oneshot::channel();
        let build = move |inside| async move {
            let (dispatch, regions) = dispatch(settings, inside, &metrics)?;
            // Nobody waits for them any more when the start has failed elsewhere.
            let _ = tell.send(regions);
            Ok(dispatch)
        };
        let mut gateway = Self::start_with(config, registry, build).await?;
        let regions = regions.await.map_err(|_gone| Error::Host)?;
        // So that who asks right behind the start is told what is, not that it is not known yet.
        let _ = tokio::time::timeout(first_checks, regions.checked()).await;
        let readiness = gateway.readiness.clone();
        let following = tokio::spawn(async move {
            let ready = |healthy| if healthy { State::Ready } else { State::Unready("no searchd answers") };
            regions.follow(|healthy| readiness.set(ready(healthy))).await;
        });
        gateway.following = Some(AbortOnDropHandle::new(following));
        Ok(gateway)
    }

    /// The same edge around another innermost service, which `inner` makes on the runtime that will call it.
    ///
    /// # Errors
    /// As [`Self::start`], and whatever `inner` fails with.
    pub async fn start_around<S, F, I>(config: Config, inner: I) -> Result<Self, Error>
    where
        S: tower::Service<Request, Response = Response, Error = crate::error::Error> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        F: Future<Output = Result<S, Error>> + Send + 'static,
        I: FnOnce(Inside) -> F + Send + Sync + 'static,
    {
        let gateway = Self::start_with(config, Registry::default(), inner).await?;
        gateway.readiness.set(State::Ready);
        Ok(gateway)
    }

    async fn start_with<S, F, I>(config: Config, mut registry: Registry, inner: I) -> Result<Self, Error>
    where
        S: tower::Service<Request, Response = Response, Error = crate::error::Error> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        F: Future<Output = Result<S, Error>> + Send + 'static,
        I: FnOnce(Inside) -> F + Send + Sync + 'static,
    {
        Self::check(&config)?;
        let tls_metrics = tls::Metrics::register(&mut registry);
        let certificates = Arc::new(Certificates::load(config.tls.clone(), tls_metrics).map_err(Error::Tls)?);
        let sockets = sockets::bind(&config.listener.https, config.listener.http3.enabled).map_err(Error::Bind)?;
        let https: Vec<SocketAddr> = sockets.iter().map(|bound| bound.addr).collect();
        let drain = Drain::new();
        let readiness = Readiness::new();
        nearfield_telemetry::process::register(&mut registry);
        let authenticator = Arc::new(Authenticator::start(&config.auth).await.map_err(Error::Auth)?);
        let audit = Audit::open(&config.audit, &mut registry).map_err(Error::Audit)?;
        let administered = Administered { authenticator, audit: audit.clone() };
        let context = pipeline::Context::new(&config, administered.clone(), readiness.clone(), &mut registry)?;
        let views = Views::default();
        let admin = admin::Server::start(config.listener.admin, registry, readiness.clone(), views.clone())
            .await
            .map_err(Error::Admin)?;
        let (admission, streams) = (Arc::new(context.gate()), context.streams());
        let inside = Inside { drain: drain.clone(), admission, views, administered, streams };
        let sampling = context.sampler().map(|sampler| AbortOnDropHandle::new(tokio::spawn(sampler.run())));
        let plan = Plan {
            threads: threads(config.server.threads),
            config: config.listener.clone(),
            sockets,
            certificates: certificates.clone(),
            door: context.door(),
            drain: drain.clone(),
            build: Box::new(move || Box::pin(async move { Ok(pipeline::build(context, inner(inside).await?)) })),
            interim: false,
        };
        let host = Host::start(plan).await?;
        Ok(Self {
            https,
            admin,
            audit,
            certificates,
            readiness,
            drain,
            host,
            following: None,
            _sampling: sampling,
            config: config.server,
        })
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
        let outcome = self.certificates.reload();
        // Whoever may signal this process is not known by any other name.
        let act = Act {
            subject: "operator".to_owned(),
            action: "certificate.reload",
            target: if outcome.is_ok() { "taken" } else { "refused" }.to_owned(),
            ..Act::default()
        };
        let audit = self.audit.clone();
        tokio::spawn(async move { audit.record(act).await });
        outcome
    }

    /// Stops admitting, tells every client so, waits until what was admitted is answered (at most
    /// `server.drain_timeout`), then ends. True when nothing had to be cut off.
    pub async fn shutdown(self) -> bool {
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
    Inside { drain, admission, views, administered, streams }: Inside,
    metrics: &forward::metrics::Metrics,
) -> Result<(Dispatch, Regions), Error> {
    let Config { server, topology, upstream, stream, websocket, .. } = config;
    let regions = Regions::start(&topology, &server.region, &upstream, metrics).map_err(Error::Regions)?;
    regions.show_in(&views);
    let authenticator = administered.authenticator.clone();
    let websockets = websocket::Server::new(websocket, regions.clone(), drain, admission, authenticator, streams);
    Ok((Dispatch::new(regions.clone(), websockets, stream, administered), regions))
}

pub(crate) fn threads(configured: usize) -> usize {
    match configured {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    }
}
