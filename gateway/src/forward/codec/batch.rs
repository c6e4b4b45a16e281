//! Several searches in one request. One that is not valid gets its problem, the others their results.

use nearfield_proto::v1::SearchRequest;
use serde::de::{MapAccess, SeqAccess};

use super::json::{self, Fields, Item, List, Object, Place, Pointer, Report, Seed};
use super::search::SearchFields;
use crate::error::Error;

/// Searches of one batch.
pub const SEARCHES_MAX: usize = 100;

#[derive(Default)]
struct BatchFields {
    searches: Vec<Result<SearchRequest, Error>>,
    has_searches: bool,
}

struct Searches;

impl<'de> Item<'de> for Searches {
    type Value = Result<SearchRequest, Error>;

    fn next<A: SeqAccess<'de>>(
        &mut self,
        _place: Place<'_>,
        list: &mut A,
    ) -> Result<Option<Option<Self::Value>>, A::Error> {
        // Violations are this search's own, and so are their pointers.
        let report = Report::default();
        let place = Place { at: &Pointer::Root, report: &report };
        let read = list.next_element_seed(Seed(Object { fields: SearchFields::default(), place }))?;
        Ok(read.map(|fields| Some(report.finish(fields.map(|fields| fields.request).unwrap_or_default()))))
    }
}

impl Fields for BatchFields {
    const NAMES: &'static [&'static str] = &["searches"];

    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        _name: &'static str,
        place: Place<'_>,
        object: &mut A,
    ) -> Result<(), A::Error> {
        self.has_searches = true;
        let list = List { place, max: SEARCHES_MAX, item: Searches };
        self.searches = object.next_value_seed(Seed(list))?.unwrap_or_default();
        Ok(())
    }

    fn check(&mut self, place: Place<'_>) {
        if !self.has_searches {
            place.report.add(&place.at.key("searches"), "is missing");
        }
    }
}

/// Reads the body of `POST /search/batch`: each search, or what is wrong with it.
///
/// # Errors
/// [`Error::Malformed`] when the body as a whole is.
pub(crate) fn searches(body: &[u8]) -> Result<Vec<Result<SearchRequest, Error>>, Error> {
    json::object(body, BatchFields::default()).map(|fields| fields.searches)
}
