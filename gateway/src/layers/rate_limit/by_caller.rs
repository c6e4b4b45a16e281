//! The limits per user, per API key and per tenant, by the plan that the caller's credentials name.

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::{Either, Ready, ready};
use governor::clock::{Clock, DefaultClock};
use nearfield_auth::Principal;

use super::announce::{Standing, Standings};
use super::limiter::{Key, Limiter, Means};
use super::plan::{Plan, Plans};
use super::toll::Toll;
use super::{Config, cost};
use crate::body::{Request, Response};
use crate::error::Error;
use crate::layers::classify;
use crate::request::Caller;

/// Counts what a caller asks.
pub(crate) trait Count: Send + Sync {
    /// # Errors
    /// [`Error::Limited`] by the first limit that has not as many units left.
    fn count(&self, principal: &Principal, units: u32, note: &mut dyn FnMut(Standing)) -> Result<(), Error>;

    fn prices(&self) -> &cost::Config;

    /// For `/debug`, one row for each limit.
    fn view(&self) -> Vec<serde_json::Value>;

    /// The same by other settings. Of a limit that stays as it is, what has been counted stays, too.
    fn renewed(&self, config: &Config, plans: &Plans, means: &Means) -> Arc<dyn Count>;
}

/// The limits of a plan.
struct Limiters<C: Clock> {
    users: Arc<Limiter<C>>,
    keys: Arc<Limiter<C>>,
    tenants: Arc<Limiter<C>>,
}

struct Callers<C: Clock> {
    by_plan: HashMap<String, Limiters<C>>,
    default: Limiters<C>,
    prices: cost::Config,
    clock: C,
}

impl<C: Clock + Clone> Limiters<C> {
    fn new(plan: &Plan, means: &Means, clock: &C, before: Option<&Self>) -> Self {
        let limiter = |policy, per_second, before: Option<&Arc<Limiter<C>>>| {
            Limiter::renewed(before, policy, per_second, means, clock.clone())
        };
        let keys = plan.key_per_second.unwrap_or(plan.user_per_second);
        Self {
            users: limiter("user", plan.user_per_second, before.map(|before| &before.users)),
            keys: limiter("key", keys, before.map(|before| &before.keys)),
            tenants: limiter("tenant", plan.tenant_per_second, before.map(|before| &before.tenants)),
        }
    }
}

impl<C: Clock + Clone> Callers<C> {
    fn new(config: &Config, plans: &Plans, means: &Means, clock: &C, before: Option<&Self>) -> Self {
        let limiters = |plan: &Plan, before: Option<&Limiters<C>>| Limiters::new(plan, means, clock, before);
        let of_plan = |(name, plan): (&String, &Plan)| {
            (name.clone(), limiters(plan, before.and_then(|before| before.by_plan.get(name))))
        };
        Self {
            by_plan: plans.named().map(of_plan).collect(),
            default: limiters(plans.default(), before.map(|before| &before.default)),
            prices: config.cost.clone(),
            clock: clock.clone(),
        }
    }

    fn of(&self, principal: &Principal) -> &Limiters<C> {
        principal.plan.as_ref().and_then(|name| self.by_plan.get(name)).unwrap_or(&self.default)
    }
}

impl<C: Clock + Clone + Send + Sync + 'static> Count for Callers<C>
where
    Limiter<C>: Send + Sync,
{
    fn count(&self, principal: &Principal, units: u32, note: &mut dyn FnMut(Standing)) -> Result<(), Error> {
        let limiters = self.of(principal);
        let tenant = principal.tenant.as_deref().unwrap_or_default();
        let mut check = |limiter: &Arc<Limiter<C>>, key: Key| {
            let (standing, passed) = limiter.check(key, units);
            note(Standing { partition: Some(key), ..standing });
            passed
        };
        check(&limiters.users, Key::of_user(principal))?;
        if let Some(id) = &principal.key {
            check(&limiters.keys, Key::of([tenant, id]))?;
        }
        if !tenant.is_empty() {
            check(&limiters.tenants, Key::of([tenant, ""]))?;
        }
        Ok(())
    }

    fn prices(&self) -> &cost::Config {
        &self.prices
    }

    fn view(&self) -> Vec<serde_json::Value> {
        let mut plans: Vec<(&String, &Limiters<C>)> = self.by_plan.iter().collect();
        plans.sort_by_key(|(name, _)| *name);
        let rows = |(name, limiters): (&String, &Limiters<C>)| {
            [&limiters.users, &limiters.keys, &limiters.tenants].map(|limiter| limiter.view(name))
        };
        plans.into_iter().flat_map(rows).collect()
    }

    fn renewed(&self, config: &Config, plans: &Plans, means: &Means) -> Arc<dyn Count> {
        Arc::new(Self::new(config, plans, means, &self.clock, Some(self)))
    }
}

#[derive(Clone)]
pub(crate) struct Layer {
    /// Absent when limits are off.
    counter: Option<Arc<dyn Count>>,
}

impl Layer {
    pub(super) fn new(config: &Config, plans: &Plans, means: &Means) -> Self {
        Self::with_clock(config, plans, means, &DefaultClock::default())
    }

