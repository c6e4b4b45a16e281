//! The filters of API.md, said again as naively as possible. The product's parser and planner are compared with this.

use std::cmp::Ordering;

use serde_json::{Map, Value};

/// Whether a point with this metadata passes the filter. The filter must be a valid one.
pub fn matches(filter: &Value, metadata: &Value) -> bool {
    let filter = filter.as_object().expect("a filter is an object");
    filter.iter().all(|(key, condition)| match key.as_str() {
        "$and" => list(condition).iter().all(|f| matches(f, metadata)),
        "$or" => list(condition).iter().any(|f| matches(f, metadata)),
        "$not" => !matches(condition, metadata),
        path => field_matches(reach(metadata, path), condition),
    })
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("the operand is a list")
}

/// `a.b` reaches into objects.
fn reach<'a>(metadata: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(metadata, |value, key| value.get(key))
}

fn field_matches(field: Option<&Value>, condition: &Value) -> bool {
    match operators(condition) {
        Some(operators) => operators.iter().all(|(operator, operand)| holds(field, operator, operand)),
        None => equals_any(field, condition),
    }
}

/// An object whose keys are operators; any other value is compared for equality.
fn operators(condition: &Value) -> Option<&Map<String, Value>> {
    condition.as_object().filter(|o| o.keys().next().is_some_and(|k| k.starts_with('$')))
}

fn holds(field: Option<&Value>, operator: &str, operand: &Value) -> bool {
    let compares = |wanted: &[Ordering]| {
        elements(field).into_iter().any(|v| compare(v, operand).is_some_and(|order| wanted.contains(&order)))
    };
    match operator {
        "$eq" => equals_any(field, operand),
        "$ne" => !equals_any(field, operand),
        "$in" => list(operand).iter().any(|o| equals_any(field, o)),
        "$nin" => !list(operand).iter().any(|o| equals_any(field, o)),
        "$gt" => compares(&[Ordering::Greater]),
        "$gte" => compares(&[Ordering::Greater, Ordering::Equal]),
        "$lt" => compares(&[Ordering::Less]),
        "$lte" => compares(&[Ordering::Less, Ordering::Equal]),
        "$exists" => field.is_some() == operand.as_bool().expect("$exists takes a boolean"),
        other => panic!("the oracle knows no operator {other}"),
    }
}

/// A field that is an array stands for each of its elements.
fn elements(field: Option<&Value>) -> Vec<&Value> {
    match field {
        None => Vec::new(),
        Some(Value::Array(elements)) => elements.iter().collect(),
        Some(value) => vec![value],
    }
}

fn equals_any(field: Option<&Value>, wanted: &Value) -> bool {
    field.is_some_and(|f| equal(f, wanted)) || elements(field).into_iter().any(|v| equal(v, wanted))
}

fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        // 1 and 1.0 are one number.
        (Value::Number(_), Value::Number(_)) => compare(a, b) == Some(Ordering::Equal),
        _ => a == b,
    }
}

/// Numbers among themselves and strings among themselves; nothing else has an order.
fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64()?.partial_cmp(&b.as_f64()?),
        (Value::String(a), Value::String(b)) => Some(a.as_bytes().cmp(b.as_bytes())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(filter: Value, metadata: Value, expected: bool) {
        assert_eq!(matches(&filter, &metadata), expected, "{filter} on {metadata}");
    }

    #[test]
    fn the_examples_of_the_contract() {
        check(json!({"type": "task"}), json!({"type": "task"}), true);
        check(json!({"year": {"$gte": 2020, "$lt": 2024}}), json!({"year": 2024}), false);
        check(json!({"tags": "a"}), json!({"tags": ["b", "a"]}), true);
        check(json!({"a.b": 1}), json!({"a": {"b": 1.0}}), true);
        check(json!({"year": {"$ne": 1}}), json!({}), true);
        check(json!({"year": {"$gt": "2020"}}), json!({"year": 2021}), false);
        check(json!({"$not": {"x": 1}}), json!({}), true);
    }
}
