//! What a caller's plan allows, and how much its traffic matters.

use std::collections::HashMap;
use std::num::NonZeroU32;

use nearfield_auth::Principal;
use serde::Deserialize;

use super::Config;
use crate::layers::shed::criticality::Criticality;

/// Units a second (see [`super::cost`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    pub user_per_second: NonZeroU32,
    /// Of one API key; absent: what a user has.
    pub key_per_second: Option<NonZeroU32>,
    /// All users of a tenant together.
    pub tenant_per_second: NonZeroU32,
    /// What goes first when there is not room for all, and what last.
    #[serde(default)]
    pub criticality: Criticality,
}

impl Plan {
    pub(super) fn new(user: u32, tenant: u32, criticality: Criticality) -> Self {
        Self {
            user_per_second: NonZeroU32::new(user).unwrap_or(NonZeroU32::MIN),
            key_per_second: None,
            tenant_per_second: NonZeroU32::new(tenant).unwrap_or(NonZeroU32::MIN),
            criticality,
        }
    }
}

/// All plans, by name.
pub(crate) struct Plans {
    enabled: bool,
    by_name: HashMap<String, Plan>,
    default: Plan,
}

impl Plans {
    pub(crate) fn new(config: &Config) -> Self {
        let by_name: HashMap<_, _> = config.plans.iter().map(|(name, plan)| (name.clone(), *plan)).collect();
        // It is there, as `Config::check` of the whole has made sure.
        let standard = || Plan::new(100, 1_000, Criticality::Normal);
        let default = by_name.get(&config.default_plan).copied().unwrap_or_else(standard);
        Self { enabled: config.enabled, by_name, default }
    }

    /// Whether anybody is limited at all.
    pub(crate) fn enabled(&self) -> bool {
        self.enabled
    }

    /// That of the caller's credentials, or the default when they name none that there is.
    pub(crate) fn of(&self, principal: &Principal) -> &Plan {
        principal.plan.as_ref().and_then(|name| self.by_name.get(name)).unwrap_or(&self.default)
    }

    pub(super) fn named(&self) -> impl Iterator<Item = (&String, &Plan)> {
        self.by_name.iter()
    }

    pub(super) fn default(&self) -> &Plan {
        &self.default
    }
}
