//! A collection's settings, checked: what is asked for over the wire becomes a value that can only be right.

use nearfield_proto::v1;

/// Most numbers that a vector may have.
pub const MAX_DIMENSION: u32 = 4_096;

/// How nearness is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Metric {
    /// Cosine similarity, higher is better.
    Cosine,
    /// Inner product, higher is better.
    Dot,
    /// Euclidean distance, lower is better.
    Euclidean,
}

impl Metric {
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "cosine" => Some(Self::Cosine),
            "dot" => Some(Self::Dot),
            "euclidean" => Some(Self::Euclidean),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Cosine => "cosine",
            Self::Dot => "dot",
            Self::Euclidean => "euclidean",
        }
    }
}

/// The form of the vectors inside the graph. Full precision is kept beside it and decides the final order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quantization {
    /// 32-bit floats.
    None,
    F16,
    Bf16,
    /// Eight bits for each coordinate of the rotated vector.
    Int8,
    /// The signs of the rotated vector's coordinates, with a length for each vector (RaBitQ).
    Binary,
    /// A product of one-dimensional quantizers over the rotated vector: 1 (of wide vectors), 2, 4 or 8 bits a
    /// coordinate, the fewest that reach the collection's recall on each segment's own vectors.
    Pq,
}

impl Quantization {
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "none" => Some(Self::None),
            "f16" => Some(Self::F16),
            "bf16" => Some(Self::Bf16),
            "int8" => Some(Self::Int8),
            "binary" => Some(Self::Binary),
            "pq" => Some(Self::Pq),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Binary => "binary",
            Self::Pq => "pq",
        }
    }
}

/// The share of a query's nearest points that is found, 0.5 to 0.999, in ten-thousandths so that it is equal or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Recall(u16);

impl Recall {
    /// What a search finds that asks for nothing else.
    pub const USUAL: Self = Self(9_500);
    const LEAST: f64 = 0.5;
    const MOST: f64 = 0.999;

    /// `None` outside of what can be asked for.
    pub fn new(share: f64) -> Option<Self> {
        (Self::LEAST..=Self::MOST).contains(&share).then_some(Self((share * 10_000.0).round() as u16))
    }

    pub fn share(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }
}

/// How hard a search tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effort {
    /// Candidates that are kept, in such a measure that [`USUAL_EF`] of them find [`Recall::USUAL`]: a graph that needs
    /// more for it keeps more in proportion.
    Candidates(u32),
    /// As many as are needed for it.
    Recall(Recall),
}

/// `ef_search` unless it is set.
pub const USUAL_EF: u32 = 64;
/// Largest `ef_search`.
const MAX_EF: u32 = 10_000;

impl Effort {
    /// Reads the two fields of a message that say it, each 0 for not given; none when neither is.
    pub fn from_fields(ef_search: u32, recall_target: f64) -> Result<Option<Self>, Vec<Violation>> {
        let violation = |field, description: String| Err(vec![Violation::new(field, description)]);
        match (ef_search > 0, recall_target != 0.0) {
            (false, false) => Ok(None),
            (true, true) => Err(vec![
                Violation::new("/ef_search", "must not be given together with recall_target"),
                Violation::new("/recall_target", "must not be given together with ef_search"),
            ]),
            (true, false) if ef_search > MAX_EF => {
                violation("/ef_search", format!("must be between 1 and {MAX_EF}, is {ef_search}"))
            }
            (true, false) => Ok(Some(Self::Candidates(ef_search))),
            (false, true) => match Recall::new(recall_target) {
                Some(recall) => Ok(Some(Self::Recall(recall))),
                None => violation("/recall_target", format!("must be between 0.5 and 0.999, is {recall_target}")),
            },
        }
    }
}

/// Settings of a collection, complete: defaults are filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub dimension: u32,
    pub metric: Metric,
    pub quantization: Quantization,
    pub m: u32,
    pub ef_construction: u32,
    pub effort: Effort,
    /// Sorted, without repeats.
    pub residency: Vec<String>,
}

/// One thing that is wrong with a request: a JSON pointer and words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub field: String,
    pub description: String,
}

impl Violation {
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self { field: field.into(), description: description.into() }
    }
}

