//! One call as a race of attempts: one, until it fails, is late or hangs; then others elsewhere, as far as the call's
//! safety and the budgets allow. The first answer wins, and the others are cancelled.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::HeaderMap;
use tonic::{Code, Status};
use tracing::Instrument;

use super::balance::Key;
use super::connection::{Failure, Unreachable};
use super::endpoint::Endpoint;
use super::grpc;
use super::members::Tried;
use super::retry::Safety;
use super::upstream::{Call, Cluster};
use crate::body::Body;
use crate::error::Error;

/// How one attempt ended.
enum Outcome<T> {
    Answer(T),
    /// searchd's own word.
    Told(Status),
    /// UNAVAILABLE: it drains or starts, and did nothing. An answer that is none looks the same.
    Unavailable(Status),
    Broken(hyper::Error),
    Unsent(Unreachable),
}

/// An attempt, ready to be sent.
struct Attempt {
    number: u32,
    endpoint: Arc<Endpoint>,
    request: http::Request<Body>,
    span: tracing::Span,
}

/// An attempt under way.
struct Flight {
    number: u32,
    endpoint: Arc<Endpoint>,
    started: Instant,
    is_hedge: bool,
    is_hung: bool,
}

pub(super) struct Race<'a> {
    cluster: &'a Cluster,
    call: &'a Call<'a>,
    frame: Bytes,
    key: Key,
    home: Option<Key>,
    tried: Tried,
    started: u32,
    flights: Vec<Flight>,
    repeats: u32,
    /// When a repeat's pause is over.
    resume_at: Option<Instant>,
    hedge_at: Option<Instant>,
    /// After which silence is taken for a hang.
    patience: Option<Duration>,
    last: Error,
}

impl<'a> Race<'a> {
    pub(super) fn new(cluster: &'a Cluster, call: &'a Call<'a>, frame: Bytes) -> Self {
        let now = Instant::now();
        let patience = cluster.patience(call.class, now);
        let hedge_at = cluster.hedge_delay(call.class, now).map(|delay| now + delay);
        Self {
            cluster,
            call,
            frame,
            key: call.key,
            home: call.home,
            tried: Tried::default(),
            started: 0,
            flights: Vec::with_capacity(1),
            repeats: 0,
            resume_at: None,
            hedge_at,
            patience,
            last: Error::NoRegion,
        }
    }

    pub(super) async fn run<T, F, R>(mut self, read: R) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Status>>,
        R: Fn(http::Response<Body>) -> F,
    {
        let fly = async |Attempt { number, endpoint, request, .. }| {
            let outcome = match endpoint.send(request).await {
                Err(Failure::Unsent { cause, .. }) => Outcome::Unsent(cause),
                Err(Failure::Broken(error)) => Outcome::Broken(error),
                Ok(response) => match read(response).await {
                    Ok(answer) => Outcome::Answer(answer),
                    Err(status) if status.code() == Code::Unavailable => Outcome::Unavailable(status),
                    Err(status) => Outcome::Told(status),
                },
            };
            (number, outcome)
        };
        let mut flying = FuturesUnordered::new();
        let mut launch = true;
        loop {
            if std::mem::take(&mut launch)
                && let Some(attempt) = self.next()?
            {
                let span = attempt.span.clone();
                flying.push(fly(attempt).instrument(span));
            }
            if flying.is_empty() && self.resume_at.is_none() {
                return Err(self.last);
            }
            tokio::select! {
                biased;
                Some((number, outcome)) = flying.next() => {
                    let landed = self.flights.iter().position(|flight| flight.number == number);
                    let flight = self.flights.swap_remove(landed.expect("every attempt is on the list"));
                    match outcome {
                        Outcome::Answer(answer) => {
                            self.won(&flight);
                            return Ok(answer);
                        }
                        Outcome::Told(status) => launch = self.told(&flight, status)?,
                        Outcome::Unavailable(status) => launch = self.failed(&flight, status.into(), false),
                        Outcome::Broken(error) => {
                            tracing::warn!(endpoint = %flight.endpoint.id, error = &error as &dyn std::error::Error, "upstream call failed");
                            launch = self.failed(&flight, broken(), false);
                        }
                        Outcome::Unsent(cause) => {
                            tracing::warn!(endpoint = %flight.endpoint.id, error = &cause as &dyn std::error::Error, "no connection to searchd");
                            launch = self.failed(&flight, Error::NoRegion, true);
                        }
                    }
                }
                () = until(self.wake()) => launch = self.woken()?,
            }
        }
    }

    /// The next attempt, if there is anybody left to ask.
    fn next(&mut self) -> Result<Option<Attempt>, Error> {
        let members = self.cluster.members.load();
        let chosen = if self.started < self.cluster.config.retry.attempts {
            members.choose(self.key, &self.tried)
        } else {
            None
        };
        let Some(endpoint) = chosen else { return Ok(None) };
        self.tried.add(endpoint);
        let mut headers = self.call.headers.cloned().unwrap_or_else(|| HeaderMap::with_capacity(8));
        self.cluster.write(self.call.context, &mut headers)?;
        let is_hedge = !self.flights.is_empty();
        let span = tracing::info_span!(
            target: "span",
            "upstream",
            otel.kind = "client",
            rpc.system = "grpc",
            rpc.method = self.call.path,
            server.address = %endpoint.origin.authority,
            attempt = self.started,
            hedge = is_hedge,
        );
        nearfield_telemetry::trace_context::pass_on(&span, &mut headers);
        let request = grpc::request(&endpoint.origin, self.call.path, headers, self.frame.clone());
        let number = self.started;
        self.started += 1;
        let (endpoint, started) = (endpoint.clone(), Instant::now());
        self.flights.push(Flight { number, endpoint: endpoint.clone(), started, is_hedge, is_hung: false });
        Ok(Some(Attempt { number, endpoint, request, span }))
    }

