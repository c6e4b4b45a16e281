//! From a question to its answer: what is stored, if it is good enough; else what comes of asking, which one asks for
//! all that wait.

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderValue, Method, StatusCode};
use nearfield_cache::semantics::request::Verdict;
use nearfield_cache::{Age, Entry, Found, Metrics, Tier};

use super::answer::{self, Source, age_of};
use super::asked::{Asked, Exchange};
use super::fill::{Failure, Fill, From, Kept, Outcome};
use super::status::{self, Why};
use super::subject::Known;
use super::{Cache, Inner, MAX_JOINS, SERVER_TIMING, Shared};
use crate::body::Response;
use crate::error::Error;
use crate::layers::rate_limit::toll::Toll;
use crate::request::Deadline;

impl Cache {
    pub(super) async fn answer<S: Inner>(
        &self,
        inner: Arc<S>,
        known: Arc<Known>,
        asked: Asked,
        exchange: Exchange,
    ) -> Result<Response, Error> {
        let started = Instant::now();
        let is_hot = self.0.heat.note(&known, &exchange);
        let found = self.find(&known, &asked, &exchange);
        if let Some(found) = &found {
            let verdict = asked.judge(found);
            if verdict != Verdict::Ask
                && let Some(hit) = self.hit(&known, found, &asked, &exchange, started)
            {
                if verdict == Verdict::GiveAndAsk {
                    self.refresh(inner, known, exchange, Arc::clone(&found.entry), |_, _| {});
                } else if is_hot {
                    self.keep_hot(&inner, &known, &asked, &exchange, found);
                }
                return Ok(hit);
            }
        }
        // In a box of its own: what a miss remembers is many times what a hit does.
        Box::pin(self.look_further(inner, known, asked, exchange, found, started)).await
    }

    /// Answers what memory does not.
    async fn look_further<S: Inner>(
        &self,
        inner: Arc<S>,
        known: Arc<Known>,
        asked: Asked,
        mut exchange: Exchange,
        found: Option<Found>,
        started: Instant,
    ) -> Result<Response, Error> {
        if asked.demand.only_if_cached {
            return self.only_if_cached(&known, &asked, &exchange, started).await;
        }
        if exchange.parts.method == Method::HEAD {
            if known.is_resource() {
                return self.head(inner, known, exchange, found).await;
            }
            // Answered from what a GET finds.
            exchange.head().method = Method::GET;
        }
        self.miss(inner, known, asked, exchange, found).await
    }

    /// What memory has: the whole, or a part of it where a part is asked for.
    fn find(&self, known: &Known, asked: &Asked, exchange: &Exchange) -> Option<Found> {
        let (tiers, headers) = (&self.0.tiers, &exchange.parts.headers);
        let whole = tiers.peek(&known.key, headers);
        if asked.range.is_none() || whole.as_ref().is_some_and(|found| matches!(found.age, Age::Fresh { .. })) {
            return whole;
        }
        tiers.peek(&known.key.part(), headers).or(whole)
    }

    pub(super) async fn bypass<S: Inner>(
        &self,
        inner: Arc<S>,
        exchange: Exchange,
        status: HeaderValue,
    ) -> Result<Response, Error> {
        Metrics::count(&self.0.tiers.metrics.bypassed);
        let mut response = inner.call(exchange.into_request()).await?;
        response.headers_mut().insert(http::header::CACHE_CONTROL, answer::NO_STORE);
        status::tell(&mut response, status);
        Ok(response)
    }

    fn hit(
        &self,
        known: &Known,
        found: &Found,
        asked: &Asked,
        exchange: &Exchange,
        started: Instant,
    ) -> Option<Response> {
        let source = Source { known, entry: &found.entry, age: age_of(found.age), first_hand: None };
        let mut response = answer::of(source, asked, &exchange.parts)?;
        self.count_hit(found.tier);
        status::tell(&mut response, status::hit(found));
        answer::timed(&mut response, started);
        Some(response)
    }

    fn count_hit(&self, tier: Tier) {
        let metrics = &self.0.tiers.metrics;
        Metrics::count(match tier {
            Tier::Disk => &metrics.hits_disk,
            Tier::Memory => &metrics.hits_memory,
            Tier::Redis => &metrics.hits_redis,
        });
    }

    /// Asks behind the caller's back, once for all that are given the old answer (RFC 5861 section 3). `told` is called
    /// with what came of it, unless somebody is asking already.
    pub(super) fn refresh<S: Inner>(
        &self,
        inner: Arc<S>,
        known: Arc<Known>,
        exchange: Exchange,
        found: Arc<Entry>,
        told: impl FnOnce(&Outcome, &Metrics) + Send + 'static,
    ) {
        let Shared { tiers, flights, .. } = &*self.0;
        let key = tiers.resolve(known.key, &exchange.parts.headers);
        let epoch = tiers.invalidation.purged(&known.tags);
        let fill = Fill { cache: self.clone(), known, exchange, found: Some(found), origin_only: true, shared: true };
        let metrics = Arc::clone(&tiers.metrics);
        let ask = || async move {
            let outcome = fill.run(inner).await;
            told(&outcome, &metrics);
            outcome
        };
        drop(flights.fly((key, epoch), ask));
    }

