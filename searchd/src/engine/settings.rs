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
    None,
    F16,
    Bf16,
    Int8,
    Binary,
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

/// Settings of a collection, complete: defaults are filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub dimension: u32,
    pub metric: Metric,
    pub quantization: Quantization,
    pub m: u32,
    pub ef_construction: u32,
    pub ef_search: u32,
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
        let ef_search = number(message.ef_search, 64, 1, 10_000, "/ef_search");
        let metric = named(&message.metric, "cosine", Metric::parse);
        if metric.is_none() {
            violations.push(Violation::new("/metric", "must be one of cosine, dot, euclidean"));
        }
        let quantization = named(&message.quantization, "bf16", Quantization::parse);
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
        Ok(Self { dimension, metric, quantization, m, ef_construction, ef_search, residency })
    }

    pub fn to_message(&self) -> v1::CollectionSettings {
        v1::CollectionSettings {
            dimension: self.dimension,
            metric: self.metric.name().to_owned(),
            quantization: self.quantization.name().to_owned(),
            hnsw: Some(v1::Hnsw { m: self.m, ef_construction: self.ef_construction }),
            ef_search: self.ef_search,
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
        assert_eq!((settings.metric, settings.quantization), (Metric::Cosine, Quantization::Bf16));
        assert_eq!((settings.m, settings.ef_construction, settings.ef_search), (16, 128, 64));
        assert_eq!(Settings::from_message(&settings.to_message()).unwrap(), settings);
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
