//! One searchd: its connections, how it stands, and the calls it has in hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http_body::Frame;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Config;
use super::balance::Key;
use super::connection::{Connection, Failure, Lease, Origin, Settings};
use super::health::{self, Observation, State, Tracker};
use super::load::Load;
use super::outlier::{self, Ejection, Reason, Tally};
use super::upstream::Changes;
use crate::body::{self, Body};

/// One address that answers calls.
pub(crate) struct Endpoint {
    /// The URL as configured; it is what Maglev hashes.
    pub id: String,
    pub origin: Origin,
    pub load: Arc<Load>,
    /// Slots; the first ones are filled before the later ones are opened.
    connections: Vec<Arc<Connection>>,
    /// Checks have a connection of their own, so that full ones do not make the endpoint look ill.
    checks: Arc<Connection>,
    streams_per_connection: usize,
    standing: Mutex<Standing>,
    failures_in_a_row: AtomicU32,
    tallied: Tallied,
    health_config: health::Config,
    slow_start: Duration,
    changes: Changes,
    /// Asks for a check now.
    pub recheck: Arc<Notify>,
}

/// What decides whether calls go here.
struct Standing {
    health: Tracker,
    ejection: Ejection,
    /// When it came to the cluster, or came back well: it is given its clients little by little.
    since: Option<Instant>,
    draining_since: Option<Instant>,
}

/// This interval's calls, as they are counted.
#[derive(Default)]
struct Tallied {
    calls: AtomicU64,
    failures: AtomicU64,
    timed: AtomicU64,
    latency_micros: AtomicU64,
}

/// How an endpoint compares as a place for a call; the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rank {
    /// Healthy, or not checked yet.
    Well,
    /// It has just refused a call.
    Suspect,
    /// Well by its checks, but worse than its equals.
    Ejected,
    /// Ill, or on its way out.
    Out,
}

impl Endpoint {
    /// `is_first`: its cluster begins with it, so there is nobody who could spare it calls.
    pub(crate) fn new(id: &str, origin: Origin, config: &Config, changes: &Changes, is_first: bool) -> Self {
        let settings = Settings {
            connect_timeout: config.connect_timeout,
            keep_alive_interval: config.keep_alive_interval,
            keep_alive_timeout: config.keep_alive_timeout,
            drain_timeout: config.drain_timeout,
        };
        let recheck = Arc::new(Notify::new());
        let connection = || Arc::new(Connection::new(origin.clone(), settings.clone(), recheck.clone()));
        let since = (!is_first).then(Instant::now);
        let (health, ejection) = (Tracker::default(), Ejection::default());
        Self {
            id: id.to_owned(),
            load: Arc::new(Load::new()),
            connections: (0..config.connections_max).map(|_| connection()).collect(),
            checks: connection(),
            streams_per_connection: config.streams_per_connection,
            standing: Mutex::new(Standing { health, ejection, since, draining_since: None }),
            failures_in_a_row: AtomicU32::new(0),
            tallied: Tallied::default(),
            health_config: config.health.clone(),
            slow_start: config.slow_start,
            recheck,
            changes: changes.clone(),
            origin,
        }
    }

    pub(crate) fn state(&self) -> State {
        self.standing.lock().health.state()
    }

    pub(crate) fn is_eager(&self) -> bool {
        self.standing.lock().health.is_eager()
    }

    pub(crate) fn rank(&self) -> Rank {
        let standing = self.standing.lock();
        match standing.health.state() {
            State::Draining | State::Unhealthy => Rank::Out,
            State::Healthy | State::Suspect | State::Unknown if standing.is_ejected() => Rank::Ejected,
            State::Suspect => Rank::Suspect,
            State::Healthy | State::Unknown => Rank::Well,
        }
    }

