//! The limits per user and per tenant, by the plan that the caller's credentials name.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::{Either, Ready, ready};
use governor::clock::{Clock, DefaultClock};
use nearfield_auth::Principal;

use super::Config;
use super::announce::{Standing, Standings};
use super::limiter::Limiter;
use crate::body::{Request, Response};
use crate::error::Error;
use crate::request::Caller;

/// The two limits of a plan. Keys are hashes, seeded per process: a limiter needs no names.
struct Plan<C: Clock> {
    users: Limiter<u64, C>,
    tenants: Limiter<u64, C>,
}

struct Plans<C: Clock> {
    by_name: HashMap<String, Arc<Plan<C>>>,
    default: Arc<Plan<C>>,
    seed: RandomState,
}

impl<C: Clock + Clone> Plans<C> {
    fn new(config: &Config, clock: &C) -> Option<Self> {
        let by_name: HashMap<_, _> = config
            .plans
            .iter()
            .map(|(name, plan)| {
                let limiter = |policy, per_second| Limiter::new(policy, per_second, config.max_new_keys, clock.clone());
                let users = limiter("user", plan.user_per_second);
                let tenants = limiter("tenant", plan.tenant_per_second);
                (name.clone(), Arc::new(Plan { users, tenants }))
            })
            .collect();
        let default = by_name.get(&config.default_plan)?.clone();
        Some(Self { by_name, default, seed: RandomState::new() })
    }

    fn of(&self, principal: &Principal) -> &Plan<C> {
        principal.plan.as_ref().and_then(|name| self.by_name.get(name)).unwrap_or(&self.default)
    }

    fn check(&self, principal: &Principal, mut note: impl FnMut(Standing)) -> Result<(), Error> {
        let plan = self.of(principal);
        // The same subject in two tenants is two users.
        let user = self.seed.hash_one((&principal.tenant, &principal.subject));
        let (standing, passed) = plan.users.check(&user);
        note(standing);
        passed?;
        let Some(tenant) = &principal.tenant else { return Ok(()) };
        let (standing, passed) = plan.tenants.check(&self.seed.hash_one(tenant));
        note(standing);
        passed
    }
}

pub(crate) struct Layer<C: Clock = DefaultClock> {
    /// Absent when limits are off.
    plans: Option<Arc<Plans<C>>>,
}

impl<C: Clock> Clone for Layer<C> {
    fn clone(&self) -> Self {
        Self { plans: self.plans.clone() }
    }
}

impl<C: Clock + Clone> Layer<C> {
    /// `config.default_plan` is one of `config.plans`, as [`crate::config::Config::check`] has made sure.
    pub(crate) fn new(config: &Config, clock: &C) -> Self {
        let plans = if config.enabled { Plans::new(config, clock) } else { None };
        Self { plans: plans.map(Arc::new) }
    }

    /// Counts one request of `principal`.
    pub(super) fn check(&self, principal: &Principal, note: impl FnMut(Standing)) -> Result<(), Error> {
        self.plans.as_ref().map_or(Ok(()), |plans| plans.check(principal, note))
    }
}

impl<S, C: Clock> tower::Layer<S> for Layer<C> {
    type Service = Service<S, C>;

    fn layer(&self, inner: S) -> Service<S, C> {
        Service { inner, layer: self.clone() }
    }
}

pub(crate) struct Service<S, C: Clock = DefaultClock> {
    inner: S,
    layer: Layer<C>,
}

impl<S: Clone, C: Clock> Clone for Service<S, C> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), layer: self.layer.clone() }
    }
}

impl<S, C> tower::Service<Request> for Service<S, C>
where
    S: tower::Service<Request, Response = Response, Error = Error>,
    C: Clock + Clone,
{
    type Response = Response;
    type Error = Error;
    type Future = Either<S::Future, Ready<Result<Response, Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let note = |standing| Standings::note(&request, [standing]);
        if let Some(Caller(principal)) = request.extensions().get()
            && let Err(error) = self.layer.check(principal, note)
        {
            return Either::Right(ready(Err(error)));
        }
        Either::Left(self.inner.call(request))
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;
    use tower::{Layer as _, Service as _};

    use super::*;
    use crate::body;

    /// How many of 200 requests pass.
    async fn passing(config: &Config, callers: &[(&str, Option<&str>, Option<&str>)]) -> usize {
        let inner = tower::service_fn(|_request: Request| async { Ok(Response::new(body::empty())) });
        let mut service = Layer::new(config, &FakeRelativeClock::default()).layer(inner);
        let mut passed = 0;
        for (subject, tenant, plan) in callers.iter().cycle().take(200) {
            let principal = Principal {
                subject: (*subject).to_owned(),
                tenant: tenant.map(str::to_owned),
                plan: plan.map(str::to_owned),
                scopes: nearfield_auth::Scopes::default(),
                expires: None,
                key: None,
            };
            let mut request = http::Request::new(body::empty());
            request.extensions_mut().insert(Caller(Arc::new(principal)));
            passed += usize::from(service.call(request).await.is_ok());
        }
        passed
    }

    #[tokio::test]
    async fn plans_set_the_limits_of_users_and_of_their_tenants() {
        let config = Config::default();
        assert_eq!(passing(&config, &[("ada", None, Some("free"))]).await, 20);
        assert_eq!(passing(&config, &[("ada", None, None)]).await, 100);
        assert_eq!(passing(&config, &[("ada", None, Some("unheard-of"))]).await, 100);
        assert_eq!(passing(&config, &[("ada", None, Some("premium"))]).await, 200);
        assert_eq!(passing(&config, &[("ada", Some("a"), Some("free")), ("ada", Some("b"), Some("free"))]).await, 40);
        let names: Vec<String> = (0..20).map(|n| format!("user-{n}")).collect();
        let tenant: Vec<_> = names.iter().map(|name| (name.as_str(), Some("a"), Some("free"))).collect();
        assert_eq!(passing(&config, &tenant).await, 100);
        assert_eq!(passing(&Config { enabled: false, ..config }, &[("ada", None, Some("free"))]).await, 200);
    }
}
