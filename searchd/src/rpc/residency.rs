//! Where a collection's data may be, held here too: a gateway may know an older answer, or none, or be set up wrongly.
//!
//! A collection names areas; a searchd knows for which it may hold data, by its settings, and a gateway says for which it takes
//! it (`nearfield-areas`). What is confined elsewhere is neither written nor read, whichever of the two says so. What a
//! collection is (its settings, its count) is told to anybody: that is how gateways learn where it may be.

use tonic::Status;
use tonic::metadata::MetadataMap;

use super::caller::Caller;
use super::{Service, status};
use crate::engine::Address;

/// In place of an area's name: all of them.
const EVERYWHERE: &str = "*";
/// Longest list of areas.
const MAX_AREAS_BYTES: usize = 1024;

/// For which data there may be here, as the gateway says.
pub(super) fn told(metadata: &MetadataMap) -> Result<Option<Box<str>>, Status> {
    let Some(areas) = metadata.get(nearfield_proto::AREAS_METADATA) else { return Ok(None) };
    match areas.to_str() {
        Ok(areas) if areas.len() <= MAX_AREAS_BYTES => Ok(Some(areas.into())),
        Ok(_) => Err(Status::invalid_argument("the list of areas is too long")),
        Err(_) => Err(Status::invalid_argument("the areas are not ASCII text")),
    }
}

/// May data be here that is confined to `areas`? To none means that it may be anywhere.
fn may_hold<'a>(mut here: impl Iterator<Item = &'a str>, areas: &[String]) -> bool {
    areas.is_empty() || here.any(|here| here == EVERYWHERE || areas.iter().any(|area| area == here))
}

impl Service {
    /// Refuses what touches data of a collection that may not be here. One that is not there is for others to miss.
    pub(super) fn confine(&self, caller: &Caller, address: &Address) -> Result<(), Status> {
        if self.0.residency.is_empty() && caller.areas.is_none() {
            return Ok(());
        }
        let areas = self.0.store.with_collection(address, |collection, _| collection.settings.residency.clone());
        self.confine_to(caller, &address.name, &areas.unwrap_or_default())
    }

    /// The same for data that is to be confined to `areas`.
    pub(super) fn confine_to(&self, caller: &Caller, name: &str, areas: &[String]) -> Result<(), Status> {
        let own = &self.0.residency;
        let by_settings = own.is_empty() || may_hold(own.iter().map(String::as_str), areas);
        let by_gateway = caller.areas.as_ref().is_none_or(|told| may_hold(told.split(',').map(str::trim), areas));
        if by_settings && by_gateway { Ok(()) } else { Err(status::residency(name, areas)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_where_one_of_its_areas_is() {
        let check = |here: &[&str], areas: &[&str], expected| {
            let areas: Vec<String> = areas.iter().map(|&area| area.to_owned()).collect();
            assert_eq!(may_hold(here.iter().copied(), &areas), expected, "{here:?} {areas:?}");
        };
        check(&["europe"], &[], true);
        check(&["europe"], &["asia-pacific", "europe"], true);
        check(&["europe", "americas"], &["americas"], true);
        check(&["europe"], &["americas"], false);
        check(&[""], &["americas"], false);
        check(&["*"], &["americas"], true);
    }
}