    fn with_clock<C: Clock + Clone + Send + Sync + 'static>(
        config: &Config,
        plans: &Plans,
        means: &Means,
        clock: &C,
    ) -> Self
    where
        C::Instant: Send + Sync,
    {
        let counter = || Arc::new(Callers::new(config, plans, means, clock, None)) as Arc<dyn Count>;
        Self { counter: config.enabled.then(counter) }
    }

    /// The same by other settings.
    pub(super) fn renewed(&self, config: &Config, plans: &Plans, means: &Means) -> Self {
        match &self.counter {
            Some(counter) if config.enabled => Self { counter: Some(counter.renewed(config, plans, means)) },
            _ => Self::new(config, plans, means),
        }
    }

    pub(super) fn view(&self) -> Vec<serde_json::Value> {
        self.counter.as_ref().map(|counter| counter.view()).unwrap_or_default()
    }

    /// What pays for one caller's requests; none when nobody is limited.
    pub(crate) fn toll(&self, principal: &Arc<Principal>, standings: Option<Standings>) -> Option<Toll> {
        let counter = self.counter.clone()?;
        Some(Toll { counter, principal: principal.clone(), standings })
    }
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
        let extensions = request.extensions();
        let principal = extensions.get().map(|Caller(principal)| principal);
        let toll = principal.and_then(|principal| self.layer.toll(principal, extensions.get().cloned()));
        if let Some(toll) = toll {
            if let Err(error) = toll.enter(classify::route(&request)) {
                return Either::Right(ready(Err(error)));
            }
            request.extensions_mut().insert(toll);
        }
        Either::Left(self.inner.call(request))
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;
    use hyper::service::Service as _;

    use super::*;
    use crate::body;

    fn layer(config: &Config) -> Layer {
        Layer::with_clock(config, &Plans::new(config), &Means::alone(), &FakeRelativeClock::default())
    }

    fn principal(subject: &str, tenant: Option<&str>, plan: Option<&str>) -> Principal {
        let [tenant, plan] = [tenant, plan].map(|name| name.map(str::to_owned));
        Principal { subject: subject.to_owned(), tenant, plan, ..Principal::default() }
    }

    /// How many of 200 requests pass.
    async fn passing(config: &Config, callers: &[Principal]) -> usize {
        let inner = hyper::service::service_fn(|_request: Request| async { Ok(Response::new(body::empty())) });
        let service = tower::Layer::layer(&layer(config), inner);
        let mut passed = 0;
        for caller in callers.iter().cycle().take(200) {
            let mut request = http::Request::new(body::empty());
            request.extensions_mut().insert(Caller(Arc::new(caller.clone())));
            passed += usize::from(service.call(request).await.is_ok());
        }
        passed
    }

    #[tokio::test]
    async fn plans_set_the_limits_of_users_and_of_their_tenants() {
        let config = Config::default();
        let ada = |tenant, plan| principal("ada", tenant, plan);
        assert_eq!(passing(&config, &[ada(None, Some("free"))]).await, 20);
        assert_eq!(passing(&config, &[ada(None, None)]).await, 100);
        assert_eq!(passing(&config, &[ada(None, Some("unheard-of"))]).await, 100);
        assert_eq!(passing(&config, &[ada(None, Some("premium"))]).await, 200);
        assert_eq!(passing(&config, &[ada(Some("a"), Some("free")), ada(Some("b"), Some("free"))]).await, 40);
        let tenant: Vec<_> = (0..20).map(|n| principal(&format!("user-{n}"), Some("a"), Some("free"))).collect();
        assert_eq!(passing(&config, &tenant).await, 100);
        assert_eq!(passing(&Config { enabled: false, ..config }, &[ada(None, Some("free"))]).await, 200);
    }

    #[tokio::test]
    async fn a_key_may_have_less_than_its_user() {
        let mut config = Config::default();
        config.plans.get_mut("free").unwrap().key_per_second = std::num::NonZeroU32::new(5);
        let with = |id: &str| Principal { key: Some(id.into()), ..principal("ada", None, Some("free")) };
        assert_eq!(passing(&config, &[with("k1")]).await, 5);
        assert_eq!(passing(&config, &[with("k1"), with("k2")]).await, 10);
        assert_eq!(passing(&config, &[principal("ada", None, Some("free"))]).await, 20);
    }

    #[tokio::test(start_paused = true)]
    async fn the_rest_of_a_cost_is_paid_and_a_stream_waits_for_its_quota() {
        let (config, ada) = (Config::default(), Arc::new(principal("ada", None, Some("free"))));
        let toll = Layer::new(&config, &Plans::new(&config), &Means::alone()).toll(&ada, None).unwrap();
        toll.pay(1).unwrap();
        toll.pay(11).unwrap();
        toll.pay(11).unwrap();
        assert!(matches!(toll.pay(11), Err(Error::Limited { policy: "user", limit: 20, .. })));
        // Dearer than all that there ever is: takes all of it.
        let late = toll.pay_in_time(1000, Some(std::time::Instant::now())).await;
        assert!(matches!(late, Err(Error::Limited { .. })));
    }
}
