//! Everything that stands under one path, by value and type.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;

use roaring::RoaringBitmap;
use serde_json::Value;

use super::number::Number;
use super::slots::{self, Slots, Union};
use crate::engine::Slot;
use crate::filter::{Comparison, Scalar, Test};

/// Longer strings are known by their first bytes, up to so many; what they are beyond is looked up in the record.
pub(super) const MAX_TEXT_BYTES: usize = 128;

#[derive(Debug, Default)]
pub(super) struct Column {
    /// Records that have the path, whatever stands there.
    exists: Option<Slots>,
    nulls: Option<Slots>,
    falses: Option<Slots>,
    trues: Option<Slots>,
    numbers: BTreeMap<Number, Slots>,
    strings: BTreeMap<Box<str>, Slots>,
    /// Strings that are longer than their key here.
    cut: BTreeMap<Box<str>, Slots>,
}

/// Slots that match, and slots that may: see [`super::bounds::Bounds`].
#[derive(Default)]
struct Hits {
    sure: Union,
    doubt: Union,
}

impl Column {
    pub(super) fn is_empty(&self) -> bool {
        self.exists.is_none()
    }

    /// Returns what that takes in memory, in bytes, about.
    pub(super) fn insert_path(&mut self, slot: Slot) -> usize {
        slots::insert(&mut self.exists, slot);
        SLOT
    }

    /// Returns what that gives back, in bytes, about.
    pub(super) fn remove_path(&mut self, slot: Slot) -> usize {
        slots::remove(&mut self.exists, slot);
        SLOT
    }

    /// Arrays and objects are no values: what is in them is. Returns what that takes in memory, in bytes, about.
    pub(super) fn insert(&mut self, slot: Slot, value: &Value) -> usize {
        match value {
            Value::Null => slots::insert(&mut self.nulls, slot),
            Value::Bool(false) => slots::insert(&mut self.falses, slot),
            Value::Bool(true) => slots::insert(&mut self.trues, slot),
            Value::Number(number) => return SLOT + add_number(&mut self.numbers, number, slot),
            Value::String(text) => {
                let (texts, key) = match beginning(text) {
                    None => (&mut self.strings, text.as_str()),
                    Some(beginning) => (&mut self.cut, beginning),
                };
                return SLOT + add_text(texts, key, slot);
            }
            Value::Array(_) | Value::Object(_) => {}
        }
        SLOT
    }

    /// Returns what that gives back, in bytes, about.
    pub(super) fn remove(&mut self, slot: Slot, value: &Value) -> usize {
        match value {
            Value::Null => slots::remove(&mut self.nulls, slot),
            Value::Bool(false) => slots::remove(&mut self.falses, slot),
            Value::Bool(true) => slots::remove(&mut self.trues, slot),
            Value::Number(number) => return SLOT + remove_number(&mut self.numbers, number, slot),
            Value::String(text) => {
                let (texts, key) = match beginning(text) {
                    None => (&mut self.strings, text.as_str()),
                    Some(beginning) => (&mut self.cut, beginning),
                };
                return SLOT + remove_text(texts, key, slot);
            }
            Value::Array(_) | Value::Object(_) => {}
        }
        SLOT
    }

    /// Slots where the test holds, and slots where it may. `None` when more than `budget` values would have to be gone
    /// through.
    pub(super) fn find(&self, test: &Test, budget: usize) -> Option<(RoaringBitmap, RoaringBitmap)> {
        // The plain cases, without a detour.
        match test {
            Test::Exists => return Some((bitmap(self.exists.as_ref()), RoaringBitmap::new())),
            Test::Equals(Scalar::Number(number)) => {
                return Some((bitmap(self.numbers.get(&Number(number.clone()))), RoaringBitmap::new()));
            }
            Test::Equals(Scalar::String(text)) if beginning(text).is_none() => {
                return Some((bitmap(self.strings.get(text.as_str())), RoaringBitmap::new()));
            }
            _ => {}
        }
        let mut hits = Hits::default();
        match test {
            Test::Exists => {}
            Test::Equals(value) => self.equals(value, &mut hits),
            Test::In(values) => values.iter().for_each(|value| self.equals(value, &mut hits)),
            Test::Compares(comparison, Scalar::Number(bound)) => {
                let values = self.numbers.range(range(*comparison, &Number(bound.clone())));
                within(values, budget, |_, slots| slots.add_to(&mut hits.sure))?;
            }
            Test::Compares(comparison, Scalar::String(bound)) => {
                let values = self.strings.range::<str, _>(range(*comparison, bound.as_str()));
                within(values, budget, |_, slots| slots.add_to(&mut hits.sure))?;
                self.compare_cut(*comparison, bound, budget, &mut hits)?;
            }
            // Of other types only equality is defined; these come from no parser.
            Test::Compares(..) => return None,
        }
        let sure = hits.sure.finish();
        let doubt = hits.doubt.finish() - &sure;
        Some((sure, doubt))
    }

