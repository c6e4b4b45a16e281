//! How a search was answered, as JSON.

use nearfield_proto::v1;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

#[derive(Serialize)]
pub(crate) struct Explanation<'a> {
    plan: &'a str,
    points: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    filter: Option<Filter<'a>>,
    segments: Vec<Segment<'a>>,
    distances: u64,
    candidates: u64,
    rescored: u64,
    cache: Caches<'a>,
    attempts: u32,
    phases_us: Phases<'a>,
}

#[derive(Serialize)]
struct Filter<'a> {
    admitted: u64,
    selectivity: f64,
    index: &'a str,
    records_read: u64,
}

#[derive(Serialize)]
struct Segment<'a> {
    segment: &'a str,
    rows: u64,
    live: u64,
    findable: u64,
    selectivity: f64,
    counted: bool,
    way: &'a str,
    why: &'a str,
    distances: u64,
    candidates: u64,
    rescored: u64,
    us: u64,
}

#[derive(Serialize)]
struct Caches<'a> {
    result: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    filter: Option<&'a str>,
}

/// Microseconds by phase, in the order in which they came.
struct Phases<'a>(&'a [v1::Phase]);

impl Serialize for Phases<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        self.0.iter().try_for_each(|phase| map.serialize_entry(&phase.name, &phase.us))?;
        map.end()
    }
}

impl<'a> From<&'a v1::Explanation> for Explanation<'a> {
    fn from(message: &'a v1::Explanation) -> Self {
        let filter = message.filter.as_ref();
        Self {
            plan: &message.plan,
            points: message.points,
            filter: filter.map(|filter| Filter {
                admitted: filter.admitted,
                selectivity: filter.selectivity,
                index: &filter.index,
                records_read: filter.records_read,
            }),
            segments: message.segments.iter().map(Segment::from).collect(),
            distances: message.distances,
            candidates: message.candidates,
            rescored: message.rescored,
            cache: Caches { result: &message.result_cache, filter: filter.map(|filter| filter.cache.as_str()) },
            attempts: message.attempts,
            phases_us: Phases(&message.phases),
        }
    }
}

impl<'a> From<&'a v1::SegmentExplanation> for Segment<'a> {
    fn from(message: &'a v1::SegmentExplanation) -> Self {
        Self {
            segment: &message.segment,
            rows: message.rows,
            live: message.live,
            findable: message.findable,
            selectivity: message.selectivity,
            counted: message.counted,
            way: &message.way,
            why: &message.why,
            distances: message.distances,
            candidates: message.candidates,
            rescored: message.rescored,
            us: message.us,
        }
    }
}
