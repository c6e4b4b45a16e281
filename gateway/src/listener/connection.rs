//! One connection: HTTP/1.1 or HTTP/2, as ALPN chose, spoken by hyper over whatever carries bytes.
//!
//! The protocol is known from the handshake, so the first bytes are not sniffed; a drain that comes before them can
//! then say goodbye in the right language instead of hanging up.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Method, header};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use nearfield_telemetry::drain::Drain;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::activity::{Activity, InFlight};
use super::door::{Door, Limit, Place};
use super::h2_frames::Frames;
use super::inline::Inline;
use super::interim::Outbox;
use super::patience::{Patience, Verdict};
use super::watched::Watched;
use super::{Config, Pipeline};
use crate::body::{self, BodyError};
use crate::cork::{Cork, Turns};
use crate::request::{ClientAddr, Early, Leases, PeerIdentity, Transport};

/// What all connections of a listener share.
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) drain: Drain,
    pub(super) pipeline: Pipeline,
    pub(super) door: Arc<Door>,
    /// Told on HTTP/1.1 and HTTP/2 answers when HTTP/3 is served too.
    pub(super) alt_svc: Option<HeaderValue>,
    /// Whether requests may be answered by more than one head.
    pub(super) interim: bool,
}

/// Who is at the other end.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) addr: SocketAddr,
    /// By its certificate.
    pub(super) identity: Option<PeerIdentity>,
    /// While it may be somebody who sends again what another has sent.
    pub(super) early: Option<Early>,
}

impl Peer {
    /// Tells the pipeline.
    pub(super) fn mark(&self, extensions: &mut http::Extensions) {
        extensions.insert(ClientAddr(self.addr));
        if let Some(identity) = &self.identity {
            extensions.insert(identity.clone());
        }
        if let Some(early) = &self.early {
            extensions.insert(early.clone());
        }
    }
}