    fn equals(&self, value: &Scalar, hits: &mut Hits) {
        let (slots, set) = match value {
            Scalar::Null => (self.nulls.as_ref(), &mut hits.sure),
            Scalar::Bool(false) => (self.falses.as_ref(), &mut hits.sure),
            Scalar::Bool(true) => (self.trues.as_ref(), &mut hits.sure),
            Scalar::Number(number) => (self.numbers.get(&Number(number.clone())), &mut hits.sure),
            Scalar::String(text) => match beginning(text) {
                None => (self.strings.get(text.as_str()), &mut hits.sure),
                Some(beginning) => (self.cut.get(beginning), &mut hits.doubt),
            },
        };
        if let Some(slots) = slots {
            slots.add_to(set);
        }
    }

    /// A string that goes on behind its key is after the bound when its key is not before it, and before the bound when
    /// its key is, unless the bound begins with the key: then only the record tells.
    fn compare_cut(&self, comparison: Comparison, bound: &str, budget: usize, hits: &mut Hits) -> Option<()> {
        let after = matches!(comparison, Comparison::Greater | Comparison::GreaterOrEqual);
        let split = |from, to| self.cut.range::<str, _>((from, to));
        if after {
            for key in beginnings(bound) {
                if let Some(slots) = self.cut.get(key) {
                    slots.add_to(&mut hits.doubt);
                }
            }
            let values = split(Bound::Included(bound), Bound::Unbounded);
            return within(values, budget, |_, slots| slots.add_to(&mut hits.sure));
        }
        within(split(Bound::Unbounded, Bound::Excluded(bound)), budget, |key, slots| {
            let set = if bound.starts_with(&**key) { &mut hits.doubt } else { &mut hits.sure };
            slots.add_to(set);
        })
    }
}

/// What a slot takes, what an entry of a map takes beside its key, and what a string takes beside its bytes, about.
const SLOT: usize = 4;
const ENTRY: usize = size_of::<Slots>() + 8;
const TEXT: usize = 24;

/// The part of a long string that is its key; `None` for a string that is short enough to be its own.
fn beginning(text: &str) -> Option<&str> {
    (text.len() > MAX_TEXT_BYTES).then(|| beginnings(text).next().unwrap_or_default())
}

/// All beginnings of a string that long strings may have as their key, longest first: a key ends between letters, of
/// which the longest has four bytes.
fn beginnings(text: &str) -> impl Iterator<Item = &str> {
    let ends = MAX_TEXT_BYTES - (char::MAX.len_utf8() - 1)..=MAX_TEXT_BYTES;
    // A string that is all of the key is before every string that goes on behind it.
    ends.rev().filter(|end| *end < text.len()).filter_map(|end| text.get(..end))
}

fn bitmap(slots: Option<&Slots>) -> RoaringBitmap {
    slots.map(Slots::to_bitmap).unwrap_or_default()
}

fn add_number(values: &mut BTreeMap<Number, Slots>, number: &serde_json::Number, slot: Slot) -> usize {
    match values.entry(Number(number.clone())) {
        Entry::Occupied(mut known) => {
            known.get_mut().insert(slot);
            0
        }
        Entry::Vacant(place) => {
            place.insert(Slots::One(slot));
            ENTRY + size_of::<Number>()
        }
    }
}

fn remove_number(values: &mut BTreeMap<Number, Slots>, number: &serde_json::Number, slot: Slot) -> usize {
    let Entry::Occupied(mut known) = values.entry(Number(number.clone())) else { return 0 };
    if known.get_mut().remove(slot) {
        return 0;
    }
    known.remove();
    ENTRY + size_of::<Number>()
}

/// Looks strings up by reference: most are there already, and need no copy.
fn add_text(values: &mut BTreeMap<Box<str>, Slots>, text: &str, slot: Slot) -> usize {
    if let Some(slots) = values.get_mut(text) {
        slots.insert(slot);
        return 0;
    }
    values.insert(text.into(), Slots::One(slot));
    ENTRY + TEXT + text.len()
}

fn remove_text(values: &mut BTreeMap<Box<str>, Slots>, text: &str, slot: Slot) -> usize {
    if values.get_mut(text).is_some_and(|slots| !slots.remove(slot)) {
        values.remove(text);
        return ENTRY + TEXT + text.len();
    }
    0
}

fn range<T: ?Sized>(comparison: Comparison, bound: &T) -> (Bound<&T>, Bound<&T>) {
    match comparison {
        Comparison::Greater => (Bound::Excluded(bound), Bound::Unbounded),
        Comparison::GreaterOrEqual => (Bound::Included(bound), Bound::Unbounded),
        Comparison::Less => (Bound::Unbounded, Bound::Excluded(bound)),
        Comparison::LessOrEqual => (Bound::Unbounded, Bound::Included(bound)),
    }
}

/// Goes through at most `budget` values; `None` when there are more.
fn within<'a, K: 'a>(
    values: impl Iterator<Item = (&'a K, &'a Slots)>,
    budget: usize,
    mut each: impl FnMut(&'a K, &'a Slots),
) -> Option<()> {
    for (number, (key, slots)) in values.enumerate() {
        if number >= budget {
            return None;
        }
        each(key, slots);
    }
    Some(())
}