    async fn only_if_cached(
        &self,
        known: &Known,
        asked: &Asked,
        exchange: &Exchange,
        started: Instant,
    ) -> Result<Response, Error> {
        let behind = self.0.tiers.fetch(&known.key, &exchange.parts.headers).await;
        let good = behind.filter(|found| asked.judge(found) != Verdict::Ask);
        let hit = good.and_then(|found| self.hit(known, &found, asked, exchange, started));
        Ok(hit.unwrap_or_else(|| answer::failed(&Error::NotCached, &exchange.parts, status::NOT_CACHED)))
    }

    async fn miss<S: Inner>(
        &self,
        inner: Arc<S>,
        known: Arc<Known>,
        asked: Asked,
        mut exchange: Exchange,
        found: Option<Found>,
    ) -> Result<Response, Error> {
        // Each that waits for the answer pays, whoever asks for it in the end.
        if let Some(toll) = exchange.head().extensions.remove::<Toll>() {
            toll.pay(known.units())?;
        }
        let deadline = exchange.parts.extensions.get().map(|Deadline(at)| *at);
        let why = self.why(&known, &asked, found.as_ref());
        let stale = found.map(|found| found.entry);
        // Who wants a new answer does not wait for one that was asked for before.
        let mut origin_only = asked.demand.no_cache;
        let mut alone = origin_only || asked.range.is_some() || self.0.uncached.contains_key(&known.key);
        for round in 0..=MAX_JOINS {
            alone |= round == MAX_JOINS;
            let fill = Fill {
                cache: self.clone(),
                known: Arc::clone(&known),
                exchange: exchange.clone(),
                found: stale.clone(),
                origin_only,
                shared: !alone,
            };
            let (outcome, joined) = self.ask_once(fill, inner.clone(), deadline).await?;
            match &*outcome {
                // It was asked for by a request that chooses another variant.
                Outcome::Kept(kept) if joined && !self.is_for(kept, &known, &exchange) => {}
                Outcome::Kept(kept) if kept.from.is_behind() && self.too_old(kept, &asked) => {
                    (origin_only, alone) = (true, true);
                }
                Outcome::Kept(kept) => match self.landed(kept, why, joined, &known, &asked, &exchange) {
                    Some(response) => return Ok(response),
                    None => alone = true,
                },
                Outcome::Passed(once) => {
                    let passed = once.lock().take();
                    return self.passed(passed, inner, &known, exchange, why, asked.head).await;
                }
                // The one that asked had less time than this one has.
                Outcome::Failed { failure: Failure::Error(error), .. }
                    if joined && matches!(**error, Error::DeadlineExceeded) && has_time(deadline) => {}
                Outcome::Failed { failure, stale: behind } => {
                    let stale = stale.or_else(|| behind.clone());
                    return self.failed(failure, stale, why, &known, &asked, &exchange);
                }
            }
        }
        Err(Error::DeadlineExceeded)
    }

    /// Runs `fill`, or waits for another like it when it may be shared; and whether that was another's.
    async fn ask_once<S: Inner>(
        &self,
        fill: Fill,
        inner: Arc<S>,
        deadline: Option<Instant>,
    ) -> Result<(Arc<Outcome>, bool), Error> {
        let Shared { tiers, flights, .. } = &*self.0;
        let (landed, joined) = if fill.shared {
            let key = tiers.resolve(fill.known.key, &fill.exchange.parts.headers);
            let epoch = tiers.invalidation.purged(&fill.known.tags);
            let flight = flights.fly((key, epoch), || fill.run(inner));
            let joined = flight.joined;
            (within(deadline, flight.landed()).await, joined)
        } else {
            (within(deadline, async { Ok(fill.run(inner).await) }).await, false)
        };
        if joined {
            Metrics::count(&tiers.metrics.coalesced);
        }
        match landed {
            Ok(Ok(outcome)) => Ok((outcome, joined)),
            Ok(Err(lost)) => Err(Error::Internal(Arc::new(lost))),
            Err(_elapsed) => {
                let failure = Failure::Error(Arc::new(Error::DeadlineExceeded));
                Ok((Arc::new(Outcome::Failed { failure, stale: None }), joined))
            }
        }
    }

    fn why(&self, known: &Known, asked: &Asked, found: Option<&Found>) -> Why {
        if asked.demand.no_cache {
            return Why::Request;
        }
        match found {
            Some(found) if found.entry.span.is_some() => Why::Partial,
            Some(found) if matches!(found.age, Age::Fresh { .. }) => Why::Request,
            Some(_) => Why::Stale,
            None if self.0.tiers.has_variants(&known.key) => Why::Vary,
            None => Why::Miss,
        }
    }

