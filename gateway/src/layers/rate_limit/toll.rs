//! The rest of what a request costs, paid where its body has been read, before anything is done for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nearfield_auth::Principal;

use super::announce::Standings;
use super::by_caller::Count;
use super::cost;
use crate::error::Error;
use crate::route::Route;

/// In the extensions of a request whose caller is limited. The first unit has been paid.
#[derive(Clone)]
pub(crate) struct Toll {
    pub(super) counter: Arc<dyn Count>,
    pub(super) principal: Arc<Principal>,
    pub(super) standings: Option<Standings>,
}

impl Toll {
    pub(crate) fn prices(&self) -> &cost::Config {
        self.counter.prices()
    }

    /// Pays what a request costs by its head alone.
    ///
    /// # Errors
    /// [`Error::Limited`].
    pub(crate) fn enter(&self, route: Route) -> Result<(), Error> {
        self.count(self.prices().of_route(route))
    }

    /// Pays for a request that costs `units` in all.
    ///
    /// # Errors
    /// [`Error::Limited`] when the caller has not as many left.
    pub(crate) fn pay(&self, units: u32) -> Result<(), Error> {
        match units.saturating_sub(1) {
            0 => Ok(()),
            rest => self.count(rest),
        }
    }

    /// Pays for the next part of a stream, and waits for the quota if need be: what streams in is held back rather than
    /// cut off.
    ///
    /// # Errors
    /// [`Error::Limited`] when `deadline` comes first.
    pub(crate) async fn pay_in_time(&self, units: u32, deadline: Option<Instant>) -> Result<(), Error> {
        loop {
            match self.count(units) {
                Err(Error::Limited { retry_after, .. }) if before(deadline, retry_after) => {
                    tokio::time::sleep(retry_after.max(SHORTEST_WAIT)).await;
                }
                other => return other,
            }
        }
    }

    fn count(&self, units: u32) -> Result<(), Error> {
        self.counter.count(&self.principal, units, &mut |standing| {
            if let Some(standings) = &self.standings {
                standings.add(standing);
            }
        })
    }
}

/// Between two questions after the quota.
const SHORTEST_WAIT: Duration = Duration::from_millis(10);

fn before(deadline: Option<Instant>, wait: Duration) -> bool {
    deadline.is_none_or(|deadline| Instant::now() + wait < deadline)
}