    /// Takes in what a check or a call told of this endpoint.
    pub(crate) fn observe(&self, observation: Observation) {
        let changed = {
            let mut standing = self.standing.lock();
            let before = standing.health.state();
            let changed = standing.health.observe(observation, &self.health_config);
            if let Some(state) = changed {
                standing.draining_since = (state == State::Draining).then(Instant::now);
                if state == State::Healthy && matches!(before, State::Draining | State::Unhealthy) {
                    standing.since = Some(Instant::now());
                }
            }
            changed
        };
        if let Some(state) = changed {
            tracing::info!(endpoint = %self.id, ?state, ?observation, "upstream health changed");
            self.changes.send_replace(());
        }
        if observation == Observation::Refused {
            self.recheck.notify_one();
        }
    }

    /// Should this key's read go to somebody else, if there is one?
    pub(crate) fn spares(&self, key: Key) -> bool {
        key.may_spill() && key.is_among(1.0 - self.share())
    }

    /// The share of its clients that it is given now: less than 1 while it is loaded, or warms up.
    pub(crate) fn share(&self) -> f64 {
        let since = self.standing.lock().since;
        let warm = since.map_or(1.0, |since| warmth(since.elapsed(), self.slow_start));
        if warm >= 1.0 && since.is_some() {
            self.standing.lock().since = None;
        }
        warm * (1.0 - self.load.spilled_share())
    }

