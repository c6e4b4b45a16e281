//! Whether a filter matches a point's metadata.

use std::cmp::Ordering;

use serde_json::{Number, Value};

use super::{Filter, Path, Scalar, Test};

impl Filter {
    /// `metadata` is the point's JSON object.
    pub fn matches(&self, metadata: &Value) -> bool {
        match self {
            Self::And(all) => all.iter().all(|filter| filter.matches(metadata)),
            Self::Or(any) => any.iter().any(|filter| filter.matches(metadata)),
            Self::Not(inner) => !inner.matches(metadata),
            Self::Field { path, test } => reach(metadata, &path.0, &mut |value| test.holds(value)),
        }
    }

    /// Like [`Filter::matches`], for metadata as it is stored.
    pub fn matches_json(&self, metadata: &[u8]) -> bool {
        // Stored metadata was parsed when it came in.
        serde_json::from_slice(metadata).is_ok_and(|metadata| self.matches(&metadata))
    }
}

/// Calls `holds` with each value that `keys` leads to, until one does. Arrays on the way are looked through.
fn reach(value: &Value, keys: &[String], holds: &mut impl FnMut(&Value) -> bool) -> bool {
    let Some((key, rest)) = keys.split_first() else { return holds(value) };
    match value {
        Value::Object(object) => object.get(key).is_some_and(|inner| reach(inner, rest, holds)),
        Value::Array(elements) => elements.iter().any(|element| element.is_object() && reach(element, keys, holds)),
        _ => false,
    }
}

impl Test {
    fn holds(&self, value: &Value) -> bool {
        if matches!(self, Self::Exists) {
            return true;
        }
        match value {
            Value::Array(elements) => elements.iter().any(|element| self.holds_for_one(element)),
            value => self.holds_for_one(value),
        }
    }

    fn holds_for_one(&self, value: &Value) -> bool {
        match self {
            Self::Equals(wanted) => compare(value, wanted) == Some(Ordering::Equal),
            Self::In(wanted) => wanted.iter().any(|wanted| compare(value, wanted) == Some(Ordering::Equal)),
            Self::Compares(comparison, bound) => compare(value, bound).is_some_and(|found| comparison.admits(found)),
            Self::Exists => true,
        }
    }
}

/// `None` for values of different types.
fn compare(value: &Value, scalar: &Scalar) -> Option<Ordering> {
    match (value, scalar) {
        (Value::Null, Scalar::Null) => Some(Ordering::Equal),
        (Value::Bool(left), Scalar::Bool(right)) => Some(left.cmp(right)),
        (Value::Number(left), Scalar::Number(right)) => compare_numbers(left, right),
        (Value::String(left), Scalar::String(right)) => Some(left.as_str().cmp(right)),
        _ => None,
    }
}

/// By value, exactly: 1 and 1.0 are equal, 2^53 and 2^53 + 1 are not.
pub(crate) fn compare_numbers(left: &Number, right: &Number) -> Option<Ordering> {
    match (integer(left), integer(right)) {
        (Some(left), Some(right)) => Some(left.cmp(&right)),
        (None, None) => left.as_f64()?.partial_cmp(&right.as_f64()?),
        (Some(left), None) => compare_mixed(left, right.as_f64()?),
        (None, Some(right)) => compare_mixed(right, left.as_f64()?).map(Ordering::reverse),
    }
}

fn integer(number: &Number) -> Option<i128> {
    number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
}

fn compare_mixed(integer: i128, float: f64) -> Option<Ordering> {
    // Every i64 and u64 lies within this, and floats of that size convert exactly once their fraction is off.
    if float.abs() > 1e20 {
        return 0f64.partial_cmp(&float);
    }
    let whole = float.floor();
    let ordering = integer.cmp(&(whole as i128));
    Some(if ordering.is_eq() && float > whole { Ordering::Less } else { ordering })
}

impl Path {
    /// As it is written: the keys with dots between them.
    pub fn dotted(&self) -> String {
        self.0.join(".")
    }
}
