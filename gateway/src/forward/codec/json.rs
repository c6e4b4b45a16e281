//! JSON read in one pass, with every violation named by its place.
//!
//! serde's derived readers stop at the first wrong value and do not say where it stands. Here each value is read by a
//! [`Reader`] that takes any JSON, keeps what it can use, and reports the rest; only text that is no JSON ends a read.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::{Error, Violation};

/// Violations that one answer tells of; more are only counted.
pub const VIOLATIONS_MAX: usize = 16;

/// The violations of one request.
#[derive(Debug, Default)]
pub struct Report(RefCell<(Vec<Violation>, usize)>);

impl Report {
    pub fn add(&self, at: &Pointer<'_>, detail: impl Into<String>) {
        let (told, untold) = &mut *self.0.borrow_mut();
        if told.len() < VIOLATIONS_MAX {
            told.push(Violation::new(at.to_string(), detail));
        } else {
            *untold += 1;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.borrow().0.is_empty()
    }

    /// `value`, when nothing was reported.
    ///
    /// # Errors
    /// [`Error::Malformed`] with the violations.
    pub fn finish<T>(self, value: T) -> Result<T, Error> {
        let (violations, untold) = self.0.into_inner();
        if violations.is_empty() {
            return Ok(value);
        }
        let detail = match untold {
            0 => "the request is not valid".to_owned(),
            n => format!("the request is not valid; {n} more errors are not listed"),
        };
        Err(Error::Malformed { detail, violations })
    }
}

/// A JSON pointer (RFC 6901), written out only when it is told.
#[derive(Clone, Copy, Debug)]
pub enum Pointer<'a> {
    Index(&'a Self, usize),
    Key(&'a Self, &'a str),
    Root,
    /// The name of a query parameter.
    Parameter(&'a str),
}

impl Pointer<'_> {
    pub fn key<'b>(&'b self, key: &'b str) -> Pointer<'b> {
        Pointer::Key(self, key)
    }

    pub fn index(&self, index: usize) -> Pointer<'_> {
        Pointer::Index(self, index)
    }
}

impl fmt::Display for Pointer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Index(parent, index) => write!(f, "{parent}/{index}"),
            Self::Key(parent, key) => write!(f, "{parent}/{}", key.replace('~', "~0").replace('/', "~1")),
            Self::Parameter(name) => f.write_str(name),
        }
    }
}

/// Where a value stands, and where its violations go.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub at: &'a Pointer<'a>,
    pub report: &'a Report,
}

impl Place<'_> {
    pub fn refuse(&self, detail: impl Into<String>) {
        self.report.add(self.at, detail);
    }
}

/// Reads one value of any JSON type. What is not overridden is not of the expected type.
pub trait Reader<'de>: Sized {
    type Value;
    /// What the value must be, as in "must be a string".
    const EXPECTED: &'static str;

    fn place(&self) -> Place<'_>;

    fn mismatch(self) -> Option<Self::Value> {
        self.place().refuse(format!("must be {}", Self::EXPECTED));
        None
    }

    /// By default null is the same as leaving the field out.
    fn null(self) -> Option<Self::Value> {
        None
    }

    fn boolean(self, _value: bool) -> Option<Self::Value> {
        self.mismatch()
    }

    /// An integer that fits an i64.
    fn integer(self, value: i64) -> Option<Self::Value> {
        self.number(value as f64)
    }

    fn number(self, _value: f64) -> Option<Self::Value> {
        self.mismatch()
    }

    fn text(self, _value: Cow<'de, str>) -> Option<Self::Value> {
        self.mismatch()
    }

    fn list<A: SeqAccess<'de>>(self, mut list: A) -> Result<Option<Self::Value>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(self.mismatch())
    }

    fn object<A: MapAccess<'de>>(self, mut object: A) -> Result<Option<Self::Value>, A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(self.mismatch())
    }
}

/// A [`Reader`] as serde's seed and visitor.
pub struct Seed<R>(pub R);

