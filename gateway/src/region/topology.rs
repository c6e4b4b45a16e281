//! The topology: which regions there are, as data. Read from a file, checked, or the one that this program carries.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Format, Toml};
use serde::Deserialize;

use super::geo::Coordinates;

/// One region.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Region {
    pub name: String,
    pub place: String,
    /// americas, europe, asia-pacific, middle-east-africa.
    pub area: String,
    pub latitude: Option<f64>,
    pub longitude: Option<f64>,
    /// 1 is a hub.
    pub tier: u8,
    /// Streams that it is built for.
    pub capacity: u64,
    /// Its searchds, where this gateway may call them.
    #[serde(default)]
    pub endpoints: Vec<String>,
    /// The area whose data it may hold, when that is not `area`.
    #[serde(default)]
    residency: Option<String>,
    /// Further areas whose data it may hold; [`EVERYWHERE`] stands for all.
    #[serde(skip)]
    also_holds: Vec<String>,
}

impl Region {
    pub fn location(&self) -> Option<Coordinates> {
        let (latitude, longitude) = (self.latitude?, self.longitude?);
        Some(Coordinates { latitude, longitude })
    }

    pub fn residency(&self) -> &str {
        self.residency.as_deref().unwrap_or(&self.area)
    }

    /// May data be here that is confined to `areas`? To none means that it may be anywhere.
    pub fn may_hold(&self, areas: &[String]) -> bool {
        let holds = |area: &String| area == self.residency() || self.also_holds.contains(area);
        areas.is_empty() || self.holds_all() || areas.iter().any(holds)
    }

    /// All areas whose data may be here, with commas between; none: those are all that there are.
    pub(crate) fn areas(&self) -> Option<String> {
        let areas = std::iter::once(self.residency()).chain(self.also_holds.iter().map(String::as_str));
        (!self.holds_all()).then(|| areas.collect::<Vec<_>>().join(","))
    }

    pub fn holds_all(&self) -> bool {
        self.also_holds.iter().any(|area| area == EVERYWHERE)
    }
}

/// In place of an area's name.
const EVERYWHERE: &str = "*";

/// All regions.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    #[serde(rename = "region")]
    pub regions: Vec<Region>,
}

/// What is wrong with a topology.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the topology names the region {0} twice")]
    Duplicate(String),
    #[error("the topology holds no region")]
    Empty,
    #[error("reading the topology")]
    Invalid(#[source] Box<figment::Error>),
    #[error("region {0} has no valid latitude and longitude")]
    Location(String),
    #[error("no topology file at {}", .0.display())]
    Missing(PathBuf),
    #[error("region {region} is of tier {tier}; there are 1 and 2")]
    Tier { region: String, tier: u8 },
}

impl Topology {
    /// Reads and checks `file`, or the topology that this program carries.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn load(file: Option<&Path>) -> Result<Self, Error> {
        let source = match file {
            None => Figment::from(Toml::string(DEFAULT)),
            Some(file) if !file.is_file() => return Err(Error::Missing(file.to_owned())),
            Some(file) => Figment::from(Toml::file_exact(file)),
        };
        let topology: Self = source.extract().map_err(|e| Error::Invalid(Box::new(e)))?;
        topology.check()?;
        Ok(topology)
    }

    fn check(&self) -> Result<(), Error> {
        if self.regions.is_empty() {
            return Err(Error::Empty);
        }
        let mut names = BTreeSet::new();
        for region in &self.regions {
            if !names.insert(&region.name) {
                return Err(Error::Duplicate(region.name.clone()));
            }
            if !region.location().is_some_and(Coordinates::is_valid) {
                return Err(Error::Location(region.name.clone()));
            }
            if !(1..=2).contains(&region.tier) {
                return Err(Error::Tier { region: region.name.clone(), tier: region.tier });
            }
        }
        Ok(())
    }

    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.regions.iter().position(|region| region.name == name)
    }

    /// The region called `name`; when there is none, one of unknown place is added, which may hold data of `areas`.
    pub(crate) fn find_or_add(&mut self, name: &str, areas: &[String]) -> usize {
        if let Some(found) = self.find(name) {
            return found;
        }
        self.regions.push(Region {
            name: name.to_owned(),
            place: "here".to_owned(),
            area: "local".to_owned(),
            latitude: None,
            longitude: None,
            tier: 2,
            capacity: 0,
            endpoints: Vec::new(),
            residency: None,
            also_holds: areas.to_vec(),
        });
        self.regions.len() - 1
    }
}

const DEFAULT: &str = include_str!("../../../deploy/topology.toml");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_topology_is_the_products() {
        let topology = Topology::load(None).unwrap();
        assert_eq!(topology.regions.len(), 15);
        let hubs = topology.regions.iter().filter(|r| r.tier == 1).count();
        assert_eq!(hubs, 5);
        let capacity: u64 = topology.regions.iter().map(|r| r.capacity).sum();
        assert_eq!(capacity, 500_000_000);
    }

    #[test]
    fn a_bad_topology_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("topology.toml");
        let check = |text: &str, expected: &str| {
            fs_err::write(&file, text).unwrap();
            let error = format!("{:?}", Topology::load(Some(&file)).unwrap_err());
            assert!(error.contains(expected), "{error}");
        };
        let region = |name: &str, rest: &str| {
            format!("[[region]]\nname = \"{name}\"\nplace = \"x\"\narea = \"x\"\ncapacity = 1\n{rest}\n")
        };
        check("region = []", "Empty");
        check(&region("a", "tier = 1"), "Location");
        check(&region("a", "tier = 1\nlatitude = 91.0\nlongitude = 0.0"), "Location");
        check(&region("a", "tier = 3\nlatitude = 1.0\nlongitude = 0.0"), "Tier");
        check(&region("a", "tier = 1\nlatitude = 1.0\nlongitude = 0.0\nlattitude = 2.0"), "lattitude");
        check(&region("a", "tier = 1\nlatitude = 1.0\nlongitude = 0.0").repeat(2), "Duplicate");
        assert!(matches!(Topology::load(Some(Path::new("/nowhere"))), Err(Error::Missing(_))));
    }
}
