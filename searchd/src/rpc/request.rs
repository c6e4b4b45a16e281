//! Decoding: from messages to checked requests, with everything that is wrong said at once.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use nearfield_proto::log::v1::PutPoint;
use nearfield_proto::v1;
use serde_json::{Map, Value};
use tonic::Status;

use super::status;
use crate::commit::MAX_METADATA_BYTES;
use crate::engine::Address;
use crate::engine::settings::{Effort, Metric, Settings, Violation};
use crate::filter;
use crate::index::score;
use crate::search::{Include, Query, Target};
use crate::store::encode_values;

/// Most hits of a search.
pub(super) const MAX_K: i32 = 10_000;
const DEFAULT_K: usize = 10;
const MAX_ID_BYTES: usize = 256;
const DEFAULT_COLLECTION: &str = "default";

/// A collection by name; empty stands for the default one.
pub(super) fn address(tenant: &str, name: &str, pointer: &str) -> Result<Address, Violation> {
    let name = if name.is_empty() { DEFAULT_COLLECTION } else { name };
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let fits = name.len() <= 63 && name.bytes().all(|byte| word(byte) || byte == b'_' || byte == b'-');
    if !fits || !name.bytes().next().is_some_and(word) {
        return Err(Violation::new(pointer, "must match [a-z0-9][a-z0-9_-]{0,62}"));
    }
    Ok(Address::new(tenant, name))
}

pub(super) fn id(id: &str, pointer: &str) -> Result<(), Violation> {
    match id.len() {
        0 => Err(Violation::new(pointer, "must not be empty")),
        1..=MAX_ID_BYTES => Ok(()),
        bytes => Err(Violation::new(pointer, format!("has {bytes} bytes, at most {MAX_ID_BYTES} are allowed"))),
    }
}

/// Whether a vector can be stored in, or compared with, a collection of these settings.
pub(super) fn vector(values: &[f32], settings: &Settings, pointer: &str) -> Result<(), Violation> {
    if values.len() != settings.dimension as usize {
        let description = status::wrong_dimension(values.len(), settings.dimension as usize);
        return Err(Violation::new(pointer, description));
    }
    if let Some(at) = values.iter().position(|value| !value.is_finite()) {
        return Err(Violation::new(format!("{pointer}/{at}"), "is not a finite number"));
    }
    let norm = score::norm(values);
    if norm > score::MAX_NORM {
        return Err(Violation::new(pointer, "is too long: its norm must be at most 1e18"));
    }
    if settings.metric == Metric::Cosine && norm < score::MIN_NORM {
        return Err(Violation::new(pointer, "is zero: a vector without a direction has no cosine"));
    }
    Ok(())
}

/// Why metadata is not accepted.
pub(super) enum Metadata {
    Wrong(Violation),
    TooLarge(Violation),
}

/// Parses metadata. Empty stands for `{}`.
pub(super) fn metadata(json: &[u8], pointer: &str) -> Result<Map<String, Value>, Metadata> {
    if json.len() > MAX_METADATA_BYTES {
        let description = format!("has {} bytes, at most {MAX_METADATA_BYTES} are allowed", json.len());
        return Err(Metadata::TooLarge(Violation::new(pointer, description)));
    }
    if json.is_empty() {
        return Ok(Map::new());
    }
    let wrong = |description| Metadata::Wrong(Violation::new(pointer, description));
    match serde_json::from_slice(json) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(wrong("must be a JSON object".to_owned())),
        Err(error) => Err(wrong(format!("is not JSON: {error}"))),
    }
}

