//! Places on Earth and the distances between them.

pub mod country;
pub mod database;

use serde::{Deserialize, Serialize};

/// A place: degrees north of the equator, degrees east of Greenwich.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Coordinates {
    pub latitude: f64,
    pub longitude: f64,
}

/// By the layer that locates: where the client is. Absent when unknown.
#[derive(Clone, Copy, Debug)]
pub struct ClientLocation(pub Coordinates);

impl Coordinates {
    pub fn is_valid(self) -> bool {
        (-90.0..=90.0).contains(&self.latitude) && (-180.0..=180.0).contains(&self.longitude)
    }

    /// Itself, when it is a place on Earth.
    pub fn valid(self) -> Option<Self> {
        self.is_valid().then_some(self)
    }

    /// The great-circle distance by the haversine formula, in kilometres, on a sphere of the Earth's mean radius.
    pub fn distance_km(self, other: Self) -> f64 {
        let (lat1, lat2) = (self.latitude.to_radians(), other.latitude.to_radians());
        let half_lat = (lat2 - lat1) / 2.0;
        let half_lon = (other.longitude - self.longitude).to_radians() / 2.0;
        let h = half_lat.sin().powi(2) + lat1.cos() * lat2.cos() * half_lon.sin().powi(2);
        // Rounding may carry h a hair past 1 for antipodes.
        2.0 * EARTH_RADIUS_KM * h.min(1.0).sqrt().asin()
    }
}

const EARTH_RADIUS_KM: f64 = 6_371.008_8;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place() -> impl Strategy<Value = Coordinates> {
        (-90.0..=90.0f64, -180.0..=180.0f64).prop_map(|(latitude, longitude)| Coordinates { latitude, longitude })
    }

    #[test]
    fn known_distances() {
        let check = |a: (f64, f64), b: (f64, f64), expected: f64| {
            let [a, b] = [a, b].map(|(latitude, longitude)| Coordinates { latitude, longitude });
            assert!((a.distance_km(b) - expected).abs() < expected * 0.005, "{} km", a.distance_km(b));
        };
        // London – Tokyo, São Paulo – Sydney, and a quarter of the equator.
        check((51.507, -0.128), (35.690, 139.692), 9_559.0);
        check((-23.551, -46.633), (-33.869, 151.209), 13_361.0);
        check((0.0, 0.0), (0.0, 90.0), 10_007.5);
    }

    proptest! {
        #[test]
        fn distances_are_symmetric_and_bounded(a in place(), b in place()) {
            let distance = a.distance_km(b);
            prop_assert!((0.0..=20_015.2).contains(&distance));
            prop_assert!((distance - b.distance_km(a)).abs() < 1e-6);
        }
    }
}