    /// Does the request of `exchange` choose the variant that was kept?
    fn is_for(&self, kept: &Kept, known: &Known, exchange: &Exchange) -> bool {
        kept.key == known.key || kept.key == self.0.tiers.resolve(known.key, &exchange.parts.headers)
    }

    fn too_old(&self, kept: &Kept, asked: &Asked) -> bool {
        let age = kept.entry.age(self.0.tiers.clock.now());
        asked.judge_entry(age, &kept.entry) == Verdict::Ask
    }

    fn landed(
        &self,
        kept: &Kept,
        why: Why,
        joined: bool,
        known: &Known,
        asked: &Asked,
        exchange: &Exchange,
    ) -> Option<Response> {
        let Shared { tiers, .. } = &*self.0;
        let entry = &kept.entry;
        let age = entry.age(tiers.clock.now());
        let leads = kept.from == From::Origin && !joined;
        let source = Source {
            known,
            entry,
            age: if leads || !kept.stored && !kept.from.is_behind() { None } else { age_of(age) },
            first_hand: kept.first_hand.clone().filter(|_| leads),
        };
        let mut response = answer::of(source, asked, &exchange.parts)?;
        let status = match kept.from {
            From::Behind(tier) => {
                self.count_hit(tier);
                status::hit(&Found { entry: Arc::clone(entry), age, tier })
            }
            From::Origin => status::asked(why, entry, kept.stored, joined),
            From::Validated => status::validated(why, kept.stored, joined),
        };
        if !kept.from.is_behind() && !joined {
            Metrics::count(&tiers.metrics.misses);
        }
        status::tell(&mut response, status);
        if let Some(timing) = kept.timing.as_ref().filter(|_| !known.is_resource()) {
            response.headers_mut().append(SERVER_TIMING, timing.clone());
        }
        Some(response)
    }

    /// An answer that is not to be shared: the first to come has it, the others ask for themselves.
    async fn passed<S: Inner>(
        &self,
        passed: Option<Response>,
        inner: Arc<S>,
        known: &Known,
        exchange: Exchange,
        why: Why,
        head: bool,
    ) -> Result<Response, Error> {
        Metrics::count(&self.0.tiers.metrics.misses);
        let mut response = match passed {
            Some(response) => response,
            None => inner.call(exchange.into_request()).await?,
        };
        if !known.is_resource() {
            answer::unkept(&mut response);
        }
        if head {
            answer::drop_body(&mut response);
        }
        let status = status::not_stored(why, response.status());
        status::tell(&mut response, status);
        Ok(response)
    }

    /// The failure, or an old answer in its place.
    fn failed(
        &self,
        failure: &Failure,
        stale: Option<Arc<Entry>>,
        why: Why,
        known: &Known,
        asked: &Asked,
        exchange: &Exchange,
    ) -> Result<Response, Error> {
        let Shared { tiers, .. } = &*self.0;
        let code = match failure {
            Failure::Error(error) => answer::status_of(error),
            Failure::Status(status) => *status,
        };
        if let Some(entry) = stale.filter(|entry| code.is_server_error() && self.stands_in(entry))
            && let Some(age) = tiers.age(&entry)
        {
            let source = Source { known, entry: &entry, age: age_of(age), first_hand: None };
            if let Some(mut response) = answer::of(source, asked, &exchange.parts) {
                Metrics::count(&tiers.metrics.stale);
                status::tell(&mut response, status::stale(age, code));
                return Ok(response);
            }
        }
        Metrics::count(&tiers.metrics.misses);
        let status = status::not_stored(why, code);
        match failure {
            Failure::Error(error) => Ok(answer::failed(error, &exchange.parts, status)),
            Failure::Status(status) => Err(upstream_failed(*status)),
        }
    }

    /// May `entry` be given in place of a failure?
    pub(super) fn stands_in(&self, entry: &Arc<Entry>) -> bool {
        match self.0.tiers.age(entry) {
            Some(Age::Fresh { .. }) => true,
            Some(Age::Stale { by, .. }) => by < entry.lifetime.if_error,
            Some(Age::Dead) | None => false,
        }
    }
}

/// An origin failed, and the old answer that was there when it was asked has gone since.
fn upstream_failed(status: StatusCode) -> Error {
    tonic::Status::unavailable(format!("the origin answered {status}")).into()
}

async fn within<T>(
    deadline: Option<Instant>,
    future: impl Future<Output = T>,
) -> Result<T, tokio::time::error::Elapsed> {
    match deadline {
        Some(at) => tokio::time::timeout_at(at.into(), future).await,
        None => Ok(future.await),
    }
}

fn has_time(deadline: Option<Instant>) -> bool {
    deadline.is_none_or(|at| tokio::time::Instant::now() < at.into())
}