/// Points to be inserted. Of several with one id the last counts, as if they had been inserted one after the other.
pub(super) fn points(points: Vec<v1::Point>, settings: &Settings) -> Result<Vec<PutPoint>, Status> {
    let mut wrong = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::with_capacity(points.len());
    let mut checked: Vec<PutPoint> = Vec::with_capacity(points.len());
    for (i, point) in points.into_iter().enumerate() {
        wrong.extend(id(&point.id, &format!("/vectors/{i}/id")).err());
        wrong.extend(vector(&point.values, settings, &format!("/vectors/{i}/values")).err());
        let metadata = match metadata(&point.metadata, &format!("/vectors/{i}/metadata")) {
            Ok(object) if object.is_empty() => Bytes::new(),
            Ok(object) => serde_json::to_vec(&object).expect("a JSON value serializes").into(),
            Err(Metadata::TooLarge(violation)) => return Err(status::too_large(violation)),
            Err(Metadata::Wrong(violation)) => {
                wrong.push(violation);
                continue;
            }
        };
        let point = PutPoint { id: point.id, values: encode_values(&point.values), metadata, version: 0 };
        match places.get(&point.id) {
            Some(place) => checked[*place] = point,
            None => {
                places.insert(point.id.clone(), checked.len());
                checked.push(point);
            }
        }
    }
    if wrong.is_empty() { Ok(checked) } else { Err(status::violations(wrong)) }
}

pub(super) fn filter(json: &[u8]) -> Result<Option<Arc<filter::Filter>>, Violation> {
    if json.is_empty() {
        return Ok(None);
    }
    let filter = filter::parse(json, "/filter")?;
    Ok((!filter.is_everything()).then(|| Arc::new(filter)))
}

/// Checks everything about a search but what only its collection can tell, and then that: `settings` looks it up.
pub(super) fn query(
    tenant: &str,
    message: v1::SearchRequest,
    settings: impl FnOnce(&Address) -> Option<Settings>,
) -> Result<Query, Status> {
    let mut wrong = Vec::new();
    let mut checked = |outcome: Result<(), Violation>| wrong.extend(outcome.err());
    let address =
        address(tenant, &message.collection, "/collection").map_err(|violation| status::violations(vec![violation]))?;
    if !(0..=MAX_K).contains(&message.k) {
        checked(Err(Violation::new("/k", format!("must be between 1 and {MAX_K}, is {}", message.k))));
    }
    let effort = Effort::from_fields(message.ef_search, message.recall_target).unwrap_or_else(|all| {
        all.into_iter().for_each(|violation| checked(Err(violation)));
        None
    });
    let target = match (message.query.is_empty(), message.query_vector_id.is_empty()) {
        (false, true) => Target::Values(message.query),
        (true, false) => {
            checked(id(&message.query_vector_id, "/query_vector_id"));
            Target::Point(message.query_vector_id)
        }
        (true, true) => {
            checked(Err(Violation::new("/query", "is missing: give a vector, or a query_vector_id")));
            Target::Values(Vec::new())
        }
        (false, false) => {
            checked(Err(Violation::new("/query_vector_id", "must not be given together with a query")));
            Target::Values(Vec::new())
        }
    };
    let metric = Metric::parse(&message.metric);
    if metric.is_none() && !message.metric.is_empty() {
        checked(Err(Violation::new("/metric", "must be one of cosine, dot, euclidean")));
    }
    let filter = filter(&message.filter).unwrap_or_else(|violation| {
        checked(Err(violation));
        None
    });
    let include = include(&message.include).unwrap_or_else(|violation| {
        checked(Err(violation));
        Include::default()
    });
    if !wrong.is_empty() {
        return Err(status::violations(wrong));
    }
    let settings = settings(&address).ok_or_else(|| status::no_collection(&address.name))?;
    if let Some(metric) = metric.filter(|metric| *metric != settings.metric) {
        let description = format!("is {}, the collection's is {}", metric.name(), settings.metric.name());
        return Err(status::violation("/metric", description));
    }
    if let Target::Values(values) = &target {
        vector(values, &settings, "/query").map_err(|violation| status::violations(vec![violation]))?;
    }
    let k = if message.k == 0 { DEFAULT_K } else { message.k as usize };
    Ok(Query { address, target, k, effort, exact: message.exact, filter, include, explain: message.explain })
}

fn include(names: &[String]) -> Result<Include, Violation> {
    if names.is_empty() {
        return Ok(Include { metadata: true, values: false });
    }
    let mut include = Include::default();
    for (i, name) in names.iter().enumerate() {
        match name.as_str() {
            "id" => {}
            "metadata" => include.metadata = true,
            "values" => include.values = true,
            _ => return Err(Violation::new(format!("/include/{i}"), "must be metadata or values")),
        }
    }
    Ok(include)
}
