//! Rate limits: per client address, per user and per tenant, the latter two by the caller's plan.
//!
//! They stand at three places. [`announce`] is outside of everything that can refuse, so that every answer, refusals
//! too, says what is left. [`by_address`] is before authentication: a flood must not even cost a signature check.
//! [`by_caller`] is right after it, when the caller's name and plan are known.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use governor::clock::DefaultClock;
use serde::Deserialize;

use crate::error::Error;
use crate::forward::CallContext;
use crate::route::Route;
use crate::websocket::Admission;

pub(crate) mod announce;
pub(crate) mod by_address;
pub(crate) mod by_caller;
mod limiter;

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub enabled: bool,
    /// Requests a second of one client: an IPv4 address, or an IPv6 /64.
    pub ip_per_second: NonZeroU32,
    /// The plan of callers whose token names none, or one that is not listed.
    pub default_plan: String,
    /// Plans by name.
    pub plans: BTreeMap<String, Plan>,
    /// Keys that may be added to a limiter before those at rest are dropped from it.
    pub max_new_keys: u32,
}

/// Requests a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    pub user_per_second: NonZeroU32,
    /// All users of a tenant together.
    pub tenant_per_second: NonZeroU32,
}

impl Default for Config {
    fn default() -> Self {
        let plan = |user: u32, tenant: u32| Plan {
            user_per_second: NonZeroU32::new(user).unwrap_or(NonZeroU32::MIN),
            tenant_per_second: NonZeroU32::new(tenant).unwrap_or(NonZeroU32::MIN),
        };
        Self {
            enabled: true,
            ip_per_second: NonZeroU32::new(100).unwrap_or(NonZeroU32::MIN),
            default_plan: "standard".to_owned(),
            plans: BTreeMap::from([
                ("free".to_owned(), plan(20, 100)),
                ("standard".to_owned(), plan(100, 1_000)),
                ("premium".to_owned(), plan(1_000, 10_000)),
            ]),
            max_new_keys: 100_000,
        }
    }
}

/// The limits of one gateway: the layers that count requests, and the gate that counts a WebSocket's messages with
/// them, so that nobody gets around a limit by another transport.
#[derive(Clone)]
pub(crate) struct Limits {
    pub(crate) announce: announce::Layer,
    pub(crate) by_address: by_address::Layer,
    pub(crate) by_caller: by_caller::Layer,
}

impl Limits {
    pub(crate) fn new(config: &Config) -> Self {
        let clock = DefaultClock::default();
        Self {
            announce: announce::Layer { enabled: config.enabled },
            by_address: by_address::Layer::new(config, clock.clone()),
            by_caller: by_caller::Layer::new(config, &clock),
        }
    }
}

impl Admission for Limits {
    fn admit(&self, context: &CallContext, _route: Route) -> Result<(), Error> {
        if let Some(addr) = context.client {
            self.by_address.check(addr).1?;
        }
        context.principal.as_ref().map_or(Ok(()), |principal| self.by_caller.check(principal, |_standing| {}))
    }
}
