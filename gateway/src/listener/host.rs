//! The pingora server that hosts both transports, on a thread of its own.
//!
//! Everything runs as one pingora service, so on one runtime: the pipeline is built inside it, and the channels to
//! searchd live where their requests do. Stopping is ours: pingora's grace period is a fixed sleep, while a
//! [`Drain`] ends as soon as the last request has.

use std::future::Future;
use std::net::SocketAddr;
use std::os::fd::IntoRawFd;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use http::HeaderValue;
use nearfield_telemetry::drain::Drain;
use pingora_core::listeners::{L4BufferSettings, ListenerConfig};
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{ListenFds, RunArgs, Server, ShutdownSignal, ShutdownSignalWatch, ShutdownWatch};
use pingora_core::services::Service as _;
use pingora_core::services::listening::Service as Listening;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::connection::Shared;
use super::door::Door;
use super::sockets::Bound;
use super::tls::Certificates;
use super::{Config, Mark, Pipeline, QuicSecrets, SharedSocket, quic, tcp};
use crate::gateway::Error;

/// Makes the pipeline, on the runtime that will call it.
pub(crate) type Build =
    Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = Result<Pipeline, Error>> + Send>> + Send + Sync>;

/// What the host needs to start.
pub(crate) struct Plan {
    pub(crate) config: Config,
    pub(crate) threads: usize,
    pub(crate) sockets: Vec<Bound>,
    pub(crate) certificates: Arc<Certificates>,
    pub(crate) door: Arc<Door>,
    pub(crate) quic: (Mark, QuicSecrets),
    pub(crate) drain: Drain,
    pub(crate) build: Build,
    /// Whether the pipeline has answers to give before the final ones.
    pub(crate) interim: bool,
}

/// The running host.
pub(crate) struct Host {
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
    /// Those of QUIC, in the order of the plan's that have UDP.
    pub(crate) udp: Vec<Arc<SharedSocket>>,
}

type Ready = oneshot::Sender<Result<Vec<Arc<SharedSocket>>, Error>>;

impl Host {
    /// Returns once requests are answered.
    ///
    /// # Errors
    /// Whatever `plan.build` fails with, or a thread that cannot be made.
    pub(crate) async fn start(plan: Plan) -> Result<Self, Error> {
        let stop = CancellationToken::new();
        let (ready, is_ready) = oneshot::channel();
        let conf = ServerConf {
            threads: plan.threads,
            grace_period_seconds: Some(0),
            graceful_shutdown_timeout_seconds: Some(1),
            ..ServerConf::default()
        };
        let mut server = Server::new_with_opt_and_conf(None, conf);
        server.bootstrap();
        server.add_service(Edge { start: Some((plan, ready)), stop: stop.clone() });
        let signal = Stop(stop.clone());
        let thread = std::thread::Builder::new()
            .name("edge-host".to_owned())
            .spawn(move || server.run(RunArgs { shutdown_signal: Box::new(signal) }))
            .map_err(Error::Thread)?;
        let mut host = Self { stop, thread: Some(thread), udp: Vec::new() };
        host.udp = is_ready.await.map_err(|_closed| Error::Host)??;
        Ok(host)
    }

    /// Ends the runtime and waits for its thread.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the listener's thread panicked");
            }
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Pingora's signals, replaced: whoever owns the [`Host`] decides when it ends.
struct Stop(CancellationToken);

#[async_trait]
impl ShutdownSignalWatch for Stop {
    async fn recv(&self) -> ShutdownSignal {
        self.0.cancelled().await;
        // What was admitted is finished by now.
        ShutdownSignal::FastShutdown
    }
}

/// The one pingora service.
struct Edge {
    start: Option<(Plan, Ready)>,
    stop: CancellationToken,
}

#[async_trait]
impl pingora_core::services::Service for Edge {
    async fn start_service(&mut self, fds: Option<ListenFds>, _shutdown: ShutdownWatch, listeners_per_fd: usize) {
        let Some((plan, ready)) = self.start.take() else { return };
        let answered = match run(plan, fds, listeners_per_fd).await {
            Ok((udp, running)) => {
                // The starter may have given up; then it stops us too.
                let _gone = ready.send(Ok(udp));
                running.await;
                return;
            }
            Err(error) => ready.send(Err(error)),
        };
        drop(answered);
        self.stop.cancel();
    }

    fn name(&self) -> &str {
        "edge"
    }
}

/// Builds the pipeline and hands the sockets over. The future it gives is the serving itself, until the drain.
async fn run(
    plan: Plan,
    fds: Option<ListenFds>,
    listeners_per_fd: usize,
) -> Result<(Vec<Arc<SharedSocket>>, impl Future<Output = ()>), Error> {
    let Plan { config, sockets, certificates, door, quic: (mark, secrets), drain, build, interim, .. } = plan;
    let pipeline = build().await?;
    let fds = fds.ok_or(Error::Host)?;
    let alt_svc = alt_svc(&config, &sockets);
    let shared = Arc::new(Shared { config, drain: drain.clone(), pipeline, door, alt_svc, interim });
    let app = tcp::App { certificates: certificates.clone(), shared: shared.clone() };
    let mut listening = Listening::new("https".to_owned(), app);
    let (mut endpoints, mut udp) = (Vec::new(), Vec::new());
    for bound in sockets {
        let name = bound.addr.to_string();
        // Pingora takes sockets it finds in this table for its own, as it does after a hot upgrade.
        fds.lock().add(name.clone(), bound.tcp.into_raw_fd());
        // rustls and hyper have buffers of their own; pingora's would cost every idle connection again.
        listening.add_listener(ListenerConfig::tcp(name).l4_buffer(L4BufferSettings::unbuffered()));
        if let Some(bound) = bound.udp {
            let (endpoint, socket) = quic::endpoint(bound, (mark, secrets), &shared, &certificates)?;
            endpoints.push(endpoint);
            udp.push(socket);
        }
    }
    let (closing, close) = watch::channel(false);
    let serving = async move {
        let watching = tokio::spawn(certificates.clone().watch());
        let closer = async {
            drain.started().await;
            watching.abort();
            // Receivers may be gone already.
            let _gone = closing.send(true);
        };
        let accepting = listening.start_service(Some(fds), close, listeners_per_fd);
        let quic = futures::future::join_all(
            endpoints.iter().map(|endpoint| quic::serve(endpoint, certificates.clone(), secrets, shared.clone())),
        );
        tokio::join!(accepting, quic, closer);
    };
    Ok((udp, serving))
}

fn alt_svc(config: &Config, sockets: &[Bound]) -> Option<HeaderValue> {
    let port = sockets.iter().find(|b| b.udp.is_some()).map(|b: &Bound| SocketAddr::port(&b.addr))?;
    HeaderValue::from_str(&format!("h3=\":{port}\"; ma={}", config.http3.alt_svc_max_age.as_secs())).ok()
}
