//! Vectors: a list of numbers, or a base64 string of little-endian f32.

use std::borrow::Cow;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::de::{MapAccess, SeqAccess};

use super::json::{Place, Reader, Seed};

/// Numbers of one vector that are read: what a collection may have. searchd compares with the collection's own.
pub const DIMENSION_MAX: usize = 4_096;

struct Vector<'a>(Place<'a>);

impl<'de> Reader<'de> for Vector<'_> {
    type Value = Vec<f32>;
    const EXPECTED: &'static str = "a list of numbers, or base64 of little-endian f32";

    fn place(&self) -> Place<'_> {
        self.0
    }

    fn text(self, value: Cow<'de, str>) -> Option<Vec<f32>> {
        let Ok(bytes) = BASE64.decode(value.as_bytes()) else {
            self.0.refuse("is not base64");
            return None;
        };
        let (chunks, rest) = bytes.as_chunks::<4>();
        if !rest.is_empty() {
            self.0.refuse(format!("holds {} bytes; an f32 has 4", bytes.len()));
            return None;
        }
        let values: Vec<f32> = chunks.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect();
        if let Some(bad) = values.iter().position(|value| !value.is_finite()) {
            let at = self.0.at.index(bad);
            self.0.report.add(&at, "is not a finite number");
            return None;
        }
        sized(values, self.0)
    }

    fn list<A: SeqAccess<'de>>(self, mut list: A) -> Result<Option<Vec<f32>>, A::Error> {
        let mut values = Vec::with_capacity(list.size_hint().unwrap_or(EXPECTED_DIMENSION).min(DIMENSION_MAX));
        let (mut count, mut whole) = (0usize, true);
        loop {
            let at = self.0.at.index(count);
            let place = Place { at: &at, report: self.0.report };
            match list.next_element_seed(Seed(Number(place)))? {
                None => break,
                Some(Some(value)) if values.len() < DIMENSION_MAX => values.push(value),
                Some(value) => whole &= value.is_some(),
            }
            count += 1;
        }
        if count > DIMENSION_MAX {
            self.0.refuse(format!("has {count} numbers; the limit is {DIMENSION_MAX}"));
            return Ok(None);
        }
        Ok(if whole { sized(values, self.0) } else { None })
    }
}

fn sized(values: Vec<f32>, place: Place<'_>) -> Option<Vec<f32>> {
    match values.len() {
        0 => place.refuse("is empty"),
        1..=DIMENSION_MAX => return Some(values),
        n => place.refuse(format!("has {n} numbers; the limit is {DIMENSION_MAX}")),
    }
    None
}

/// One number of a vector.
struct Number<'a>(Place<'a>);

impl<'de> Reader<'de> for Number<'_> {
    type Value = f32;
    const EXPECTED: &'static str = "a number";

    fn place(&self) -> Place<'_> {
        self.0
    }

    fn null(self) -> Option<f32> {
        self.mismatch()
    }

    fn number(self, value: f64) -> Option<f32> {
        let narrow = value as f32;
        if narrow.is_finite() {
            return Some(narrow);
        }
        self.0.refuse("is too large for a 32-bit float");
        None
    }
}

/// Reads the next value as a vector.
///
/// # Errors
/// Only those of `object`: text that is no JSON.
pub(crate) fn read<'de, A: MapAccess<'de>>(place: Place<'_>, object: &mut A) -> Result<Option<Vec<f32>>, A::Error> {
    object.next_value_seed(Seed(Vector(place)))
}

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Room that is made before the first number is read.
const EXPECTED_DIMENSION: usize = 384;
