//! Says how much each request matters, and by the level of pressure lets some go: users are throttled, and of what is not
//! premium traffic a share is shed.
//!
//! It stands behind authentication, which knows the caller's plan. Premium traffic is throttled last: only while new
//! connections are refused, too.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, Ready, ready};
use governor::clock::DefaultClock;
use http::HeaderMap;
use nearfield_auth::Principal;

use super::class::Class;
use super::criticality::Criticality;
use super::metrics::{Metrics, Reason};
use super::pressure::Level;
use super::sampler::Gauge;
use super::{Config, jittered};
use crate::body::{Request, Response};
use crate::error::Error;
use crate::layers::classify;
use crate::layers::rate_limit::announce::Standings;
use crate::layers::rate_limit::limiter::{Key, Limiter, Means};
use crate::layers::rate_limit::plan::Plans;
use crate::request::Caller;
use crate::route::Route;

#[derive(Clone)]
pub(crate) struct Layer(Arc<Shared>);

struct Shared {
    plans: Arc<Plans>,
    gauge: Gauge,
    /// Absent when rate limits are off.
    throttle: Option<Arc<Limiter<DefaultClock>>>,
    shed_share: f64,
    retry_after: Duration,
    metrics: Metrics,
}

impl Layer {
    pub(super) fn new(config: &Config, plans: Arc<Plans>, means: &Means, gauge: Gauge, metrics: Metrics) -> Self {
        Self(Arc::new(Shared {
            throttle: plans.enabled().then(|| throttle(None, config, means)),
            plans,
            gauge,
            shed_share: config.pressure.shed_share,
            retry_after: config.retry_after,
            metrics,
        }))
    }

    pub(super) fn renewed(&self, config: &Config, plans: Arc<Plans>, means: &Means) -> Self {
        let Shared { throttle: before, gauge, metrics, .. } = &*self.0;
        Self(Arc::new(Shared {
            throttle: plans.enabled().then(|| throttle(before.as_ref(), config, means)),
            plans,
            gauge: gauge.clone(),
            shed_share: config.pressure.shed_share,
            retry_after: config.retry_after,
            metrics: metrics.clone(),
        }))
    }

    /// How much a request matters.
    ///
    /// # Errors
    /// When it is one of those that go, or says of itself what is no criticality.
    pub(crate) fn judge(
        &self,
        route: Route,
        class: Class,
        principal: Option<&Principal>,
        headers: &HeaderMap,
        standings: Option<&Standings>,
    ) -> Result<Criticality, Error> {
        let shared = &*self.0;
        let plan = principal.map_or(Criticality::Normal, |principal| shared.plans.of(principal).criticality);
        let criticality = Criticality::of(route, plan, headers)?;
        let level = shared.gauge.level();
        if level == Level::Calm || criticality == Criticality::Critical {
            return Ok(criticality);
        }
        let premium = criticality >= Criticality::High;
        if level >= Level::Refuse && !premium && rand::random::<f64>() < shared.shed_share {
            shared.metrics.shed(class, criticality, Reason::Pressure);
            let reason = "the server is at the end of what it has";
            return Err(Error::Shed { reason, retry_after: jittered(shared.retry_after) });
        }
        if let (Some(principal), Some(throttle)) = (principal, &shared.throttle)
            && (!premium || level >= Level::Refuse)
        {
            let (standing, passed) = throttle.check(Key::of_user(principal), 1);
            if let Some(standings) = standings {
                standings.add(standing);
            }
            passed?;
        }
        Ok(criticality)
    }
}

fn throttle(before: Option<&Arc<Limiter<DefaultClock>>>, config: &Config, means: &Means) -> Arc<Limiter<DefaultClock>> {
    // Another gateway may be at ease.
    let alone = Means { shares: None, ..means.clone() };
    Limiter::renewed(before, "overload", config.pressure.user_per_second, &alone, DefaultClock::default())
}

impl<S> tower::Layer<S> for Layer {
    type Service = Service<S>;

    fn layer(&self, inner: S) -> Service<S> {
        Service { inner, layer: self.clone() }
    }
}

pub(crate) struct Service<S> {
    inner: S,
    layer: Layer,
}

impl<S: hyper::service::Service<Request, Response = Response, Error = Error>> hyper::service::Service<Request>
    for Service<S>
{
    type Response = Response;
    type Error = Error;
    type Future = Either<S::Future, Ready<Result<Response, Error>>>;

    fn call(&self, mut request: Request) -> Self::Future {
        let principal = request.extensions().get().map(|Caller(principal)| &**principal);
        let (route, class) = (classify::route(&request), Class::of(&request));
        let standings = request.extensions().get::<Standings>();
        match self.layer.judge(route, class, principal, request.headers(), standings) {
            Ok(criticality) => {
                request.extensions_mut().insert(criticality);
                Either::Left(self.inner.call(request))
            }
            Err(error) => Either::Right(ready(Err(error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::layers::rate_limit;

    fn principal(subject: &str, plan: &str) -> Principal {
        let plan = Some(plan.to_owned());
        Principal { subject: subject.to_owned(), plan, ..Principal::default() }
    }

    /// How many of 1000 requests pass at a level.
    fn passing(limits: bool, level: Level, plan: &str, route: Route) -> usize {
        let limits = rate_limit::Config { enabled: limits, ..rate_limit::Config::default() };
        let gauge = Gauge::default();
        gauge.set(level);
        let metrics = Metrics::register(&mut Registry::default());
        let layer = Layer::new(&Config::default(), Arc::new(Plans::new(&limits)), &Means::alone(), gauge, metrics);
        let caller = principal("ada", plan);
        let judge = || layer.judge(route, Class::of_route(route), Some(&caller), &HeaderMap::new(), None);
        (0..1000).filter(|_| judge().is_ok()).count()
    }

    #[test]
    fn users_are_throttled_and_premium_ones_last() {
        let about_ten = 10..=15;
        assert_eq!(passing(true, Level::Calm, "standard", Route::Search), 1000);
        assert!(about_ten.contains(&passing(true, Level::Throttle, "standard", Route::Search)));
        assert_eq!(passing(true, Level::CloseIdle, "premium", Route::Search), 1000);
        assert!(about_ten.contains(&passing(true, Level::Refuse, "premium", Route::Search)));
        assert_eq!(passing(true, Level::Refuse, "free", Route::CachePurge), 1000);
    }

    #[test]
    fn a_fifth_of_what_is_not_premium_is_shed() {
        assert_eq!(passing(false, Level::CloseIdle, "standard", Route::Search), 1000);
        let passed = passing(false, Level::Refuse, "standard", Route::Search);
        assert!((700..900).contains(&passed), "{passed}");
        assert_eq!(passing(false, Level::Refuse, "premium", Route::Search), 1000);
    }
}
