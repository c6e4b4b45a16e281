//! Query strings and path segments: each parameter at most once, and in UTF-8.

use std::borrow::Cow;

use bytes::Bytes;
use percent_encoding::percent_decode_str;

use super::json::{Place, Pointer, Report};
use super::{name, read};
use crate::error::Error;

/// The parameters of one request.
pub(crate) struct Parameters<'a> {
    values: Vec<(&'static str, Cow<'a, str>)>,
    report: &'a Report,
}

impl<'a> Parameters<'a> {
    /// Reads `query`, of which only `names` are known; others are passed over, so that what trackers and cache busters
    /// add to a link changes nothing. What is wrong goes to `report`.
    pub(crate) fn read(query: &'a str, names: &[&'static str], report: &'a Report) -> Self {
        let mut values: Vec<(&'static str, Cow<'a, str>)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(key) = decode(key) else { continue };
            let at = Pointer::Parameter(&key);
            match (names.iter().find(|known| **known == key), decode(value)) {
                (None, _) => {}
                (Some(_), None) => report.add(&at, "is not UTF-8"),
                (Some(known), _) if values.iter().any(|(seen, _)| seen == known) => report.add(&at, "is given twice"),
                (Some(known), Some(value)) => values.push((known, value)),
            }
        }
        Self { values, report }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.text(name).is_some()
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.values.iter().find(|(seen, _)| *seen == name).map(|(_, value)| &**value)
    }

    /// A parameter as `parse` reads it.
    pub(crate) fn with<T>(&self, name: &str, parse: impl FnOnce(&str, Place<'_>) -> Option<T>) -> Option<T> {
        let at = Pointer::Parameter(name);
        parse(self.text(name)?, Place { at: &at, report: self.report })
    }

    pub(crate) fn integer(&self, name: &str, (min, max): (i64, i64)) -> Option<i64> {
        self.with(name, |text, place| match text.parse() {
            Ok(value) => read::bounded(value, min, max, place),
            Err(_) => {
                place.refuse("must be an integer");
                None
            }
        })
    }

    pub(crate) fn number(&self, name: &str, (min, max): (f64, f64)) -> Option<f64> {
        self.with(name, |text, place| match text.parse() {
            Ok(value) => read::within(value, min, max, place),
            Err(_) => {
                place.refuse("must be a number");
                None
            }
        })
    }

    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        self.with(name, |text, place| match text {
            "true" => Some(true),
            "false" => Some(false),
            _ => {
                place.refuse("must be true or false");
                None
            }
        })
    }

    /// The parameter `collection`, or the default.
    pub(crate) fn collection(&self) -> String {
        let given = self.with("collection", name::collection);
        given.unwrap_or_else(|| name::DEFAULT_COLLECTION.to_owned())
    }
}

/// A parameter that holds a JSON object, as the bytes that came.
pub(crate) fn json_object(text: &str, place: Place<'_>) -> Option<Bytes> {
    match serde_json::from_str::<&serde_json::value::RawValue>(text) {
        Ok(raw) if raw.get().starts_with('{') => return Some(Bytes::copy_from_slice(raw.get().as_bytes())),
        Ok(_) => place.refuse("must be a JSON object"),
        Err(e) => place.refuse(format!("is not JSON: {e}")),
    }
    None
}

/// The last segment of a path, decoded.
///
/// # Errors
/// [`Error::Malformed`] when it is not UTF-8.
pub(crate) fn segment<'a>(path: &'a str, prefix: &str) -> Result<Cow<'a, str>, Error> {
    let raw = path.strip_prefix(prefix).unwrap_or_default();
    percent_decode_str(raw).decode_utf8().map_err(|_| Error::malformed("the path is not UTF-8"))
}

/// `application/x-www-form-urlencoded`, strictly UTF-8.
fn decode(text: &str) -> Option<Cow<'_, str>> {
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        return percent_decode_str(&spaced).decode_utf8().ok().map(|decoded| Cow::Owned(decoded.into_owned()));
    }
    percent_decode_str(text).decode_utf8().ok()
}
