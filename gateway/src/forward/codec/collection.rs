//! Collections: their settings.

use nearfield_proto::v1::{CollectionSettings, CreateCollectionRequest, Hnsw, MeasureRecallRequest};
use serde::de::MapAccess;

use super::json::{self, Fields, Object, Place, Report, Seed};
use super::query::Parameters;
use super::search::{EF_SEARCH_MAX, RECALL, one_effort};
use super::vector::DIMENSION_MAX;
use super::{name, query, read};
use crate::error::Error;

/// Links a node may keep on each layer.
const M_MAX: i64 = 128;
const EF_CONSTRUCTION_MAX: i64 = 10_000;
/// Questions that recall may be measured by.
const RECALL_SAMPLES_MAX: i64 = 500;
/// Areas that a collection may be confined to.
const RESIDENCY_MAX: usize = 16;

#[derive(Default)]
struct HnswFields(Hnsw);

impl Fields for HnswFields {
    const NAMES: &'static [&'static str] = &["m", "ef_construction"];

    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        name: &'static str,
        place: Place<'_>,
        object: &mut A,
    ) -> Result<(), A::Error> {
        let positive = |value: Option<i64>| value.and_then(|v| u32::try_from(v).ok()).unwrap_or_default();
        match name {
            "m" => self.0.m = positive(read::integer(place, object, (2, M_MAX))?),
            _ => self.0.ef_construction = positive(read::integer(place, object, (1, EF_CONSTRUCTION_MAX))?),
        }
        Ok(())
    }
}

#[derive(Default)]
struct SettingsFields {
    settings: CollectionSettings,
    has_dimension: bool,
}

impl Fields for SettingsFields {
    const NAMES: &'static [&'static str] =
        &["dimension", "metric", "quantization", "hnsw", "ef_search", "recall_target", "residency"];

    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        name: &'static str,
        place: Place<'_>,
        object: &mut A,
    ) -> Result<(), A::Error> {
        let settings = &mut self.settings;
        let positive = |value: Option<i64>| value.and_then(|v| u32::try_from(v).ok()).unwrap_or_default();
        match name {
            "dimension" => {
                self.has_dimension = true;
                let max = i64::try_from(DIMENSION_MAX).expect("a small number");
                let dimension = read::integer(place, object, (1, max))?;
                settings.dimension = positive(dimension);
            }
            "metric" => {
                let given = read::text(place, object)?;
                settings.metric = given.and_then(|m| name::word(&m, &name::METRICS, place)).unwrap_or_default();
            }
            "quantization" => {
                let given = read::text(place, object)?;
                let known = given.and_then(|q| name::word(&q, &name::QUANTIZATIONS, place));
                settings.quantization = known.unwrap_or_default();
            }
            "hnsw" => {
                let hnsw = Object { fields: HnswFields::default(), place };
                settings.hnsw = object.next_value_seed(Seed(hnsw))?.map(|fields| fields.0);
            }
            "ef_search" => settings.ef_search = positive(read::integer(place, object, (1, EF_SEARCH_MAX))?),
            "recall_target" => settings.recall_target = read::number(place, object, RECALL)?.unwrap_or_default(),
            "residency" => settings.residency = read::texts(place, object, RESIDENCY_MAX)?.unwrap_or_default(),
            _ => unreachable!("only the names above are read"),
        }
        Ok(())
    }

    fn check(&mut self, place: Place<'_>) {
        one_effort(self.settings.ef_search, self.settings.recall_target, place);
        if !self.has_dimension {
            place.report.add(&place.at.key("dimension"), "is missing");
        }
    }
}

/// Reads `PUT /collections/{c}`.
///
/// # Errors
/// [`Error::Malformed`] with all violations.
pub(crate) fn create(path: &str, body: &[u8]) -> Result<CreateCollectionRequest, Error> {
    let name = name_of(path)?;
    let settings = json::object(body, SettingsFields::default())?.settings;
    Ok(CreateCollectionRequest { name, settings: Some(settings) })
}

/// Reads `GET /collections/{c}/recall`.
///
/// # Errors
/// [`Error::Malformed`] with all violations.
pub(crate) fn recall(path: &str, query: &str, session: String) -> Result<MeasureRecallRequest, Error> {
    let name = name_of(path.strip_suffix("/recall").unwrap_or(path))?;
    let report = Report::default();
    let parameters = Parameters::read(query, &["samples"], &report);
    let samples = parameters.integer("samples", (1, RECALL_SAMPLES_MAX)).and_then(|samples| samples.try_into().ok());
    report.finish(MeasureRecallRequest { name, samples: samples.unwrap_or_default(), session })
}

/// The collection that a path names.
///
/// # Errors
/// [`Error::Malformed`] when it is no collection name.
pub(crate) fn name_of(path: &str) -> Result<String, Error> {
    let name = query::segment(path, "/api/v1/collections/")?;
    if !name::is_collection(&name) {
        return Err(Error::invalid("collection", "is no collection name: [a-z0-9][a-z0-9_-]{0,62}"));
    }
    Ok(name.into_owned())
}
