//! Answers, written straight to bytes. Metadata goes out as it is stored, numbers in their shortest form.

use bytes::Bytes;
use nearfield_proto::v1::{
    Collection, CollectionSettings, DeleteResponse, InsertResponse, MeasureRecallResponse, Record, SearchRequest,
    SearchResponse, SearchResult, UpdateResponse,
};
use serde::Serialize;

use super::explanation::Explanation;

/// A JSON text while it is written.
#[derive(Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// Text that is JSON, or a piece of it, already.
    pub(crate) fn raw(&mut self, json: &str) -> &mut Self {
        self.0.extend_from_slice(json.as_bytes());
        self
    }

    /// A JSON object as it is stored; nothing counts as `{}`. Line ends are white space in JSON, but not in the
    /// framings that answers are put in, so they become spaces.
    pub(crate) fn object(&mut self, json: &[u8]) -> &mut Self {
        if json.is_empty() {
            return self.raw("{}");
        }
        let start = self.0.len();
        self.0.extend_from_slice(json);
        for byte in &mut self.0[start..] {
            if matches!(*byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
        self
    }

    pub(crate) fn value(&mut self, value: &(impl Serialize + ?Sized)) -> &mut Self {
        serde_json::to_writer(&mut self.0, value).expect("numbers, strings and derived structs always serialize");
        self
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn finish(self) -> Bytes {
        Bytes::from(self.0)
    }
}

/// What comes with a hit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Include {
    pub metadata: bool,
    pub values: bool,
}

impl Include {
    pub(crate) fn of(request: &SearchRequest) -> Self {
        let has = |what: &str| request.include.iter().any(|included| included == what);
        Self { metadata: request.include.is_empty() || has("metadata"), values: has("values") }
    }
}

/// Writes `,"metadata":…,"values":…` as far as they are included.
pub(crate) fn hit_rest(out: &mut Writer, hit: &SearchResult, include: Include) {
    if include.metadata {
        out.raw(",\"metadata\":").object(&hit.metadata);
    }
    if include.values {
        out.raw(",\"values\":").value(&hit.values);
    }
}

/// Writes `[{"id","score",…},…]`.
pub(crate) fn hits(out: &mut Writer, hits: &[SearchResult], include: Include) {
    out.raw("[");
    for (i, hit) in hits.iter().enumerate() {
        out.raw(if i == 0 { "{\"id\":" } else { ",{\"id\":" }).value(&hit.vector_id);
        out.raw(",\"score\":").value(&hit.score);
        hit_rest(out, hit, include);
        out.raw("}");
    }
    out.raw("]");
}

/// Writes the answer to one search.
pub(crate) fn search_into(out: &mut Writer, response: &SearchResponse, include: Include) {
    out.raw("{\"results\":");
    hits(out, &response.results, include);
    totals(out, response);
    out.raw("}");
}

/// Writes what an answer has beside its hits.
pub(crate) fn totals(out: &mut Writer, response: &SearchResponse) {
    out.raw(",\"total_results\":").value(&response.total_results);
    out.raw(",\"collection_version\":").value(&response.collection_version);
    if let Some(explanation) = &response.explanation {
        out.raw(",\"explain\":").value(&Explanation::from(explanation));
    }
}

pub(crate) fn search(response: &SearchResponse, include: Include) -> Bytes {
    let weight = |hit: &SearchResult| 48 + hit.vector_id.len() + hit.metadata.len() + hit.values.len() * 12;
    let mut out = Writer::with_capacity(96 + response.results.iter().map(weight).sum::<usize>());
    search_into(&mut out, response, include);
    out.finish()
}

/// Writes a search as the body of `POST /search`: what is read from it is the same search.
pub(crate) fn search_body(search: &SearchRequest) -> Bytes {
    let mut out = Writer::with_capacity(128 + search.query.len() * 12);
    out.raw("{\"collection\":").value(&search.collection);
    if search.query.is_empty() {
        out.raw(",\"query_vector_id\":").value(&search.query_vector_id);
    } else {
        out.raw(",\"query\":").value(&search.query);
    }
    let include: Vec<&str> = search.include.iter().map(String::as_str).filter(|word| *word != "id").collect();
    out.raw(",\"k\":").value(&search.k).raw(",\"include\":").value(&include);
    out.raw(",\"exact\":").value(&search.exact);
    if !search.metric.is_empty() {
        out.raw(",\"metric\":").value(&search.metric);
    }
    if !search.filter.is_empty() {
        out.raw(",\"filter\":").object(&search.filter);
    }
    if search.recall_target > 0.0 {
        out.raw(",\"recall_target\":").value(&search.recall_target);
    }
    if search.ef_search > 0 {
        out.raw(",\"ef_search\":").value(&search.ef_search);
    }
    out.raw("}");
    out.finish()
}

/// Writes a stored point, on one line.
pub(crate) fn record_into(out: &mut Writer, record: &Record) {
    out.raw("{\"id\":").value(&record.id);
    out.raw(",\"values\":").value(&record.values);
    out.raw(",\"metadata\":").object(&record.metadata);
    out.raw(",\"version\":").value(&record.version).raw("}");
}

pub(crate) fn record(record: &Record) -> Bytes {
    let mut out = Writer::with_capacity(64 + record.values.len() * 12 + record.metadata.len());
    record_into(&mut out, record);
    out.finish()
}

/// An answer of a few numbers and texts.
pub(crate) fn plain(value: &impl Serialize) -> Bytes {
    let mut out = Writer::default();
    out.value(value);
    out.finish()
}

/// `POST /insert` and the WebSocket's acknowledgement.
#[derive(Serialize)]
pub(crate) struct Inserted<'a> {
    inserted: u64,
    session: &'a str,
}