    /// An answer came, whatever it said.
    pub(crate) fn answered(&self, is_failure: bool, latency: Option<Duration>) {
        self.failures_in_a_row.store(0, Ordering::Relaxed);
        self.tallied.calls.fetch_add(1, Ordering::Relaxed);
        if is_failure {
            self.tallied.failures.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(latency) = latency {
            self.dawdled(latency);
        }
    }

    /// A call took so long, or longer when it was given up.
    pub(crate) fn dawdled(&self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.tallied.timed.fetch_add(1, Ordering::Relaxed);
        self.tallied.latency_micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// A call broke, hung, could not be sent, or was answered with nonsense: how many did so in a row.
    pub(crate) fn failed(&self) -> u32 {
        self.tallied.calls.fetch_add(1, Ordering::Relaxed);
        self.tallied.failures.fetch_add(1, Ordering::Relaxed);
        self.recheck.notify_one();
        self.failures_in_a_row.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// What came since the last call of this.
    pub(crate) fn take_tally(&self) -> Tally {
        let Tallied { calls, failures, timed, latency_micros } = &self.tallied;
        let take = |counter: &AtomicU64| counter.swap(0, Ordering::Relaxed);
        let latency = Duration::from_micros(take(latency_micros));
        Tally { calls: take(calls), failures: take(failures), timed: take(timed), latency }
    }

    /// Ejects it. Its connections take no new calls: one of them may be what ails it.
    pub(crate) fn eject(&self, reason: Reason, config: &outlier::Config) {
        let now = Instant::now();
        let (until, times) = {
            let mut standing = self.standing.lock();
            (standing.ejection.eject(reason, now, config), standing.ejection.times())
        };
        self.failures_in_a_row.store(0, Ordering::Relaxed);
        self.connections.iter().for_each(|connection| connection.retire());
        tracing::warn!(endpoint = %self.id, reason = reason.label(), times, time = ?until - now, "upstream ejected");
        self.changes.send_replace(());
    }

    /// Why it is ejected, and for how much longer.
    pub(crate) fn ejected(&self) -> Option<(Reason, Duration)> {
        self.standing.lock().ejection.now(Instant::now())
    }

    /// Lets it back when its time has come; an interval without a new reason counts in its favour.
    pub(crate) fn end_ejection(&self, is_well: bool) {
        let ended = {
            let mut standing = self.standing.lock();
            let ended = standing.ejection.end(Instant::now());
            if ended {
                standing.since = Some(Instant::now());
            } else if is_well {
                standing.ejection.forgive();
            }
            ended
        };
        if ended {
            tracing::info!(endpoint = %self.id, "upstream ejection ended");
            self.changes.send_replace(());
        }
    }

    /// Ends what is left of calls when it has been on its way out for so long.
    pub(crate) fn cut_if_drained(&self, drain_timeout: Duration) {
        let since = self.standing.lock().draining_since;
        if since.is_some_and(|since| since.elapsed() >= drain_timeout) && self.in_flight() > 0 {
            tracing::warn!(endpoint = %self.id, in_flight = self.in_flight(), "cutting off calls of a draining upstream");
            self.cut();
        }
    }

    /// Ends all connections with their calls.
    pub(crate) fn cut(&self) {
        self.connections.iter().chain([&self.checks]).for_each(|connection| connection.cut());
    }

    pub(crate) fn forget_check_connection(&self) {
        self.checks.cut();
    }

    /// Sends a request over the connection with room, and hands back an answer that frees its place when it ends.
    pub(crate) async fn send(&self, request: http::Request<Body>) -> Result<http::Response<Body>, Failure> {
        let sent = self.connection().send(request).await;
        if let Err(Failure::Unsent { cause, .. }) = &sent {
            let error = cause as &dyn std::error::Error;
            tracing::debug!(endpoint = %self.id, error, "upstream call not sent");
            self.observe(Observation::Refused);
        }
        Ok(self.answer(sent?))
    }

    /// The same for a health check.
    pub(crate) async fn send_check(&self, request: http::Request<Body>) -> Result<http::Response<Body>, Failure> {
        Ok(self.answer(self.checks.send(request).await?))
    }

    fn answer(&self, (response, lease): (http::Response<hyper::body::Incoming>, Lease)) -> http::Response<Body> {
        response.map(|incoming| body::boxed(Answer { incoming, load: self.load.clone(), _lease: lease }))
    }

    /// The first connection with room; the least loaded when all are full.
    fn connection(&self) -> &Arc<Connection> {
        let roomy = self.connections.iter().find(|c| c.streams() < self.streams_per_connection);
        roomy.unwrap_or_else(|| {
            self.connections.iter().min_by_key(|c| c.streams()).expect("an endpoint has at least one connection")
        })
    }

    /// Calls whose answers have not ended.
    pub(crate) fn in_flight(&self) -> usize {
        self.connections.iter().map(|c| c.streams()).sum()
    }
}

impl Standing {
    fn is_ejected(&self) -> bool {
        self.ejection.now(Instant::now()).is_some()
    }
}

/// The share of its clients that an endpoint gets so long after it came: from a tenth to all, evenly.
fn warmth(age: Duration, slow_start: Duration) -> f64 {
    let part = age.as_secs_f64() / slow_start.as_secs_f64().max(f64::MIN_POSITIVE);
    (COLD_SHARE + (1.0 - COLD_SHARE) * part).min(1.0)
}

const COLD_SHARE: f64 = 0.1;

/// An answer's body: holds its place on the connection until it ends or is dropped, and keeps the load that it tells.
struct Answer {
    incoming: hyper::body::Incoming,
    load: Arc<Load>,
    _lease: Lease,
}

impl http_body::Body for Answer {
    type Data = bytes::Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<bytes::Bytes>, hyper::Error>>> {
        std::pin::Pin::new(&mut self.incoming).poll_frame(context).map_ok(|mut frame| {
            if let Some(trailers) = frame.trailers_mut() {
                self.load.take(trailers);
            }
            frame
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.incoming.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newcomer_gets_its_clients_little_by_little() {
        let warm = |seconds| warmth(Duration::from_secs(seconds), Duration::from_secs(30));
        assert_eq!(warm(0), COLD_SHARE);
        assert!((warm(15) - 0.55).abs() < 1e-9);
        assert_eq!((warm(30), warm(3_000)), (1.0, 1.0));
        assert_eq!(warmth(Duration::from_nanos(1), Duration::ZERO), 1.0, "slow start is off");
    }
}
