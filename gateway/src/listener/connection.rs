//! One connection: HTTP/1.1 or HTTP/2, as ALPN chose, spoken by hyper over whatever carries bytes.
//!
//! The protocol is known from the handshake, so the first bytes are not sniffed; a drain that comes before them can
//! then say goodbye in the right language instead of hanging up.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use nearfield_telemetry::drain::Drain;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tower::ServiceExt;

use super::activity::{Activity, InFlight};
use super::watched::Watched;
use super::{Config, Service};
use crate::body::{self, Held};
use crate::request::{ClientAddr, Transport};

/// What all connections of a listener share.
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) drain: Drain,
    pub(super) service: Service,
    /// Told on HTTP/1.1 and HTTP/2 answers when HTTP/3 is served too.
    pub(super) alt_svc: Option<HeaderValue>,
}

/// After a drain began, how long a client that connected just before may take to send its first request.
const FIRST_REQUEST_GRACE: Duration = Duration::from_millis(500);

/// Serves `io` until it closes. Protocol errors end the connection and concern nobody else.
pub(super) async fn serve<I>(io: I, slot: OwnedSemaphorePermit, http2: bool, peer: SocketAddr, shared: Arc<Shared>)
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let activity = Activity::new();
    let transport = if http2 { Transport::Http2 } else { Transport::Http1 };
    let adapter = Adapter { peer, transport, activity: activity.clone(), shared: shared.clone() };
    let io = Watched::new(io, slot, activity.clone(), !http2);
    if http2 {
        let connection = h2_builder(&shared.config).serve_connection(TokioIo::new(io), adapter);
        drive(connection, http2::Connection::graceful_shutdown, transport, &activity, &shared).await;
    } else {
        let connection = h1_builder(&shared.config).serve_connection(TokioIo::new(io), adapter).with_upgrades();
        drive(connection, http1::UpgradeableConnection::graceful_shutdown, transport, &activity, &shared).await;
    }
}

fn h1_builder(config: &Config) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // `Activity` keeps this time, apart from the idle time.
        .header_read_timeout(None)
        .max_headers(config.http1.max_headers)
        .max_header_size(config.http1.max_header_bytes)
        .max_buf_size(config.http1.max_header_bytes.max(MIN_H1_BUFFER));
    builder
}

/// hyper panics below this.
const MIN_H1_BUFFER: usize = 8192;

fn h2_builder(config: &Config) -> http2::Builder<TokioExecutor> {
    let limits = &config.http2;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_concurrent_streams)
        .max_header_list_size(limits.max_header_bytes)
        .max_pending_accept_reset_streams(limits.max_reset_streams)
        .max_local_error_reset_streams(limits.max_error_resets)
        .initial_stream_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_send_buf_size(limits.max_send_buffer)
        .keep_alive_interval(limits.keep_alive_interval)
        .keep_alive_timeout(limits.keep_alive_timeout)
        .enable_connect_protocol();
    builder
}

/// Polls the connection to its end, asking it to finish when the drain starts or it has been idle for too long.
async fn drive<C, E>(
    connection: C,
    finish: impl Fn(Pin<&mut C>),
    transport: Transport,
    activity: &Activity,
    shared: &Shared,
) where
    C: Future<Output = Result<(), E>>,
    E: std::error::Error + 'static,
{
    let mut connection = pin!(connection);
    let mut timer = pin!(tokio::time::sleep(shared.config.idle_timeout));
    let mut finishing = false;
    let mut draining = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(?transport, error = &error as &dyn std::error::Error, "connection ended");
                }
                return;
            }
            () = shared.drain.started(), if !draining => {
                draining = true;
                if transport == Transport::Http1 && activity.is_fresh() {
                    timer.as_mut().reset(Instant::now() + FIRST_REQUEST_GRACE);
                } else {
                    finishing = true;
                    finish(connection.as_mut());
                }
            }
            () = timer.as_mut() => {
                let now = Instant::now();
                if transport == Transport::Http1
                    && activity.head_due(shared.config.http1.header_timeout).is_some_and(|due| due <= now)
                {
                    // The socket answers 408 and ends its input; hyper then closes.
                    activity.expire_head();
                } else if !finishing && (draining || activity.idle_at(shared.config.idle_timeout).is_some_and(|at| at <= now)) {
                    finishing = true;
                    finish(connection.as_mut());
                }
                timer.as_mut().reset(next_look(now, transport, activity, &shared.config));
            }
        }
        if draining && !finishing && !activity.is_fresh() {
            // The request that the grace waited for is here; its answer will say `Connection: close`.
            finishing = true;
            finish(connection.as_mut());
        }
    }
}

/// The next moment at which a timeout can have passed. Looking once a second would cost idle connections more than
/// their memory; looking at the earliest possible moment costs a few wake-ups in a connection's life.
fn next_look(now: Instant, transport: Transport, activity: &Activity, config: &Config) -> Instant {
    if activity.is_busy() {
        return now + config.idle_timeout;
    }
    let idle = activity.idle_at(config.idle_timeout).filter(|at| *at > now).unwrap_or(now + config.idle_timeout);
    let head = match transport {
        // A head may begin at any moment after this look, so it is looked for once per header timeout.
        Transport::Http1 => activity.head_due(config.http1.header_timeout).unwrap_or(now + config.http1.header_timeout),
        Transport::Http2 | Transport::Http3 => return idle,
    };
    idle.min(head.max(now + MIN_LOOK))
}

const MIN_LOOK: Duration = Duration::from_millis(10);

/// hyper's service for one connection: says where the request came from and calls the pipeline.
struct Adapter {
    peer: SocketAddr,
    transport: Transport,
    activity: Arc<Activity>,
    shared: Arc<Shared>,
}

impl hyper::service::Service<http::Request<Incoming>> for Adapter {
    type Response = http::Response<Held<InFlight>>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let in_flight = self.activity.begin();
        let mut request = request.map(incoming);
        request.extensions_mut().insert(ClientAddr(self.peer));
        request.extensions_mut().insert(self.transport);
        let answer = self.shared.service.clone().oneshot(request);
        let alt_svc = self.shared.alt_svc.clone();
        Box::pin(async move {
            let mut response = answer.await?;
            if let Some(alt_svc) = alt_svc {
                response.headers_mut().insert(http::header::ALT_SVC, alt_svc);
            }
            Ok(response.map(|body| Held::new(body, in_flight)))
        })
    }
}

fn incoming(body: Incoming) -> body::Body {
    if http_body::Body::is_end_stream(&body) { body::empty() } else { body::boxed(body) }
}