    fn won(&self, flight: &Flight) {
        let (counters, now) = (&self.cluster.counters, Instant::now());
        counters.answered.fetch_add(1, Ordering::Relaxed);
        if flight.is_hedge {
            counters.hedges_won.fetch_add(1, Ordering::Relaxed);
        }
        let took = now - flight.started;
        let timed = self.call.class.hedges();
        flight.endpoint.answered(false, timed.then_some(took));
        self.cluster.latency(self.call.class).record(took, now);
        // Those that are cancelled would have taken longer than this.
        for loser in self.flights.iter().filter(|_| timed) {
            loser.endpoint.dawdled(now - loser.started);
            self.cluster.latency(self.call.class).record(now - loser.started, now);
        }
    }

    /// True: ask again, where the collection's writes go.
    fn told(&mut self, flight: &Flight, status: Status) -> Result<bool, Error> {
        self.cluster.counters.answered.fetch_add(1, Ordering::Relaxed);
        let is_failure = matches!(status.code(), Code::DataLoss | Code::Internal | Code::Unknown);
        flight.endpoint.answered(is_failure, None);
        let members = self.cluster.members.load();
        let owner = self.home.and_then(|home| members.choose(home, &Tried::default()));
        let is_elsewhere = owner.is_some_and(|owner| !Arc::ptr_eq(owner, &flight.endpoint));
        if status.code() == Code::NotFound && is_elsewhere {
            (self.key, self.home) = (self.home.unwrap_or(self.key), None);
            self.last = status.into();
            return Ok(true);
        }
        Err(status.into())
    }

    /// True: ask again at once.
    fn failed(&mut self, flight: &Flight, error: Error, is_unsent: bool) -> bool {
        self.last = error;
        self.cluster.counters.failed.fetch_add(1, Ordering::Relaxed);
        if !flight.is_hung {
            self.cluster.note_failure(&flight.endpoint);
        }
        if self.started >= self.cluster.config.retry.attempts || self.resume_at.is_some() {
            return false;
        }
        if !is_unsent && !self.may_repeat(&flight.endpoint) {
            return false;
        }
        self.cluster.counters.repeated.fetch_add(1, Ordering::Relaxed);
        if is_unsent {
            return true;
        }
        self.resume_at = Some(Instant::now() + self.cluster.config.retry.pause(self.repeats));
        self.repeats += 1;
        false
    }

    /// What an endpoint had in hand when it was ejected may go elsewhere for nothing: those calls come to no more than
    /// its share, of which the others take care now anyway.
    fn may_repeat(&self, endpoint: &Endpoint) -> bool {
        self.call.class.safety() == Safety::Repeatable
            && (endpoint.ejected().is_some() || self.cluster.budget.withdraw())
    }

    /// When something is to be done, if nothing comes before.
    fn wake(&self) -> Option<Instant> {
        let hangs = self.patience.into_iter().flat_map(|patience| {
            self.flights.iter().filter(|flight| !flight.is_hung).map(move |flight| flight.started + patience)
        });
        hangs.chain(self.call.context.deadline).chain(self.resume_at).chain(self.hedge_at).min()
    }

    /// True: ask somebody else.
    fn woken(&mut self) -> Result<bool, Error> {
        let now = Instant::now();
        if self.call.context.deadline.is_some_and(|deadline| now >= deadline) {
            self.hung(now);
            return Err(Error::DeadlineExceeded);
        }
        if self.resume_at.is_some_and(|at| now >= at) {
            self.resume_at = None;
            return Ok(true);
        }
        if self.hedge_at.is_some_and(|at| now >= at) {
            self.hedge_at = None;
            let hedges = self.flights.len() == 1 && self.cluster.hedges.withdraw();
            if hedges {
                self.cluster.counters.hedged.fetch_add(1, Ordering::Relaxed);
            }
            return Ok(hedges);
        }
        let asks_others = self.hung(now).is_some_and(|endpoint| self.may_repeat(&endpoint));
        if asks_others {
            self.cluster.counters.repeated.fetch_add(1, Ordering::Relaxed);
        }
        Ok(asks_others)
    }

    /// Notes who has been silent for too long; the last of them, when nobody else is being asked.
    fn hung(&mut self, now: Instant) -> Option<Arc<Endpoint>> {
        let patience = self.patience.unwrap_or(self.cluster.config.retry.patience);
        for flight in self.flights.iter_mut().filter(|f| !f.is_hung && now >= f.started + patience) {
            flight.is_hung = true;
            self.cluster.counters.hung.fetch_add(1, Ordering::Relaxed);
            self.cluster.note_failure(&flight.endpoint);
        }
        let all = self.flights.iter().all(|flight| flight.is_hung);
        self.flights.last().filter(|_| all).map(|flight| flight.endpoint.clone())
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

pub(super) fn broken() -> Error {
    Status::unavailable("the connection to searchd broke").into()
}
