//! Readers of single values: texts, numbers with bounds, flags.

use std::borrow::Cow;

use serde::de::{MapAccess, SeqAccess};

use super::json::{Item, List, Place, Reader, Seed};

/// A string, or null where it may be left out.
struct Text<'a, const OPTIONAL: bool>(Place<'a>);

impl<'de, const OPTIONAL: bool> Reader<'de> for Text<'_, OPTIONAL> {
    type Value = Cow<'de, str>;
    const EXPECTED: &'static str = "a string";

    fn place(&self) -> Place<'_> {
        self.0
    }

    fn null(self) -> Option<Cow<'de, str>> {
        if OPTIONAL { None } else { self.mismatch() }
    }

    fn text(self, value: Cow<'de, str>) -> Option<Cow<'de, str>> {
        Some(value)
    }
}

/// An integer within bounds.
struct Integer<'a> {
    place: Place<'a>,
    min: i64,
    max: i64,
}

impl<'de> Reader<'de> for Integer<'_> {
    type Value = i64;
    const EXPECTED: &'static str = "an integer";

    fn place(&self) -> Place<'_> {
        self.place
    }

    fn integer(self, value: i64) -> Option<i64> {
        bounded(value, self.min, self.max, self.place)
    }
}

/// A number within bounds.
struct Number<'a> {
    place: Place<'a>,
    min: f64,
    max: f64,
}

impl<'de> Reader<'de> for Number<'_> {
    type Value = f64;
    const EXPECTED: &'static str = "a number";

    fn place(&self) -> Place<'_> {
        self.place
    }

    fn number(self, value: f64) -> Option<f64> {
        within(value, self.min, self.max, self.place)
    }
}

/// A flag.
struct Flag<'a>(Place<'a>);

impl<'de> Reader<'de> for Flag<'_> {
    type Value = bool;
    const EXPECTED: &'static str = "true or false";

    fn place(&self) -> Place<'_> {
        self.0
    }

    fn boolean(self, value: bool) -> Option<bool> {
        Some(value)
    }
}

/// Strings of a list.
struct Texts;

impl<'de> Item<'de> for Texts {
    type Value = String;

    fn next<A: SeqAccess<'de>>(&mut self, place: Place<'_>, list: &mut A) -> Result<Option<Option<String>>, A::Error> {
        let text = list.next_element_seed(Seed(Text::<false>(place)))?;
        Ok(text.map(|text| text.map(Cow::into_owned)))
    }
}

pub(crate) fn bounded(value: i64, min: i64, max: i64, place: Place<'_>) -> Option<i64> {
    if (min..=max).contains(&value) {
        return Some(value);
    }
    place.refuse(if max == i64::MAX { format!("must be at least {min}") } else { format!("must be {min} to {max}") });
    None
}

pub(crate) fn within(value: f64, min: f64, max: f64, place: Place<'_>) -> Option<f64> {
    if (min..=max).contains(&value) {
        return Some(value);
    }
    place.refuse(format!("must be {min} to {max}"));
    None
}

/// Reads the next value as a number of `min` to `max`.
///
/// # Errors
/// Only those of `object`.
pub(crate) fn number<'de, A: MapAccess<'de>>(
    place: Place<'_>,
    object: &mut A,
    (min, max): (f64, f64),
) -> Result<Option<f64>, A::Error> {
    object.next_value_seed(Seed(Number { place, min, max }))
}

/// Reads the next value as a string.
///
/// # Errors
/// Only those of `object`: text that is no JSON.
pub(crate) fn text<'de, A: MapAccess<'de>>(
    place: Place<'_>,
    object: &mut A,
) -> Result<Option<Cow<'de, str>>, A::Error> {
    object.next_value_seed(Seed(Text::<true>(place)))
}

/// Reads the next value as an integer of `min` to `max`.
///
/// # Errors
/// Only those of `object`.
pub(crate) fn integer<'de, A: MapAccess<'de>>(
    place: Place<'_>,
    object: &mut A,
    (min, max): (i64, i64),
) -> Result<Option<i64>, A::Error> {
    object.next_value_seed(Seed(Integer { place, min, max }))
}

/// Reads the next value as a flag.
///
/// # Errors
/// Only those of `object`.
pub(crate) fn flag<'de, A: MapAccess<'de>>(place: Place<'_>, object: &mut A) -> Result<Option<bool>, A::Error> {
    object.next_value_seed(Seed(Flag(place)))
}

/// Reads the next value as a list of at most `max` strings.
///
/// # Errors
/// Only those of `object`.
pub(crate) fn texts<'de, A: MapAccess<'de>>(
    place: Place<'_>,
    object: &mut A,
    max: usize,
) -> Result<Option<Vec<String>>, A::Error> {
    object.next_value_seed(Seed(List { place, max, item: Texts }))
}
