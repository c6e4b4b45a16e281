//! What each message of a WebSocket passes, as a request of its own would: the limits of the pipeline, so that nobody gets
//! around one by another transport.

use http::HeaderMap;

use super::rate_limit::Limits;
use super::shed::Shedding;
use super::shed::class::Class;
use super::shed::room::Place;
use crate::current::Current;
use crate::error::Error;
use crate::forward::CallContext;
use crate::route::Route;
use crate::websocket::{Admission, Asked};

pub(crate) struct Gate(pub(crate) Current<Passed>);

/// What is passed, by the settings in use.
#[derive(Clone)]
pub(crate) struct Passed {
    pub(crate) limits: Limits,
    pub(crate) shedding: Shedding,
}

#[async_trait::async_trait]
impl Admission for Gate {
    async fn admit(&self, context: &CallContext, asked: &Asked<'_>) -> Result<Option<Place>, Error> {
        let Passed { limits, shedding } = &*self.0.get();
        if let Some(addr) = context.client {
            limits.by_address.check(addr).1?;
        }
        let (route, class) = match asked {
            Asked::Search { stream: true, .. } => (Route::StreamSearch, Class::Stream),
            Asked::Search { stream: false, .. } => (Route::Search, Class::Read),
            Asked::Write { route, .. } => (*route, Class::of_route(*route)),
        };
        if let Some(toll) = context.principal.as_ref().and_then(|caller| limits.by_caller.toll(caller, None)) {
            toll.enter(route)?;
            toll.pay(match asked {
                Asked::Search { request, .. } => toll.prices().search(request),
                Asked::Write { points, .. } => toll.prices().points(*points),
            })?;
        }
        let principal = context.principal.as_deref();
        // A message has no headers to say that it matters less.
        let criticality = shedding.triage.judge(route, class, principal, &HeaderMap::new(), None)?;
        shedding.admission.enter(class, criticality, context.deadline).await
    }
}
