//! What operators ask of the caches: purges and warmings.

use nearfield_proto::v1::SearchRequest;
use serde::de::{MapAccess, SeqAccess};

use super::json::{self, Fields, Item, List, Object, Place, Seed};
use super::search::SearchFields;
use super::{name, read};
use crate::error::Error;

/// Ids, tags or queries of one request.
pub(crate) const ITEMS_MAX: usize = 10_000;
/// Regions of one request.
pub(crate) const REGIONS_MAX: usize = 64;
/// Seconds by which a purge may be put off.
pub(crate) const SPREAD_SECONDS_MAX: i64 = 3_600;

/// What is to be purged.
#[derive(Debug, Default)]
pub(crate) struct Purge {
    pub all: bool,
    pub collection: Option<String>,
    pub ids: Vec<String>,
    pub tags: Vec<String>,
    /// Answers become stale, and may stand in for a failing origin.
    pub soft: bool,
    pub spread_seconds: u32,
}

impl Fields for Purge {
    const NAMES: &'static [&'static str] = &["collection", "ids", "tags", "all", "soft", "spread_seconds"];

    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        name: &'static str,
        place: Place<'_>,
        object: &mut A,
    ) -> Result<(), A::Error> {
        match name {
            "collection" => {
                let given = read::text(place, object)?;
                self.collection = given.and_then(|c| name::collection(&c, place));
            }
            "ids" => self.ids = read_ids(place, object)?,
            "tags" => self.tags = read::texts(place, object, ITEMS_MAX)?.unwrap_or_default(),
            "all" => self.all = read::flag(place, object)?.unwrap_or_default(),
            "soft" => self.soft = read::flag(place, object)?.unwrap_or_default(),
            "spread_seconds" => {
                let seconds = read::integer(place, object, (0, SPREAD_SECONDS_MAX))?;
                self.spread_seconds = seconds.and_then(|s| u32::try_from(s).ok()).unwrap_or_default();
            }
            _ => unreachable!("only the names above are read"),
        }
        Ok(())
    }

    fn check(&mut self, place: Place<'_>) {
        let nothing = !self.all && self.collection.is_none() && self.ids.is_empty() && self.tags.is_empty();
        if nothing && place.report.is_empty() {
            place.refuse("purges nothing: give a collection, ids, tags or all");
        }
    }
}

/// What is to be asked ahead of time.
#[derive(Debug, Default)]
pub(crate) struct Warm {
    pub collection: String,
    pub ids: Vec<String>,
    pub queries: Vec<SearchRequest>,
    /// How many of the hottest questions.
    pub trends: usize,
    pub regions: Vec<String>,
    pub dry_run: bool,
}

struct Queries;

impl<'de> Item<'de> for Queries {
    type Value = SearchRequest;

    fn next<A: SeqAccess<'de>>(
        &mut self,
        place: Place<'_>,
        list: &mut A,
    ) -> Result<Option<Option<SearchRequest>>, A::Error> {
        let read = list.next_element_seed(Seed(Object { fields: WarmSearch::default(), place }))?;
        Ok(read.map(|fields| fields.map(|fields| fields.0.request)))
    }
}

/// A search whose collection may be left to the request around it.
#[derive(Default)]
struct WarmSearch(SearchFields);

impl Fields for WarmSearch {
    const NAMES: &'static [&'static str] = &SearchFields::NAMES;

    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        name: &'static str,
        place: Place<'_>,
        object: &mut A,
    ) -> Result<(), A::Error> {
        self.0.read_field(name, place, object)
    }

    fn check(&mut self, place: Place<'_>) {
        let collection = std::mem::take(&mut self.0.request.collection);
        self.0.check_query(place);
        self.0.request.collection = collection;
    }
}

impl Fields for Warm {
    const NAMES: &'static [&'static str] = &["collection", "ids", "queries", "trends", "regions", "dry_run"];

    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        name: &'static str,
        place: Place<'_>,
        object: &mut A,
    ) -> Result<(), A::Error> {
        match name {
            "collection" => {
                let given = read::text(place, object)?;
                self.collection = given.and_then(|c| name::collection(&c, place)).unwrap_or_default();
            }
            "ids" => self.ids = read_ids(place, object)?,
            "queries" => {
                let list = List { place, max: ITEMS_MAX, item: Queries };
                self.queries = object.next_value_seed(Seed(list))?.unwrap_or_default();
            }
            "trends" => {
                let count = read::integer(place, object, (0, ITEMS_MAX as i64))?;
                self.trends = count.and_then(|count| usize::try_from(count).ok()).unwrap_or_default();
            }
            "regions" => self.regions = read::texts(place, object, REGIONS_MAX)?.unwrap_or_default(),
            "dry_run" => self.dry_run = read::flag(place, object)?.unwrap_or_default(),
            _ => unreachable!("only the names above are read"),
        }
        Ok(())
    }

    fn check(&mut self, place: Place<'_>) {
        // What is asked for the most says itself what it is about.
        let names_points = self.trends == 0 || !self.ids.is_empty() || !self.queries.is_empty();
        if self.collection.is_empty() && names_points && place.report.is_empty() {
            place.report.add(&place.at.key("collection"), "is missing");
        }
        for query in &mut self.queries {
            if query.collection.is_empty() {
                query.collection.clone_from(&self.collection);
            }
        }
    }
}

fn read_ids<'de, A: MapAccess<'de>>(place: Place<'_>, object: &mut A) -> Result<Vec<String>, A::Error> {
    let ids = read::texts(place, object, ITEMS_MAX)?.unwrap_or_default();
    for (i, id) in ids.iter().enumerate() {
        let at = place.at.index(i);
        name::id(id, Place { at: &at, report: place.report });
    }
    Ok(ids)
}

/// Reads the body of `POST /cache/purge`.
///
/// # Errors
/// [`Error::Malformed`] with all violations.
pub(crate) fn purge(body: &[u8]) -> Result<Purge, Error> {
    json::object(body, Purge::default())
}

/// Reads the body of `POST /cache/warm`.
///
/// # Errors
/// [`Error::Malformed`] with all violations.
pub(crate) fn warm(body: &[u8]) -> Result<Warm, Error> {
    json::object(body, Warm::default())
}
