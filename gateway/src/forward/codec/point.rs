//! Points: insert, update, delete, fetch.

use bytes::Bytes;
use nearfield_proto::v1::{DeleteRequest, FetchRequest, InsertRequest, Point, ScanRequest, UpdateRequest};
use serde::de::{MapAccess, SeqAccess};

use super::json::{self, Fields, Item, List, Object, Place, Report, Seed};
use super::query::{self, Parameters};
use super::{name, read, vector};
use crate::error::Error;

/// Points of one insert. The body's size is bounded before.
pub const INSERT_POINTS_MAX: usize = 100_000;
/// Ids of one delete.
pub const DELETE_IDS_MAX: usize = 100_000;

/// One point while it is read.
#[derive(Default)]
pub(crate) struct PointFields {
    pub(crate) point: Point,
    has_id: bool,
    has_values: bool,
}

impl Fields for PointFields {
    const NAMES: &'static [&'static str] = &["id", "values", "metadata"];
    const EXPECTED: &'static str = "an object with id and values";

    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        name: &'static str,
        place: Place<'_>,
        object: &mut A,
    ) -> Result<(), A::Error> {
        match name {
            "id" => {
                let given = read::text(place, object)?;
                self.has_id = true;
                self.point.id = given.and_then(|id| name::id(&id, place)).unwrap_or_default();
            }
            "values" => {
                self.has_values = true;
                self.point.values = vector::read(place, object)?.unwrap_or_default();
            }
            "metadata" => self.point.metadata = json::raw_object(place, object)?.unwrap_or_default(),
            _ => unreachable!("only the names above are read"),
        }
        Ok(())
    }

    fn check(&mut self, place: Place<'_>) {
        for (name, has) in [("id", self.has_id), ("values", self.has_values)] {
            if !has {
                place.report.add(&place.at.key(name), "is missing");
            }
        }
    }
}

/// The points of a list.
struct Points;

impl<'de> Item<'de> for Points {
    type Value = Point;

    fn next<A: SeqAccess<'de>>(&mut self, place: Place<'_>, list: &mut A) -> Result<Option<Option<Point>>, A::Error> {
        let read = list.next_element_seed(Seed(Object { fields: PointFields::default(), place }))?;
        Ok(read.map(|fields| fields.map(|fields| fields.point)))
    }
}

/// An insert while it is read.
#[derive(Default)]
pub(crate) struct InsertFields {
    pub(crate) request: InsertRequest,
    has_vectors: bool,
}

impl InsertFields {
    pub(crate) const NAMES: [&'static str; 2] = ["collection", "vectors"];
}

impl Fields for InsertFields {
    const NAMES: &'static [&'static str] = &Self::NAMES;

    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        name: &'static str,
        place: Place<'_>,
        object: &mut A,
    ) -> Result<(), A::Error> {
        match name {
            "collection" => self.request.collection = read_collection(place, object)?,
            "vectors" => {
                self.has_vectors = true;
                let list = List { place, max: INSERT_POINTS_MAX, item: Points };
                self.request.vectors = object.next_value_seed(Seed(list))?.unwrap_or_default();
            }
            _ => unreachable!("only the names above are read"),
        }
        Ok(())
    }

    fn check(&mut self, place: Place<'_>) {
        if !self.has_vectors {
            place.report.add(&place.at.key("vectors"), "is missing");
        }
        or_default(&mut self.request.collection);
    }
}

/// An update while it is read.
#[derive(Default)]
pub(crate) struct UpdateFields {
    pub(crate) request: UpdateRequest,
    has_id: bool,
    has_change: bool,
}

impl UpdateFields {
    pub(crate) const NAMES: [&'static str; 5] = ["collection", "id", "values", "metadata", "if_version"];

    /// Names the point by other means than the field `id`.
    pub(crate) fn set_id(&mut self, id: String) {
        self.has_id = true;
        self.request.id = id;
    }
}

impl Fields for UpdateFields {
    const NAMES: &'static [&'static str] = &Self::NAMES;

    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        name: &'static str,
        place: Place<'_>,
        object: &mut A,
    ) -> Result<(), A::Error> {
        let request = &mut self.request;
        match name {
            "collection" => request.collection = read_collection(place, object)?,
            "id" => {
                self.has_id = true;
                let given = read::text(place, object)?;
                request.id = given.and_then(|id| name::id(&id, place)).unwrap_or_default();
            }
            "values" => {
                let values = vector::read(place, object)?;
                self.has_change |= values.is_some();
                request.values = values.unwrap_or_default();
            }
            "metadata" => {
                let patch = json::raw_object(place, object)?;
                self.has_change |= patch.is_some();
                request.metadata = patch.unwrap_or_default();
            }
            "if_version" => {
                let version = read::integer(place, object, (0, i64::MAX))?;
                request.if_version = version.and_then(|v| u64::try_from(v).ok());
            }
            _ => unreachable!("only the names above are read"),
        }
        Ok(())
    }

    fn check(&mut self, place: Place<'_>) {
        if !self.has_id {
            place.report.add(&place.at.key("id"), "is missing");
        }
        if !self.has_change && place.report.is_empty() {
            place.refuse("changes nothing: give values or metadata");
        }
        or_default(&mut self.request.collection);
    }
}

