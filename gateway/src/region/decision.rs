//! The rule by which a request finds its region. Pure: places and states in, a region out.

use serde::Serialize;

use super::geo::Coordinates;
use super::topology::Region;

/// Regions that are near enough to be asked first.
pub const NEAREST: usize = 3;

/// A region takes new clients from others' shares only with more than this left of its capacity.
pub const CAPACITY_RESERVE: f64 = 0.2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// No searchd of this region is known here.
    Absent,
    Healthy,
    Unhealthy,
    /// Not checked yet.
    Unknown,
}

/// How a region is now.
#[derive(Clone, Copy, Debug)]
pub struct State {
    pub health: Health,
    /// 0 (full) to 1 (idle).
    pub capacity_left: f64,
}

impl State {
    pub fn absent() -> Self {
        Self { health: Health::Absent, capacity_left: 0.0 }
    }

    /// May it be asked at all? A region not checked yet may: it is asked before it is known to be ill.
    fn answers(self) -> bool {
        matches!(self.health, Health::Healthy | Health::Unknown)
    }

    /// Is it well, with capacity left above the reserve?
    pub fn takes_more(self) -> bool {
        self.answers() && self.capacity_left > CAPACITY_RESERVE
    }
}

/// Why a region was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// None of the nearest could: the one with most capacity left, anywhere.
    LeastLoaded,
    /// The nearest that could; its rank by distance, from 0.
    Near(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Index into the regions.
    pub region: usize,
    pub reason: Reason,
}

/// Chooses among `regions`, of which `states` tells how they are, for a client at `client`.
///
/// The [`NEAREST`] regions to the client are asked in order; the first that is well with more than
/// [`CAPACITY_RESERVE`] left takes it. Otherwise the well region with most capacity left anywhere does. With
/// `residency`, only regions of those areas count at all. `None`: no region can. Regions of unknown place stand
/// nearest: they are only ever this gateway's own.
pub fn decide(
    client: Option<Coordinates>,
    regions: &[Region],
    states: &[State],
    residency: &[String],
) -> Option<Decision> {
    let distance = |i: usize| client.zip(regions[i].location()).map_or(0.0, |(a, b)| a.distance_km(b));
    // Absent regions are not there for anybody; a developer's machine has one region of many.
    let there = |i: &usize| regions[*i].may_hold(residency) && states[*i].health != Health::Absent;
    let mut order: Vec<(f64, usize)> = (0..regions.len()).filter(there).map(|i| (distance(i), i)).collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let near = order.iter().take(NEAREST).position(|(_, i)| states[*i].takes_more());
    if let Some(rank) = near {
        return Some(Decision { region: order[rank].1, reason: Reason::Near(rank) });
    }
    let answering = order.iter().map(|(_, i)| *i).filter(|i| states[*i].answers());
    // The first of equals is the nearest.
    let best = answering.reduce(|a, b| if states[b].capacity_left > states[a].capacity_left { b } else { a })?;
    Some(Decision { region: best, reason: Reason::LeastLoaded })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::topology::Topology;
    use super::*;

    const PARIS: Coordinates = Coordinates { latitude: 48.86, longitude: 2.35 };

    fn topology() -> Vec<Region> {
        Topology::load(None).unwrap().regions
    }

    fn all_well(n: usize) -> Vec<State> {
        vec![State { health: Health::Healthy, capacity_left: 0.9 }; n]
    }

    fn check(change: &[(&str, Health, f64)], residency: &[&str], expected: Option<(&str, Reason)>) {
        let regions = topology();
        let mut states = all_well(regions.len());
        for (name, health, capacity_left) in change {
            let i = regions.iter().position(|r| r.name == *name).unwrap();
            states[i] = State { health: *health, capacity_left: *capacity_left };
        }
        let residency: Vec<String> = residency.iter().map(|area| (*area).to_owned()).collect();
        let decision = decide(Some(PARIS), &regions, &states, &residency);
        assert_eq!(decision.map(|d| (regions[d.region].name.as_str(), d.reason)), expected, "{change:?}");
    }

    #[test]
    fn the_nearest_well_region_with_capacity_takes_it() {
        use Health::{Healthy, Unhealthy};
        // From Paris: Belgium, London, Frankfurt.
        check(&[], &[], Some(("europe-west1", Reason::Near(0))));
        check(&[("europe-west1", Unhealthy, 0.9)], &[], Some(("europe-west2", Reason::Near(1))));
        check(&[("europe-west1", Healthy, 0.2)], &[], Some(("europe-west2", Reason::Near(1))));
        check(&[("europe-west1", Healthy, 0.21)], &[], Some(("europe-west1", Reason::Near(0))));
        let two = [("europe-west1", Healthy, 0.1), ("europe-west2", Unhealthy, 0.9)];
        check(&two, &[], Some(("europe-west3", Reason::Near(2))));
    }

    #[test]
    fn otherwise_the_least_loaded_anywhere() {
        use Health::{Healthy, Unhealthy};
        let full = [
            ("europe-west1", Healthy, 0.1),
            ("europe-west2", Unhealthy, 0.9),
            ("europe-west3", Healthy, 0.0),
            ("asia-east1", Healthy, 0.95),
        ];
        check(&full, &[], Some(("asia-east1", Reason::LeastLoaded)));
        check(&full, &["europe"], Some(("europe-north1", Reason::LeastLoaded)));
    }

    #[test]
    fn residency_is_never_left() {
        let europe = ["europe-west1", "europe-west2", "europe-west3", "europe-north1"];
        let down: Vec<_> = europe.iter().map(|name| (*name, Health::Unhealthy, 0.9)).collect();
        check(&down, &["europe"], None);
        check(&[], &["nowhere"], None);
    }

    fn health() -> impl Strategy<Value = Health> {
        prop_oneof![Just(Health::Absent), Just(Health::Healthy), Just(Health::Unhealthy), Just(Health::Unknown)]
    }

    proptest! {
        #[test]
        fn a_region_is_found_exactly_when_one_answers(
            states in proptest::collection::vec((health(), 0.0..=1.0f64), 15),
            latitude in -90.0..=90.0f64,
            longitude in -180.0..=180.0f64,
        ) {
            let states: Vec<State> =
                states.into_iter().map(|(health, capacity_left)| State { health, capacity_left }).collect();
            let decision = decide(Some(Coordinates { latitude, longitude }), &topology(), &states, &[]);
            prop_assert_eq!(decision.is_some(), states.iter().any(|state| state.answers()));
            if let Some(Decision { region, reason }) = decision {
                prop_assert!(states[region].answers());
                match reason {
                    Reason::Near(rank) => prop_assert!(rank < NEAREST && states[region].takes_more()),
                    Reason::LeastLoaded => {
                        let best = states.iter().filter(|s| s.answers()).map(|s| s.capacity_left).fold(0.0, f64::max);
                        prop_assert!(states[region].capacity_left >= best);
                    }
                }
            }
        }
    }
}