impl<'a> From<&'a InsertResponse> for Inserted<'a> {
    fn from(response: &'a InsertResponse) -> Self {
        Self { inserted: response.inserted, session: &response.session }
    }
}

#[derive(Serialize)]
pub(crate) struct Updated<'a> {
    version: u64,
    session: &'a str,
}

impl<'a> From<&'a UpdateResponse> for Updated<'a> {
    fn from(response: &'a UpdateResponse) -> Self {
        Self { version: response.version, session: &response.session }
    }
}

#[derive(Serialize)]
pub(crate) struct Deleted<'a> {
    deleted: u64,
    session: &'a str,
}

impl<'a> From<&'a DeleteResponse> for Deleted<'a> {
    fn from(response: &'a DeleteResponse) -> Self {
        Self { deleted: response.deleted, session: &response.session }
    }
}

/// A collection as `GET /collections/{c}` tells it.
#[derive(Serialize)]
pub(crate) struct CollectionAnswer<'a> {
    name: &'a str,
    #[serde(flatten)]
    settings: SettingsAnswer<'a>,
    count: u64,
    version: u64,
    status: &'a str,
    bytes: BytesAnswer,
}

#[derive(Serialize)]
struct SettingsAnswer<'a> {
    dimension: u32,
    metric: &'a str,
    quantization: &'a str,
    hnsw: HnswAnswer,
    /// One of the two says how hard searches try.
    #[serde(skip_serializing_if = "Option::is_none")]
    ef_search: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recall_target: Option<f64>,
    residency: &'a [String],
}

#[derive(Serialize)]
struct HnswAnswer {
    m: u32,
    ef_construction: u32,
}

#[derive(Serialize)]
struct BytesAnswer {
    memory: u64,
    disk: u64,
}

/// `GET /collections/{c}/recall`.
#[derive(Serialize)]
pub(crate) struct RecallAnswer {
    recall_at_10: f64,
    samples: u32,
    ef: u32,
    took_ms: f64,
}

impl From<MeasureRecallResponse> for RecallAnswer {
    fn from(measured: MeasureRecallResponse) -> Self {
        let MeasureRecallResponse { recall_at_10, samples, ef, took_ms } = measured;
        Self { recall_at_10, samples, ef, took_ms }
    }
}

/// `GET /collections`.
#[derive(Serialize)]
pub(crate) struct CollectionsAnswer<'a> {
    pub(crate) collections: Vec<CollectionAnswer<'a>>,
}

impl<'a> From<&'a Collection> for CollectionAnswer<'a> {
    fn from(collection: &'a Collection) -> Self {
        Self {
            name: &collection.name,
            settings: collection.settings.as_ref().map(SettingsAnswer::from).unwrap_or_default(),
            count: collection.count,
            version: collection.version,
            status: &collection.status,
            bytes: BytesAnswer { memory: collection.memory_bytes, disk: collection.disk_bytes },
        }
    }
}

impl<'a> From<&'a CollectionSettings> for SettingsAnswer<'a> {
    fn from(settings: &'a CollectionSettings) -> Self {
        let hnsw = settings.hnsw.unwrap_or_default();
        Self {
            dimension: settings.dimension,
            metric: &settings.metric,
            quantization: &settings.quantization,
            hnsw: HnswAnswer { m: hnsw.m, ef_construction: hnsw.ef_construction },
            ef_search: (settings.ef_search > 0).then_some(settings.ef_search),
            recall_target: (settings.recall_target > 0.0).then_some(settings.recall_target),
            residency: &settings.residency,
        }
    }
}

impl Default for SettingsAnswer<'_> {
    fn default() -> Self {
        let hnsw = HnswAnswer { m: 0, ef_construction: 0 };
        Self { dimension: 0, metric: "", quantization: "", hnsw, ef_search: None, recall_target: None, residency: &[] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hit_has_what_was_asked_for() {
        let hit = SearchResult {
            vector_id: "a\"b".to_owned(),
            score: 0.1,
            metadata: Bytes::from_static(b"{\"x\":\n1}"),
            values: vec![1.0, -0.5],
            ..SearchResult::default()
        };
        let response =
            SearchResponse { results: vec![hit], total_results: 1, collection_version: 7, explanation: None };
        let text = |metadata, values| search(&response, Include { metadata, values });
        let rest = "}],\"total_results\":1,\"collection_version\":7}";
        let head = "{\"results\":[{\"id\":\"a\\\"b\",\"score\":0.1";
        assert_eq!(text(false, false), format!("{head}{rest}"));
        assert_eq!(text(true, false), format!("{head},\"metadata\":{{\"x\": 1}}{rest}"));
        assert_eq!(text(false, true), format!("{head},\"values\":[1.0,-0.5]{rest}"));
    }
}
