//! The listeners and the cache alone, in front of one HTTP origin: no callers, no limits, no routes of ours. What suites
//! of HTTP caching, and comparisons with other caches, run against.

mod origin;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Authority;
use nearfield_telemetry::drain::Drain;
use prometheus_client::registry::Registry;
use tower::ServiceBuilder;

use crate::config::Server;
use crate::gateway::{Error, threads};
use crate::layers::{rescue, response_cache};
use crate::listener::door::Door;
use crate::listener::host::{Host, Plan};
use crate::listener::tls::{self, Certificates};
use crate::listener::{self, Mark, Pipeline, QuicSecrets, sockets};

/// What of a gateway's settings counts here.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub listener: listener::Config,
    pub tls: tls::Config,
    pub cache: response_cache::Config,
    /// Threads that serve; 0 for one a core.
    pub threads: usize,
}

/// A running front. Dropping it hangs up on everybody.
pub struct Front {
    addr: SocketAddr,
    drain: Drain,
    host: Host,
}

impl Front {
    /// Binds and returns once requests are answered, from the cache or by `origin` over HTTP/1.1.
    ///
    /// # Errors
    /// As of a gateway's start.
    pub async fn start(config: Config, origin: Authority) -> Result<Self, Error> {
        tls::install_provider();
        let certificates = Arc::new(Certificates::load(config.tls, tls::Metrics::default()).map_err(Error::Tls)?);
        let sockets = sockets::bind(&config.listener.https, config.listener.http3.enabled).map_err(Error::Bind)?;
        let addr = sockets[0].addr;
        let mark = Mark::random().map_err(|_unspecified| Error::Keys)?;
        let secrets = QuicSecrets::random().map_err(|_unspecified| Error::Keys)?;
        let drain = Drain::new();
        let cache = config.cache;
        let build = move || async move {
            let name = Server::default().name();
            let cache = response_cache::Cache::start(&cache, &name, &mut Registry::default()).map_err(Error::Cache)?;
            let service = ServiceBuilder::new()
                .layer(rescue::Layer)
                .layer(response_cache::resource::Layer { cache })
                .service(origin::Origin::new(origin));
            Ok(Pipeline::new(Arc::new(service)))
        };
        let door = Arc::new(Door::new(&config.listener, &[], &mut Registry::default()));
        let plan = Plan {
            threads: threads(config.threads),
            config: config.listener,
            sockets,
            certificates,
            door,
            quic: (mark, secrets),
            drain: drain.clone(),
            build: Box::new(move || Box::pin(build())),
            interim: true,
        };
        Ok(Self { addr, drain, host: Host::start(plan).await? })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Lets what was admitted finish, at most for `patience`.
    pub async fn stop(self, patience: Duration) {
        self.drain.finish(patience).await;
        self.host.stop().await;
    }
}
