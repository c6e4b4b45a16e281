//! JSON hashed by what it means: member order, white space, escapes and the spelling of numbers make no difference.

use blake3::Hasher;
use serde_json::{Number, Value};

/// Feeds `json` into `hasher`. Text that is no JSON is fed as it is, marked so.
pub(crate) fn hash_json(hasher: &mut Hasher, json: &[u8]) {
    match serde_json::from_slice::<Value>(json) {
        Ok(value) => hash_value(hasher, &value),
        Err(_) => {
            hasher.update(b"!");
            hash_bytes(hasher, json);
        }
    }
}

/// A length first, so that no two sequences of fields run together.
pub(crate) fn hash_bytes(hasher: &mut Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

fn hash_value(hasher: &mut Hasher, value: &Value) {
    match value {
        Value::Null => {
            hasher.update(b"z");
        }
        Value::Bool(b) => {
            hasher.update(if *b { b"t" } else { b"f" });
        }
        Value::Number(number) => hash_number(hasher, number),
        Value::String(text) => {
            hasher.update(b"s");
            hash_bytes(hasher, text.as_bytes());
        }
        Value::Array(items) => {
            hasher.update(b"a");
            hasher.update(&(items.len() as u64).to_le_bytes());
            for item in items {
                hash_value(hasher, item);
            }
        }
        Value::Object(members) => {
            hasher.update(b"o");
            hasher.update(&(members.len() as u64).to_le_bytes());
            let mut members: Vec<_> = members.iter().collect();
            members.sort_unstable_by(|a, b| a.0.cmp(b.0));
            for (name, value) in members {
                hash_bytes(hasher, name.as_bytes());
                hash_value(hasher, value);
            }
        }
    }
}

/// Whole numbers as integers however they are spelt (`1`, `1.0`, `1e0`, `-0`), exact up to 64 bits; others as floats.
fn hash_number(hasher: &mut Hasher, number: &Number) {
    let whole = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
    let float = number.as_f64().unwrap_or(f64::NAN);
    match whole.or_else(|| (float.fract() == 0.0 && float.abs() < 1e37).then_some(float as i128)) {
        Some(whole) => {
            hasher.update(b"i");
            hasher.update(&whole.to_le_bytes());
        }
        None => {
            hasher.update(b"d");
            hasher.update(&float.to_bits().to_le_bytes());
        }
    }
}
