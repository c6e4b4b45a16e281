//! What a request costs, in units of a plan's limits: what it asks of the backends, known before it is answered.
//!
//! Every request costs one unit as soon as its head is there. What is dearer pays the rest when its body has been read;
//! an answer that the gateway still has costs no more than the one.

use std::num::NonZeroU32;

use nearfield_proto::v1::SearchRequest;
use serde::Deserialize;

use crate::route::Route;

/// `[rate_limit.cost]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// A search costs one unit, and one more for each so many hits that it asks for.
    pub results_per_unit: NonZeroU32,
    /// A write costs one unit, and one more for each so many points.
    pub points_per_unit: NonZeroU32,
    /// A search that compares with every point costs so many units more.
    pub exact: u32,
    /// An export, a measurement of recall, a warming.
    pub scan: u32,
}

impl Default for Config {
    fn default() -> Self {
        let hundred = NonZeroU32::new(100).unwrap_or(NonZeroU32::MIN);
        Self { results_per_unit: hundred, points_per_unit: hundred, exact: 10, scan: 10 }
    }
}

/// Hits of a search that does not say how many.
const DEFAULT_K: u32 = 10;

impl Config {
    /// What is known to be paid from the head alone.
    pub(super) fn of_route(&self, route: Route) -> u32 {
        match route {
            Route::CacheWarm | Route::Export | Route::Recall => self.scan.max(1),
            _ => 1,
        }
    }

    pub(crate) fn search(&self, request: &SearchRequest) -> u32 {
        let k = u32::try_from(request.k).ok().filter(|k| *k > 0).unwrap_or(DEFAULT_K);
        1 + k / self.results_per_unit + if request.exact { self.exact } else { 0 }
    }

    pub(crate) fn batch<'a>(&self, searches: impl IntoIterator<Item = &'a SearchRequest>) -> u32 {
        searches.into_iter().map(|search| self.search(search)).fold(0, u32::saturating_add).max(1)
    }

    pub(crate) fn points(&self, points: usize) -> u32 {
        1_u32.saturating_add(u32::try_from(points).unwrap_or(u32::MAX) / self.points_per_unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_asks_for_more_costs_more() {
        let cost = Config::default();
        let search = |k, exact| cost.search(&SearchRequest { k, exact, ..SearchRequest::default() });
        assert_eq!([search(0, false), search(10, false), search(99, false), search(100, false)], [1, 1, 1, 2]);
        assert_eq!([search(1000, false), search(10_000, false), search(10, true)], [11, 101, 11]);
        assert_eq!(search(-5, false), 1);
        let batch = vec![SearchRequest { k: 1000, ..SearchRequest::default() }; 100];
        assert_eq!([cost.batch(&batch), cost.batch([])], [1100, 1]);
        assert_eq!([cost.points(0), cost.points(99), cost.points(5_000)], [1, 1, 51]);
        assert_eq!([cost.of_route(Route::Search), cost.of_route(Route::Export)], [1, 10]);
    }
}
