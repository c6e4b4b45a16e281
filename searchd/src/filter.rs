//! Filters: which points a search may find, said in JSON over their metadata.
//!
//! `parse` turns JSON into a [`Filter`] or says where it is wrong; `matches` decides for one point. A field that is an
//! array matches when any element does, `a.b` reaches into objects, `$ne`, `$nin` and `$not` match points that lack the
//! field, and values of different types never compare.

mod matches;
mod parse;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;

pub(crate) use matches::compare_numbers;
pub use parse::parse;

/// Deepest nesting of operators.
pub const MAX_DEPTH: usize = 16;
/// Most operators in a filter.
pub const MAX_NODES: usize = 1_024;
/// Most values of one `$in` or `$nin`.
pub const MAX_VALUES: usize = 10_000;
/// Largest filter, in bytes of JSON.
pub const MAX_BYTES: usize = 256 * 1024;

#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// All of them; of none: every point.
    And(Vec<Self>),
    Or(Vec<Self>),
    Not(Box<Self>),
    Field {
        path: Path,
        test: Test,
    },
}

/// Keys from the outermost object inwards.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Path(Vec<String>);

#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    Equals(Scalar),
    In(Vec<Scalar>),
    Compares(Comparison, Scalar),
    Exists,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    String(String),
}

impl Comparison {
    fn admits(self, ordering: Ordering) -> bool {
        match self {
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
        }
    }
}

impl Filter {
    /// Whether every point matches.
    pub fn is_everything(&self) -> bool {
        matches!(self, Self::And(all) if all.iter().all(Self::is_everything))
    }

    /// A text that filters of the same meaning share where that is plain to see: the order of operands and the spelling
    /// of numbers do not matter. For cache keys.
    pub fn canonical(&self) -> String {
        match self {
            Self::And(all) => group("and", all),
            Self::Or(any) => group("or", any),
            Self::Not(inner) => format!("not({})", inner.canonical()),
            Self::Field { path, test } => {
                let path = serde_json::to_string(&path.0).expect("strings serialize");
                match test {
                    Test::Equals(value) => format!("{path}={}", value.canonical()),
                    Test::In(values) => {
                        let mut values: Vec<_> = values.iter().map(Scalar::canonical).collect();
                        values.sort();
                        values.dedup();
                        format!("{path} in[{}]", values.join(","))
                    }
                    Test::Compares(comparison, value) => format!("{path} {comparison:?} {}", value.canonical()),
                    Test::Exists => format!("{path} exists"),
                }
            }
        }
    }
}

fn group(name: &str, members: &[Filter]) -> String {
    let mut members: Vec<_> = members.iter().map(Filter::canonical).collect();
    members.sort();
    members.dedup();
    if let [only] = members.as_slice() {
        return only.clone();
    }
    format!("{name}({})", members.join(","))
}

impl Scalar {
    fn canonical(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) => value.to_string(),
            // An integer that is written as a float is that integer.
            Self::Number(number) => match number.as_f64() {
                Some(float) if !number.is_i64() && !number.is_u64() && float.fract() == 0.0 && float.abs() < 1e15 => {
                    (float as i64).to_string()
                }
                _ => number.to_string(),
            },
            Self::String(text) => serde_json::to_string(text).expect("strings serialize"),
        }
    }
}
