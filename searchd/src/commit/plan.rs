//! From a command to log entries, against the state as it is.

use bytes::Bytes;
use nearfield_proto::log::v1 as log;
use nearfield_proto::log::v1::entry;
use serde_json::{Map, Value};

use super::command::{Change, Outcome, Refusal};
use crate::engine::settings::Violation;
use crate::engine::{Address, Collection, State};
use crate::search::admission;
use crate::store::Store;

/// Largest metadata of a point, in bytes of JSON.
pub const MAX_METADATA_BYTES: usize = 64 * 1024;
/// Most points of one put entry: searches wait while one is applied, some microseconds a point. A larger insert has several.
const MAX_PUT_POINTS: usize = 64;
/// The same of ids of one delete entry, which are less work each.
const MAX_DELETE_IDS: usize = 256;

/// What will be logged, and what the caller is told once it is.
pub(super) struct Plan {
    pub changes: Vec<entry::Change>,
    pub outcome: Outcome,
}

/// `state` is the store's, held.
pub(super) fn plan(store: &Store, state: &State, address: &Address, change: &mut Change) -> Result<Plan, Refusal> {
    let collection = state.collection(address);
    if let Change::CreateCollection { settings } = change {
        return match collection {
            Some(known) if known.settings == *settings => Ok(nothing(Outcome::Created(false))),
            Some(_) => Err(Refusal::Differs),
            None => {
                let create = log::CreateCollection { settings: Some(settings.to_message()) };
                Ok(one(entry::Change::CreateCollection(create), Outcome::Created(true)))
            }
        };
    }
    let collection = collection.ok_or(Refusal::NoCollection)?;
    match change {
        Change::CreateCollection { .. } => unreachable!("answered above"),
        Change::DeleteCollection => {
            Ok(one(entry::Change::DeleteCollection(log::DeleteCollection {}), Outcome::Dropped))
        }
        Change::Insert { incarnation, points } => insert(collection, *incarnation, std::mem::take(points)),
        Change::Update { incarnation, id, values, patch, if_version } => {
            same(collection, *incarnation)?;
            update(collection, id, std::mem::take(values), patch.take(), *if_version)
        }
        Change::Delete { ids } => {
            let present = ids.iter().filter(|id| collection.get(id).is_some()).cloned().collect();
            Ok(delete(present))
        }
        Change::DeleteWhere { filter } => {
            let metadata = store.metadata(collection.incarnation).ok_or(Refusal::NoCollection)?;
            let matching = admission::matching(collection, &metadata.read(), filter);
            let ids = matching.into_iter().filter_map(|slot| collection.slot(slot));
            Ok(delete(ids.map(|(id, _)| id.to_owned()).collect()))
        }
    }
}

fn insert(collection: &Collection, incarnation: u64, mut points: Vec<log::PutPoint>) -> Result<Plan, Refusal> {
    same(collection, incarnation)?;
    for point in &mut points {
        point.version = next_version(collection, &point.id);
    }
    let outcome = Outcome::Inserted(points.len() as u64);
    if points.is_empty() {
        return Ok(nothing(outcome));
    }
    let mut changes = Vec::with_capacity(points.len().div_ceil(MAX_PUT_POINTS));
    let mut points = points.into_iter().peekable();
    while points.peek().is_some() {
        let points = points.by_ref().take(MAX_PUT_POINTS).collect();
        changes.push(entry::Change::Put(log::Put { points }));
    }
    Ok(Plan { changes, outcome })
}

fn update(
    collection: &Collection,
    id: &str,
    values: Bytes,
    patch: Option<Map<String, Value>>,
    if_version: Option<u64>,
) -> Result<Plan, Refusal> {
    let (_, record) = collection.get(id).ok_or(Refusal::NoPoint)?;
    if let Some(expected) = if_version.filter(|expected| *expected != record.version) {
        return Err(Refusal::Version { expected, actual: record.version });
    }
    let metadata = patch.map(|patch| merge(record.metadata(), patch)).transpose()?.unwrap_or_default();
    if values.is_empty() && metadata.is_empty() {
        return Ok(nothing(Outcome::Updated { version: record.version }));
    }
    let version = record.version + 1;
    let patch = log::Patch { id: id.to_owned(), values, metadata: metadata.into_iter().collect(), version };
    Ok(one(entry::Change::Patch(patch), Outcome::Updated { version }))
}

/// JSON Merge Patch (RFC 7396), as the new values of the top-level keys that it names.
fn merge(metadata: &[u8], patch: Map<String, Value>) -> Result<Vec<(String, Bytes)>, Refusal> {
    let before: Map<String, Value> = serde_json::from_slice(metadata).unwrap_or_default();
    let mut after = before.clone();
    let mut registers = Vec::with_capacity(patch.len());
    for (key, change) in patch {
        if change.is_null() {
            after.shift_remove(&key);
            registers.push((key, Bytes::new()));
            continue;
        }
        let mut value = after.shift_remove(&key).unwrap_or(Value::Null);
        merge_value(&mut value, change);
        let text = serde_json::to_vec(&value).expect("a JSON value serializes");
        after.insert(key.clone(), value);
        registers.push((key, text.into()));
    }
    let bytes = serde_json::to_vec(&after).expect("a JSON value serializes").len();
    if bytes > MAX_METADATA_BYTES {
        let description = format!("makes metadata of {bytes} bytes, at most {MAX_METADATA_BYTES} are allowed");
        return Err(Refusal::TooLarge(Violation::new("/metadata", description)));
    }
    Ok(registers)
}

fn merge_value(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, change) in patch {
        if change.is_null() {
            target.shift_remove(&key);
        } else {
            merge_value(target.entry(key).or_insert(Value::Null), change);
        }
    }
}

fn delete(ids: Vec<String>) -> Plan {
    let outcome = Outcome::Deleted(ids.len() as u64);
    let deletes = ids.chunks(MAX_DELETE_IDS).map(|ids| entry::Change::Delete(log::Delete { ids: ids.to_vec() }));
    Plan { changes: deletes.collect(), outcome }
}

fn next_version(collection: &Collection, id: &str) -> u64 {
    collection.remembered(id).map_or(0, |record| record.version) + 1
}

fn same(collection: &Collection, incarnation: u64) -> Result<(), Refusal> {
    if collection.incarnation == incarnation { Ok(()) } else { Err(Refusal::Replaced) }
}

fn one(change: entry::Change, outcome: Outcome) -> Plan {
    Plan { changes: vec![change], outcome }
}

fn nothing(outcome: Outcome) -> Plan {
    Plan { changes: Vec::new(), outcome }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn merge_patch_follows_the_examples_of_rfc_7396() {
        for (target, patch, expected) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            let Value::Object(patch) = patch else { unreachable!() };
            let mut merged = target.clone();
            for (key, value) in merge(target.to_string().as_bytes(), patch).unwrap() {
                let object = merged.as_object_mut().unwrap();
                if value.is_empty() {
                    object.remove(&key);
                } else {
                    object.insert(key, serde_json::from_slice(&value).unwrap());
                }
            }
            assert_eq!(merged, expected);
        }
    }
}