/// Serves `io` until it closes. Protocol errors end the connection and concern nobody else.
pub(super) async fn serve<I>(io: I, place: Place, http2: bool, peer: Peer, shared: Arc<Shared>)
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let activity = Activity::new();
    let transport = if http2 { Transport::Http2 } else { Transport::Http1 };
    let client = peer.addr.ip();
    let outbox = (shared.interim && !http2).then(Arc::<Outbox>::default);
    let io = Watched::new(io, place, activity.clone(), !http2, outbox.clone());
    let adapter = Adapter { peer, transport, activity: activity.clone(), shared: shared.clone(), outbox };
    let config = &shared.config;
    if http2 {
        let patience = Patience::new(config.idle_timeout, config.send_timeout, config.http2.header_timeout, false);
        let turns = Turns::default();
        let io = TokioIo::new(Cork::new(Frames::new(io, activity.clone()), Some(turns.clone())));
        let connection = h2_builder(config).serve_connection(io, adapter);
        drive(Box::pin(connection), http2::Connection::graceful_shutdown, turns, patience, &activity, &shared, client)
            .await;
    } else {
        let patience = Patience::new(config.idle_timeout, config.send_timeout, config.http1.header_timeout, true);
        let connection = h1_builder(config).serve_connection(TokioIo::new(io), adapter).with_upgrades();
        let finish = http1::UpgradeableConnection::graceful_shutdown;
        drive(Box::pin(connection), finish, Turns::default(), patience, &activity, &shared, client).await;
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

fn h2_builder(config: &Config) -> http2::Builder<Inline> {
    let limits = &config.http2;
    let mut builder = http2::Builder::new(Inline);
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

/// Polls the connection to its end, asking it to finish when the drain starts or it has been idle for too long. It comes in
/// a box, since a future keeps what it was given beside what it moved it to, and room for the larger of two protocols.
async fn drive<C, E>(
    mut connection: Pin<Box<C>>,
    finish: impl Fn(Pin<&mut C>),
    turns: Turns,
    mut patience: Patience,
    activity: &Activity,
    shared: &Shared,
    client: IpAddr,
) where
    C: Future<Output = Result<(), E>>,
    E: std::error::Error + 'static,
{
    let mut timer = pin!(tokio::time::sleep_until(patience.next_look(activity, Instant::now())));
    let (mut draining, mut is_told) = (false, false);
    // At once: a client that is shown out is listened to for a while yet, and may be back by then.
    let mut tell = || {
        if let Some(limit) = activity.cut_for().filter(|_| !is_told) {
            is_told = true;
            shared.door.cut(limit, Some(client));
        }
    };
    loop {
        let ended = std::future::poll_fn(|cx| {
            turns.next();
            let polled = connection.as_mut().poll(cx);
            tell();
            polled
        });
        let verdict = tokio::select! {
            ended = ended => {
                if let Err(error) = ended {
                    if is_calm(&error) {
                        activity.cut(Limit::Http2Frames);
                    }
                    tracing::debug!(error = &error as &dyn std::error::Error, "connection ended");
                }
                break;
            }
            () = shared.drain.started(), if !draining => {
                draining = true;
                patience.drain(activity, Instant::now())
            }
            () = timer.as_mut() => patience.look(activity, Instant::now()),
        };
        match verdict {
            // The socket answers and ends its input; hyper then closes.
            Verdict::ExpireHead => {
                activity.cut(Limit::Head);
                activity.expire_head();
            }
            Verdict::Finish => finish(connection.as_mut()),
            Verdict::HangUp => break,
            Verdict::CutOff => {
                activity.cut(Limit::Answer);
                break;
            }
            Verdict::Wait => {}
        }
        timer.as_mut().reset(patience.next_look(activity, Instant::now()));
    }
    tell();
}

/// Whether h2 ended the connection because its client was too much.
fn is_calm(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .filter_map(|error| error.downcast_ref::<h2::Error>())
        .any(|error| error.is_library() && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM))
}

/// hyper's service for one connection: says where the request came from and calls the pipeline.
struct Adapter {
    peer: Peer,
    transport: Transport,
    activity: Arc<Activity>,
    shared: Arc<Shared>,
    outbox: Option<Arc<Outbox>>,
}

impl hyper::service::Service<http::Request<Incoming>> for Adapter {
    type Response = http::Response<Answer>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let in_flight = self.activity.begin();
        let mut request = request.map(|body| incoming(body, &self.activity));
        self.peer.mark(request.extensions_mut());
        request.extensions_mut().insert(self.transport);
        if request.method() == Method::CONNECT || request.headers().contains_key(header::UPGRADE) {
            // The answer to an upgrade has no body to hold these until the end.
            let leases = Leases::default();
            leases.keep((self.activity.begin(), self.shared.drain.admit()));
            request.extensions_mut().insert(leases);
        }
        let outbox = self.outbox.clone();
        if let Some(outbox) = &outbox {
            request.extensions_mut().insert(outbox.begin());
        }
        let alt_svc = self.shared.alt_svc.clone();
        let draining = (self.transport == Transport::Http1).then(|| self.shared.drain.clone());
        // Where a body in chunks ends, readers disagree (bare line feeds in trailers): nothing is read behind it.
        let is_last = draining.is_some() && request.headers().contains_key(header::TRANSFER_ENCODING);
        let answer = self.shared.pipeline.call(request);
        Box::pin(async move {
            let mut response = match outbox {
                Some(outbox) => announced(answer, &outbox).await?,
                None => answer.await?,
            };
            if let Some(alt_svc) = alt_svc {
                response.headers_mut().insert(header::ALT_SVC, alt_svc);
            }
            // hyper says so by itself once it was asked to finish, but an answer may be faster than that.
            let closes = is_last || draining.is_some_and(|drain| drain.has_started());
            if closes && response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response.map(|body| Answer { body, in_flight, last: 0 }))
        })
    }
}

/// An answer that others may come before.
async fn announced<F: Future>(answer: F, outbox: &Outbox) -> F::Output {
    let mut answer = pin!(answer);
    let output = std::future::poll_fn(|cx| {
        outbox.watch(cx);
        answer.as_mut().poll(cx)
    })
    .await;
    std::future::poll_fn(|cx| outbox.poll_end(cx)).await;
    output
}

/// An answer's body, which tells whether its client takes it: hyper asks for more when there is room for more.
struct Answer {
    body: body::Body,
    in_flight: InFlight,
    /// Bytes of the piece that was handed out last.
    last: usize,
}

/// Larger pieces are not the end of an answer until more has been asked for: then they were taken. hyper drops what has
/// ended, and nobody would see that its client takes nothing.
const UNWATCHED_MAX: usize = 16 * 1024;

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        this.in_flight.asked();
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            this.last = frame.data_ref().map_or(0, Bytes::len);
            this.in_flight.handed();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.last <= UNWATCHED_MAX && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// hyper's body, which says when it was given up before its end.
struct Unread {
    inner: Incoming,
    activity: Arc<Activity>,
}

fn incoming(inner: Incoming, activity: &Arc<Activity>) -> body::Body {
    if inner.is_end_stream() { body::empty() } else { body::boxed(Unread { inner, activity: activity.clone() }) }
}

impl http_body::Body for Unread {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        if !self.inner.is_end_stream() {
            self.activity.leave_unread();
        }
    }
}
