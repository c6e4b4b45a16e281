//! Points as the bodies of insert requests.

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::client::Problem;
use crate::format::{Source, to_base64};

/// A batch ends when its body is this large, however few points it has.
const MAX_BODY_BYTES: usize = 2 << 20;
/// Faults of one batch that are told.
const MAX_FAULTS: usize = 5;

/// One request.
pub(super) struct Batch {
    pub(super) body: Bytes,
    pub(super) points: usize,
    /// How many points the file has, or about.
    pub(super) total: Option<u64>,
    /// Where each point stands in the file.
    places: Vec<String>,
}

impl Batch {
    /// A refusal in the words of the file: `/vectors/3/values` becomes `line 1004`.
    pub(super) fn explain(&self, problem: &Problem) -> anyhow::Error {
        let place = |pointer: &str| {
            let index = pointer.strip_prefix("/vectors/")?.split('/').next()?.parse::<usize>().ok()?;
            self.places.get(index)
        };
        let faults: Vec<String> = problem
            .errors
            .iter()
            .take(MAX_FAULTS)
            .map(|item| match place(&item.pointer) {
                Some(place) => format!("{place}: {}", item.detail),
                None => format!("{}: {}", item.pointer, item.detail),
            })
            .collect();
        let span = match (self.places.first(), self.places.last()) {
            (Some(first), Some(last)) => format!("the points from {first} to {last}"),
            _ => "the points".to_owned(),
        };
        let faults = if faults.is_empty() { problem.detail.clone() } else { faults.join("; ") };
        anyhow!("{span} were refused ({} {}): {faults}", problem.status, problem.title)
    }
}

/// Makes batches of a source.
pub(super) struct Batches {
    source: Box<dyn Source>,
    collection: String,
    size: usize,
    dimension: Option<usize>,
    /// Points of earlier runs and batches.
    done: u64,
}

#[derive(Serialize)]
struct Point<'a> {
    id: &'a str,
    values: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a RawValue>,
}

impl Batches {
    pub(super) fn new(source: Box<dyn Source>, collection: &str, size: usize, done: u64) -> Self {
        let dimension = source.dimension();
        Self { source, collection: collection.to_owned(), size, dimension, done }
    }

    pub(super) fn next(&mut self) -> Result<Option<Batch>> {
        let collection = serde_json::to_string(&self.collection)?;
        let mut body = format!("{{\"collection\":{collection},\"vectors\":[").into_bytes();
        let mut places = Vec::new();
        while places.len() < self.size && body.len() < MAX_BODY_BYTES {
            let stored = self.done;
            let Some(point) = self.source.next().with_context(|| format!("behind the first {stored} points"))? else {
                break;
            };
            self.check(&point.id, &point.values)?;
            if !places.is_empty() {
                body.push(b',');
            }
            let values = to_base64(&point.values);
            let line = Point { id: &point.id, values, metadata: point.metadata.as_deref() };
            serde_json::to_writer(&mut body, &line)?;
            places.push(self.source.place());
            self.done += 1;
        }
        body.extend_from_slice(b"]}");
        let total = self.source.total().map(|total| total.max(self.done));
        Ok((!places.is_empty()).then(|| Batch { body: body.into(), points: places.len(), total, places }))
    }

    /// What can be seen to be wrong before a batch is sent. The server has the last word.
    fn check(&self, id: &str, values: &[f32]) -> Result<()> {
        let place = self.source.place();
        if let Some(dimension) = self.dimension
            && values.len() != dimension
        {
            bail!("{place}: the point {id:?} has {} numbers, those before it {dimension}", values.len());
        }
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            bail!("{place}: the number {at} of the point {id:?} is {}", values[at]);
        }
        Ok(())
    }
}
