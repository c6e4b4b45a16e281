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
    /// Of its clients, those that it is given: less than 1 while it comes back.
    pub share: f64,
}

/// For whom a region is chosen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Client {
    pub place: Option<Coordinates>,
    /// Its place among all clients, 0 to 1: a share of them is always the same ones.
    pub rank: f64,
}

impl State {
    pub fn absent() -> Self {
        Self { health: Health::Absent, capacity_left: 0.0, share: 0.0 }
    }

    /// May it be asked at all? A region not checked yet may: it is asked before it is known to be ill.
    fn answers(self) -> bool {
        matches!(self.health, Health::Healthy | Health::Unknown)
    }

    /// Is it well, with capacity left above the reserve?
    pub fn takes_more(self) -> bool {
        self.answers() && self.capacity_left > CAPACITY_RESERVE
    }

    fn gives_to(self, client: Client) -> bool {
        client.rank < self.share
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

/// Chooses among `regions`, of which `states` tells how they are, for a client.
///
/// The [`NEAREST`] regions to the client are asked in order; the first that is well with more than
/// [`CAPACITY_RESERVE`] left takes it. Otherwise the well region with most capacity left anywhere does. One that comes
/// back takes a share of all clients only, unless there is no other. With `residency`, only regions of those areas
/// count at all. `None`: no region can. Regions of unknown place stand nearest: they are only ever this gateway's own.
pub fn decide(client: Client, regions: &[Region], states: &[State], residency: &[String]) -> Option<Decision> {
    let distance = |i: usize| client.place.zip(regions[i].location()).map_or(0.0, |(a, b)| a.distance_km(b));
    // Absent regions are not there for anybody; a developer's machine has one region of many.
    let there = |i: &usize| regions[*i].may_hold(residency) && states[*i].health != Health::Absent;
    let mut order: Vec<(f64, usize)> = (0..regions.len()).filter(there).map(|i| (distance(i), i)).collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let takes = |i: usize| states[i].takes_more() && states[i].gives_to(client);
    let near = order.iter().take(NEAREST).position(|(_, i)| takes(*i));
    if let Some(rank) = near {
        return Some(Decision { region: order[rank].1, reason: Reason::Near(rank) });
    }
    let answering = order.iter().map(|(_, i)| *i).filter(|i| states[*i].answers());
    let (given, others): (Vec<usize>, Vec<usize>) = answering.partition(|i| states[*i].gives_to(client));
    let candidates = if given.is_empty() { others } else { given };
    // The first of equals is the nearest.
    let freer = |a: usize, b: usize| if states[b].capacity_left > states[a].capacity_left { b } else { a };
    let region = candidates.into_iter().reduce(freer)?;
    Some(Decision { region, reason: Reason::LeastLoaded })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::topology::Topology;
    use super::*;

    const PARIS: Client = Client { place: Some(Coordinates { latitude: 48.86, longitude: 2.35 }), rank: 0.5 };

    fn topology() -> Vec<Region> {
        Topology::load(None).unwrap().regions
    }

    fn all_well(n: usize) -> Vec<State> {
        vec![State { health: Health::Healthy, capacity_left: 0.9, share: 1.0 }; n]
    }

    fn check(change: &[(&str, Health, f64)], residency: &[&str], expected: Option<(&str, Reason)>) {
        let regions = topology();
        let mut states = all_well(regions.len());
        for (name, health, capacity_left) in change {
            let i = regions.iter().position(|r| r.name == *name).unwrap();
            states[i] = State { health: *health, capacity_left: *capacity_left, share: 1.0 };
        }
        let residency: Vec<String> = residency.iter().map(|area| (*area).to_owned()).collect();
        let decision = decide(PARIS, &regions, &states, &residency);
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
    fn a_region_that_comes_back_takes_a_share_of_clients_and_all_of_them_when_it_is_the_only_one() {
        let regions = topology();
        let mut states = all_well(regions.len());
        let belgium = regions.iter().position(|r| r.name == "europe-west1").unwrap();
        states[belgium].share = 0.3;
        let chosen = |rank, states: &[State]| decide(Client { rank, ..PARIS }, &regions, states, &[]).unwrap().region;
        assert_eq!((0..100).filter(|n| chosen(f64::from(*n) / 100.0, &states) == belgium).count(), 30);
        for (i, state) in states.iter_mut().enumerate() {
            state.health = if i == belgium { Health::Healthy } else { Health::Unhealthy };
        }
        assert_eq!(chosen(0.99, &states), belgium);
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
            states in proptest::collection::vec((health(), 0.0..=1.0f64, 0.0..=1.0f64), 15),
            rank in 0.0..1.0f64,
            latitude in -90.0..=90.0f64,
            longitude in -180.0..=180.0f64,
        ) {
            let state = |(health, capacity_left, share)| State { health, capacity_left, share };
            let states: Vec<State> = states.into_iter().map(state).collect();
            let client = Client { place: Some(Coordinates { latitude, longitude }), rank };
            let decision = decide(client, &topology(), &states, &[]);
            prop_assert_eq!(decision.is_some(), states.iter().any(|state| state.answers()));
            if let Some(Decision { region, reason }) = decision {
                prop_assert!(states[region].answers());
                match reason {
                    Reason::Near(rank) => {
                        prop_assert!(rank < NEAREST && states[region].takes_more() && states[region].gives_to(client));
                    }
                    Reason::LeastLoaded => {
                        let gives = states[region].gives_to(client);
                        let alike = states.iter().filter(|s| s.answers() && s.gives_to(client) == gives);
                        let best = alike.map(|s| s.capacity_left).fold(0.0, f64::max);
                        prop_assert!(gives || states.iter().all(|s| !s.answers() || !s.gives_to(client)));
                        prop_assert!(states[region].capacity_left >= best);
                    }
                }
            }
        }
    }
}