impl<'de, R: Reader<'de>> DeserializeSeed<'de> for Seed<R> {
    type Value = Option<R::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, R: Reader<'de>> Visitor<'de> for Seed<R> {
    type Value = Option<R::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(R::EXPECTED)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(self.0.null())
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(self.0.boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(self.0.integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(match i64::try_from(value) {
            Ok(value) => self.0.integer(value),
            Err(_) => self.0.number(value as f64),
        })
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(self.0.number(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(self.0.text(Cow::Owned(value.to_owned())))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(self.0.text(Cow::Borrowed(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        self.0.list(list)
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Self::Value, A::Error> {
        self.0.object(object)
    }
}

/// The fields of an object, filled one after another.
pub trait Fields {
    /// All documented names, at most 32.
    const NAMES: &'static [&'static str];
    /// What the object must be when it is something else.
    const EXPECTED: &'static str = "an object";
    /// Whether fields of other names are violations.
    const REFUSE_UNKNOWN: bool = true;

    /// Reads the value of the field `name`, one of [`Fields::NAMES`].
    ///
    /// # Errors
    /// Only those of `object`: text that is no JSON.
    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        name: &'static str,
        place: Place<'_>,
        object: &mut A,
    ) -> Result<(), A::Error>;

    /// Called behind the last field: what is missing, what does not go together.
    fn check(&mut self, _place: Place<'_>) {}
}

/// Reads an object's fields; unknown and repeated ones are violations.
pub struct Object<'a, F> {
    pub fields: F,
    pub place: Place<'a>,
}

impl<'de, F: Fields> Reader<'de> for Object<'_, F> {
    type Value = F;
    const EXPECTED: &'static str = F::EXPECTED;

    fn place(&self) -> Place<'_> {
        self.place
    }

    fn null(self) -> Option<F> {
        self.mismatch()
    }

    fn object<A: MapAccess<'de>>(mut self, mut object: A) -> Result<Option<F>, A::Error> {
        let mut seen = 0u32;
        while let Some(key) = object.next_key_seed(Key)? {
            let at = self.place.at.key(&key);
            let place = Place { at: &at, report: self.place.report };
            let Some(index) = F::NAMES.iter().position(|name| *name == key) else {
                if F::REFUSE_UNKNOWN {
                    place.refuse("is not a field of this request");
                }
                object.next_value::<IgnoredAny>()?;
                continue;
            };
            if seen & (1 << index) != 0 {
                place.refuse("is given twice");
                object.next_value::<IgnoredAny>()?;
                continue;
            }
            seen |= 1 << index;
            self.fields.read(F::NAMES[index], place, &mut object)?;
        }
        self.fields.check(self.place);
        Ok(Some(self.fields))
    }
}

/// An object's key, borrowed where it can be.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(value.to_owned()))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(value))
    }
}

/// Reads a whole body as one object.
///
/// # Errors
/// [`Error::Malformed`]: text that is no JSON, by line and column, or the violations.
pub fn object<F: Fields>(body: &[u8], fields: F) -> Result<F, Error> {
    let report = Report::default();
    let fields = object_into(body, fields, &report)?;
    match fields {
        Some(fields) => report.finish(fields),
        None => report.finish(()).and_then(|()| Err(Error::malformed("the body is not a JSON object"))),
    }
}

/// As [`object`], with the violations left in `report`.
///
/// # Errors
/// [`Error::Malformed`] for text that is no JSON.
pub fn object_into<F: Fields>(body: &[u8], fields: F, report: &Report) -> Result<Option<F>, Error> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(Error::malformed("the body is empty; a JSON object is expected"));
    }
    // Checked once for all: strings inside are then borrowed without another look.
    let text = std::str::from_utf8(body)
        .map_err(|e| Error::malformed(format!("the body is not UTF-8 from byte {} on", e.valid_up_to())))?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let place = Place { at: &Pointer::Root, report };
    let read = Seed(Object { fields, place }).deserialize(&mut deserializer);
    let read = read.and_then(|fields| deserializer.end().map(|()| fields));
    read.map_err(|e| Error::malformed(format!("the body is not JSON: {e}")))
}

/// A list read item by item, with a bound.
pub struct List<'a, F> {
    pub place: Place<'a>,
    /// Items beyond are a violation, and not read.
    pub max: usize,
    /// Makes the reader of the item at a place.
    pub item: F,
}

/// What an item of a [`List`] is read by: a function from its place to a value, given the list.
pub trait Item<'de> {
    type Value;

    /// # Errors
    /// Only those of `list`.
    fn next<A: SeqAccess<'de>>(
        &mut self,
        place: Place<'_>,
        list: &mut A,
    ) -> Result<Option<Option<Self::Value>>, A::Error>;
}

impl<'de, F: Item<'de>> Reader<'de> for List<'_, F> {
    type Value = Vec<F::Value>;
    const EXPECTED: &'static str = "a list";

    fn place(&self) -> Place<'_> {
        self.place
    }

    fn list<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Option<Self::Value>, A::Error> {
        let mut values = Vec::new();
        let mut count = 0;
        loop {
            let at = self.place.at.index(count);
            if count == self.max {
                while list.next_element::<IgnoredAny>()?.is_some() {
                    count += 1;
                }
                if count > self.max {
                    self.place.refuse(format!("has {count} items; the limit is {}", self.max));
                }
                return Ok(Some(values));
            }
            match self.item.next(Place { at: &at, report: self.place.report }, &mut list)? {
                Some(value) => values.extend(value),
                None => return Ok(Some(values)),
            }
            count += 1;
        }
    }
}

/// Raw JSON as it came; an object, or a violation.
///
/// # Errors
/// Only those of `object`: text that is no JSON.
pub fn raw_object<'de, A: MapAccess<'de>>(place: Place<'_>, object: &mut A) -> Result<Option<bytes::Bytes>, A::Error> {
    let raw: &'de serde_json::value::RawValue = object.next_value()?;
    let text = raw.get();
    match text.as_bytes().first() {
        Some(b'{') => Ok(Some(bytes::Bytes::copy_from_slice(text.as_bytes()))),
        Some(b'n') => Ok(None),
        Some(_) => {
            place.refuse("must be an object");
            Ok(None)
        }
        None => Err(A::Error::custom("a value is missing")),
    }
}