/// A delete while it is read.
#[derive(Default)]
pub(crate) struct DeleteFields {
    pub(crate) request: DeleteRequest,
    has_ids: bool,
    has_filter: bool,
}

impl DeleteFields {
    pub(crate) const NAMES: [&'static str; 3] = ["collection", "ids", "filter"];
}

impl Fields for DeleteFields {
    const NAMES: &'static [&'static str] = &Self::NAMES;

    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        name: &'static str,
        place: Place<'_>,
        object: &mut A,
    ) -> Result<(), A::Error> {
        let request = &mut self.request;
        match name {
            "collection" => request.collection = read_collection(place, object)?,
            "ids" => {
                let ids = read::texts(place, object, DELETE_IDS_MAX)?;
                self.has_ids = ids.is_some();
                request.ids = ids.unwrap_or_default();
                for (i, id) in request.ids.iter().enumerate() {
                    let at = place.at.index(i);
                    name::id(id, Place { at: &at, report: place.report });
                }
            }
            "filter" => {
                let filter = json::raw_object(place, object)?;
                self.has_filter = filter.is_some();
                request.filter = filter.unwrap_or_default();
            }
            _ => unreachable!("only the names above are read"),
        }
        Ok(())
    }

    fn check(&mut self, place: Place<'_>) {
        match (self.has_ids, self.has_filter) {
            (false, false) if place.report.is_empty() => place.refuse("give ids or a filter"),
            (true, true) => place.report.add(&place.at.key("filter"), "does not go together with ids"),
            _ => {}
        }
        or_default(&mut self.request.collection);
    }
}

fn read_collection<'de, A: MapAccess<'de>>(place: Place<'_>, object: &mut A) -> Result<String, A::Error> {
    let given = read::text(place, object)?;
    Ok(given.and_then(|c| name::collection(&c, place)).unwrap_or_default())
}

fn or_default(collection: &mut String) {
    if collection.is_empty() {
        name::DEFAULT_COLLECTION.clone_into(collection);
    }
}

/// Reads the body of `POST /insert`.
///
/// # Errors
/// [`Error::Malformed`] with all violations.
pub(crate) fn insert(body: &[u8]) -> Result<InsertRequest, Error> {
    json::object(body, InsertFields::default()).map(|fields| fields.request)
}

/// Reads the body of `POST /update`.
///
/// # Errors
/// [`Error::Malformed`] with all violations.
pub(crate) fn update(body: &[u8]) -> Result<UpdateRequest, Error> {
    json::object(body, UpdateFields::default()).map(|fields| fields.request)
}

/// Reads the body of `POST /delete`.
///
/// # Errors
/// [`Error::Malformed`] with all violations.
pub(crate) fn delete(body: &[u8]) -> Result<DeleteRequest, Error> {
    json::object(body, DeleteFields::default()).map(|fields| fields.request)
}

/// Reads `GET /embed/{id}?collection=&session=`.
///
/// # Errors
/// [`Error::Malformed`] with all violations.
pub(crate) fn fetch(path: &str, query: &str) -> Result<FetchRequest, Error> {
    let report = Report::default();
    let id = query::segment(path, "/api/v1/embed/")?;
    name::id(&id, Place { at: &json::Pointer::Parameter("id"), report: &report });
    let parameters = Parameters::read(query, &["collection", "session"], &report);
    let session = parameters.text("session").unwrap_or_default().to_owned();
    let request = FetchRequest { collection: parameters.collection(), ids: vec![id.into_owned()], session };
    report.finish(request)
}

/// The path by which a point is read.
pub(crate) fn path(collection: &str, id: &str) -> String {
    let id = percent_encoding::utf8_percent_encode(id, percent_encoding::NON_ALPHANUMERIC);
    format!("/api/v1/embed/{id}?collection={collection}")
}

/// Reads `GET /export?collection=&filter=&session=`.
///
/// # Errors
/// [`Error::Malformed`] with all violations.
pub(crate) fn scan(query: &str) -> Result<ScanRequest, Error> {
    let report = Report::default();
    let parameters = Parameters::read(query, &["collection", "filter", "session"], &report);
    let filter: Bytes = parameters.with("filter", query::json_object).unwrap_or_default();
    let session = parameters.text("session").unwrap_or_default().to_owned();
    let request = ScanRequest { collection: parameters.collection(), filter, session };
    report.finish(request)
}

/// Reads one line of an NDJSON insert.
///
/// # Errors
/// [`Error::Malformed`] with all violations; pointers are into the line.
pub(crate) fn line(line: &[u8]) -> Result<Point, Error> {
    json::object(line, PointFields::default()).map(|fields| fields.point)
}
