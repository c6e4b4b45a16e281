//! The middle of each country, for clients of whom no more is known.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::Coordinates;

/// `code,latitude,longitude` a line: ISO 3166-1 alpha-2, about where most of the country's people live, in whole degrees.
const TABLE: &str = include_str!("countries.csv");

/// About where the country of this code is; its letters in any case.
pub fn middle(code: &str) -> Option<Coordinates> {
    static PLACES: LazyLock<HashMap<[u8; 2], Coordinates>> =
        LazyLock::new(|| TABLE.lines().filter_map(entry).collect());
    let code: [u8; 2] = code.as_bytes().try_into().ok()?;
    PLACES.get(&code.map(|letter| letter.to_ascii_uppercase())).copied()
}

fn entry(line: &str) -> Option<([u8; 2], Coordinates)> {
    let (code, place) = line.split_once(',')?;
    let (latitude, longitude) = place.split_once(',')?;
    let place = Coordinates { latitude: latitude.parse().ok()?, longitude: longitude.parse().ok()? };
    Some((code.as_bytes().try_into().ok()?, place.valid()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_country_and_none_comes_twice() {
        let codes: std::collections::BTreeSet<_> = TABLE.lines().map(|line| entry(line).unwrap().0).collect();
        assert_eq!(codes.len(), TABLE.lines().count());
        assert!(codes.len() > 240, "{}", codes.len());
    }

    #[test]
    fn countries_are_where_they_are() {
        let check = |code: &str, latitude: f64, longitude: f64| {
            let distance = middle(code).unwrap().distance_km(Coordinates { latitude, longitude });
            assert!(distance < 500.0, "{code}: {distance} km");
        };
        check("FR", 48.0, 2.5);
        check("br", -21.0, -47.0);
        check("JP", 35.5, 139.0);
        check("AU", -34.0, 149.0);
        assert_eq!(middle("ZZ"), None);
        assert_eq!(middle("FRA"), None);
        assert_eq!(middle(""), None);
    }
}