impl Settings {
    /// Checks the message and fills in the defaults, or says everything that is wrong with it.
    pub fn from_message(message: &v1::CollectionSettings) -> Result<Self, Vec<Violation>> {
        let mut violations = Vec::new();
        let mut number = |value: u32, default: u32, low: u32, high: u32, field: &str| {
            let value = if value == 0 { default } else { value };
            if !(low..=high).contains(&value) {
                violations.push(Violation::new(field, format!("must be between {low} and {high}, is {value}")));
            }
            value
        };
        let dimension = number(message.dimension, 0, 1, MAX_DIMENSION, "/dimension");
        let hnsw = message.hnsw.unwrap_or_default();
        let m = number(hnsw.m, 16, 4, 64, "/hnsw/m");
        let ef_construction = number(hnsw.ef_construction, 128, 8, 1_024, "/hnsw/ef_construction");
        let effort = Effort::from_fields(message.ef_search, message.recall_target).unwrap_or_else(|wrong| {
            violations.extend(wrong);
            None
        });
        let metric = named(&message.metric, "cosine", Metric::parse);
        if metric.is_none() {
            violations.push(Violation::new("/metric", "must be one of cosine, dot, euclidean"));
        }
        let quantization = named(&message.quantization, "pq", Quantization::parse);
        if quantization.is_none() {
            let description = "must be one of none, f16, bf16, int8, binary, pq";
            violations.push(Violation::new("/quantization", description));
        }
        violations.extend(residency_violations(&message.residency));
        let (Some(metric), Some(quantization), true) = (metric, quantization, violations.is_empty()) else {
            return Err(violations);
        };
        let mut residency = message.residency.clone();
        residency.sort();
        residency.dedup();
        let effort = effort.unwrap_or(Effort::Candidates(USUAL_EF));
        Ok(Self { dimension, metric, quantization, m, ef_construction, effort, residency })
    }

    pub fn to_message(&self) -> v1::CollectionSettings {
        let (ef_search, recall_target) = match self.effort {
            Effort::Candidates(ef) => (ef, 0.0),
            Effort::Recall(recall) => (0, recall.share()),
        };
        v1::CollectionSettings {
            dimension: self.dimension,
            metric: self.metric.name().to_owned(),
            quantization: self.quantization.name().to_owned(),
            hnsw: Some(v1::Hnsw { m: self.m, ef_construction: self.ef_construction }),
            ef_search,
            recall_target,
            residency: self.residency.clone(),
        }
    }
}

fn named<T>(name: &str, default: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
    parse(if name.is_empty() { default } else { name })
}

/// An area's name is a lower-case word; which areas exist is the topology's to say, not the index's.
fn residency_violations(areas: &[String]) -> Vec<Violation> {
    if areas.len() > MAX_AREAS {
        return vec![Violation::new(
            "/residency",
            format!("names {} areas, at most {MAX_AREAS} are allowed", areas.len()),
        )];
    }
    let bad = |area: &String| {
        let word = !area.is_empty() && area.len() <= 64;
        !word || !area.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    let numbered = areas.iter().enumerate().filter(|(_, area)| bad(area));
    numbered.map(|(i, _)| Violation::new(format!("/residency/{i}"), "must be an area's name, such as europe")).collect()
}

const MAX_AREAS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_filled_in() {
        let settings =
            Settings::from_message(&v1::CollectionSettings { dimension: 384, ..Default::default() }).unwrap();
        assert_eq!((settings.metric, settings.quantization), (Metric::Cosine, Quantization::Pq));
        assert_eq!((settings.m, settings.ef_construction, settings.effort), (16, 128, Effort::Candidates(64)));
        assert_eq!(Settings::from_message(&settings.to_message()).unwrap(), settings);
    }

    #[test]
    fn effort_is_said_in_one_way() {
        let read = |ef_search, recall_target| {
            let message =
                v1::CollectionSettings { dimension: 8, ef_search, recall_target, ..v1::CollectionSettings::default() };
            Settings::from_message(&message)
        };
        let fields = |ef, recall| {
            let wrong: Vec<String> = read(ef, recall).unwrap_err().into_iter().map(|v| v.field).collect();
            wrong
        };
        assert_eq!(read(9, 0.0).unwrap().effort, Effort::Candidates(9));
        let settings = read(0, 0.98).unwrap();
        assert_eq!(settings.effort, Effort::Recall(Recall(9_800)));
        assert_eq!(Settings::from_message(&settings.to_message()).unwrap(), settings);
        assert_eq!(fields(9, 0.98), ["/ef_search", "/recall_target"]);
        assert_eq!(fields(10_001, 0.0), ["/ef_search"]);
        for recall in [0.4999, 0.9991, -1.0, 1.0, f64::NAN] {
            assert_eq!(fields(0, recall), ["/recall_target"], "{recall}");
        }
    }

    #[test]
    fn everything_wrong_is_said_at_once() {
        let message = v1::CollectionSettings {
            metric: "hamming".into(),
            quantization: "f8".into(),
            residency: vec!["Europe!".into()],
            ..Default::default()
        };
        let violations = Settings::from_message(&message).unwrap_err();
        let fields: Vec<_> = violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["/dimension", "/metric", "/quantization", "/residency/0"]);
    }
}
