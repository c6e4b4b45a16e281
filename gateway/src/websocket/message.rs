//! The messages of a WebSocket, both ways.

use std::borrow::Cow;

use bytes::Bytes;
use nearfield_proto::v1::{DeleteRequest, InsertRequest, SearchRequest, SearchResponse, SearchResult, UpdateRequest};
use serde::Serialize;
use serde::de::MapAccess;

use crate::error::Error;
use crate::forward::codec::answer::{self, Include, Writer};
use crate::forward::codec::json::{self, Fields, Place, Report};
use crate::forward::codec::point::{DeleteFields, InsertFields, UpdateFields};
use crate::forward::codec::read;
use crate::forward::codec::search::SearchFields;
use crate::rescue::Problem;

/// Bytes of a message's id.
const ID_BYTES_MAX: usize = 256;

/// What a client asks.
#[derive(Debug)]
pub(crate) enum Ask {
    Delete(DeleteRequest),
    Insert(InsertRequest),
    Ping,
    Search { request: SearchRequest, stream: bool },
    Update(UpdateRequest),
}

/// A client's message: its id, as far as one could be read, and what it asks or what is wrong with it.
pub(crate) struct Message {
    pub id: Option<String>,
    pub ask: Result<Ask, Error>,
}

/// Reads a message.
pub(crate) fn read(text: &[u8]) -> Message {
    // Which fields a message may have depends on its type, which may stand behind them: it is looked for first.
    let report = Report::default();
    let head = match json::object_into(text, Head::default(), &report) {
        Ok(head) => head.unwrap_or_default(),
        Err(error) => return Message { id: None, ask: Err(error) },
    };
    let Head { kind, id } = head;
    let ask = match report.finish(()) {
        Ok(()) => of_kind(kind.as_deref(), text),
        Err(error) => Err(error),
    };
    Message { id, ask }
}

fn of_kind(kind: Option<&str>, text: &[u8]) -> Result<Ask, Error> {
    match kind {
        Some("search") => {
            let read = json::object(text, Search::default())?;
            Ok(Ask::Search { request: read.fields.request, stream: read.stream.unwrap_or(true) })
        }
        Some("insert") => Ok(Ask::Insert(json::object(text, Insert::default())?.0.request)),
        Some("update") => Ok(Ask::Update(json::object(text, Update::default())?.fields.request)),
        Some("delete") => Ok(Ask::Delete(json::object(text, Delete::default())?.0.request)),
        Some("ping") => json::object(text, Ping).map(|_| Ask::Ping),
        Some(_) => Err(Error::invalid("/type", "is not one of search, insert, update, delete, ping")),
        None => Err(Error::invalid("/type", "is missing")),
    }
}

/// What every message has. Other fields are passed over.
#[derive(Default)]
struct Head {
    kind: Option<String>,
    id: Option<String>,
}

impl Fields for Head {
    const NAMES: &'static [&'static str] = &["type", "id"];
    const REFUSE_UNKNOWN: bool = false;

    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        name: &'static str,
        place: Place<'_>,
        object: &mut A,
    ) -> Result<(), A::Error> {
        let text = read::text(place, object)?;
        match (name, text) {
            ("type", kind) => self.kind = kind.map(Cow::into_owned),
            (_, Some(id)) if id.len() > ID_BYTES_MAX => {
                place.refuse(format!("has {} bytes; the limit is {ID_BYTES_MAX}", id.len()));
            }
            (_, id) => self.id = id.map(Cow::into_owned),
        }
        Ok(())
    }
}

/// Passes over what [`Head`] has read.
fn skip<'de, A: MapAccess<'de>>(object: &mut A) -> Result<(), A::Error> {
    object.next_value::<serde::de::IgnoredAny>().map(drop)
}

#[derive(Default)]
struct Search {
    fields: SearchFields,
    stream: Option<bool>,
}

impl Fields for Search {
    const NAMES: &'static [&'static str] = &[
        "type",
        "id",
        "stream",
        "collection",
        "query",
        "query_vector_id",
        "k",
        "metric",
        "filter",
        "include",
        "ef_search",
        "recall_target",
        "exact",
        "session",
        "explain",
    ];

    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        name: &'static str,
        place: Place<'_>,
        object: &mut A,
    ) -> Result<(), A::Error> {
        match name {
            "type" | "id" => skip(object),
            "stream" => {
                self.stream = read::flag(place, object)?;
                Ok(())
            }
            _ => self.fields.read_field(name, place, object),
        }
    }

    fn check(&mut self, place: Place<'_>) {
        self.fields.check_query(place);
    }
}

#[derive(Default)]
struct Insert(InsertFields);

impl Fields for Insert {
    const NAMES: &'static [&'static str] = &["type", "id", "collection", "vectors"];

    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        name: &'static str,
        place: Place<'_>,
        object: &mut A,
    ) -> Result<(), A::Error> {
        match name {
            "type" | "id" => skip(object),
            _ => self.0.read(name, place, object),
        }
    }

    fn check(&mut self, place: Place<'_>) {
        self.0.check(place);
    }
}

/// In an update, `id` is the message's and the point's at once; `vector_id` names the point where they differ.
#[derive(Default)]
struct Update {
    fields: UpdateFields,
    vector_id: Option<String>,
}

impl Fields for Update {
    const NAMES: &'static [&'static str] =
        &["type", "id", "vector_id", "collection", "values", "metadata", "if_version"];

    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        name: &'static str,
        place: Place<'_>,
        object: &mut A,
    ) -> Result<(), A::Error> {
        match name {
            "type" => skip(object),
            "vector_id" => {
                let given = read::text(place, object)?;
                self.vector_id = given.and_then(|id| crate::forward::codec::name::id(&id, place));
                Ok(())
            }
            _ => self.fields.read(name, place, object),
        }
    }

    fn check(&mut self, place: Place<'_>) {
        if let Some(id) = self.vector_id.take() {
            self.fields.set_id(id);
        }
        self.fields.check(place);
    }
}

#[derive(Default)]
struct Delete(DeleteFields);

impl Fields for Delete {
    const NAMES: &'static [&'static str] = &["type", "id", "collection", "ids", "filter"];

    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        name: &'static str,
        place: Place<'_>,
        object: &mut A,
    ) -> Result<(), A::Error> {
        match name {
            "type" | "id" => skip(object),
            _ => self.0.read(name, place, object),
        }
    }

    fn check(&mut self, place: Place<'_>) {
        self.0.check(place);
    }
}

struct Ping;

impl Fields for Ping {
    const NAMES: &'static [&'static str] = &["type", "id"];

    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        _name: &'static str,
        _place: Place<'_>,
        object: &mut A,
    ) -> Result<(), A::Error> {
        skip(object)
    }
}

/// Begins a server's message: `{"type":…,"id":…`.
fn begin(kind: &str, id: Option<&str>) -> Writer {
    let mut out = Writer::with_capacity(256);
    out.raw("{\"type\":\"").raw(kind).raw("\"");
    if let Some(id) = id {
        out.raw(",\"id\":").value(id);
    }
    out
}

fn end(mut out: Writer) -> Bytes {
    out.raw("}");
    out.finish()
}

pub(crate) fn result(id: Option<&str>, hit: &SearchResult, include: Include) -> Bytes {
    let mut out = begin("result", id);
    out.raw(",\"vector_id\":").value(&hit.vector_id);
    out.raw(",\"score\":").value(&hit.score);
    answer::hit_rest(&mut out, hit, include);
    end(out)
}

pub(crate) fn search_complete(id: Option<&str>, total_results: u64) -> Bytes {
    let mut out = begin("search_complete", id);
    out.raw(",\"total_results\":").value(&total_results);
    end(out)
}

pub(crate) fn results(id: Option<&str>, found: &SearchResponse, include: Include) -> Bytes {
    let mut out = begin("results", id);
    out.raw(",\"results\":");
    answer::hits(&mut out, &found.results, include);
    answer::totals(&mut out, found);
    end(out)
}

/// An acknowledged write, with the fields of its answer over HTTP.
pub(crate) fn ack(id: Option<&str>, answer: &impl Serialize) -> Bytes {
    #[derive(Serialize)]
    struct Ack<'a, T> {
        #[serde(rename = "type")]
        kind: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        #[serde(flatten)]
        answer: &'a T,
    }
    answer::plain(&Ack { kind: "ack", id, answer })
}

pub(crate) fn pong(id: Option<&str>) -> Bytes {
    end(begin("pong", id))
}

pub(crate) fn error(id: Option<&str>, problem: &Problem) -> Bytes {
    let mut out = begin("error", id);
    out.raw(",\"problem\":").value(problem);
    end(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> (Option<String>, Vec<String>) {
        let message = read(text.as_bytes());
        let Err(Error::Malformed { violations, .. }) = message.ask else { panic!("accepted: {text}") };
        (message.id, violations.into_iter().map(|v| v.pointer).collect())
    }

    #[test]
    fn a_search_is_read_whatever_the_order() {
        let message = read(br#"{"query":[1,2],"k":3,"stream":false,"id":"q1","type":"search"}"#);
        assert_eq!(message.id.as_deref(), Some("q1"));
        let Ok(Ask::Search { request, stream: false }) = message.ask else { panic!() };
        assert_eq!((request.query, request.k), (vec![1.0, 2.0], 3));
    }

    #[test]
    fn an_updates_point_may_have_another_id_than_the_message() {
        let check = |text: &str, point: &str| {
            let Ok(Ask::Update(request)) = read(text.as_bytes()).ask else { panic!("{text}") };
            assert_eq!(request.id, point);
        };
        check(r#"{"type":"update","id":"a","metadata":{}}"#, "a");
        check(r#"{"type":"update","id":"m1","vector_id":"a","metadata":{}}"#, "a");
        check(r#"{"type":"update","vector_id":"a","metadata":{}}"#, "a");
    }

    #[test]
    fn what_is_wrong_is_told_with_the_id() {
        assert_eq!(refused(r#"{"type":"dance","id":"c"}"#), (Some("c".to_owned()), vec!["/type".to_owned()]));
        assert_eq!(refused(r#"{"id":"d"}"#), (Some("d".to_owned()), vec!["/type".to_owned()]));
        assert_eq!(refused(r#"{"type":"ping","id":"d","k":1}"#).1, ["/k"]);
        assert_eq!(refused(r#"{"type":"search","id":7,"query":[1]}"#), (None, vec!["/id".to_owned()]));
        for garbage in ["", "{", "null", "[]", "\"text\"", "{}"] {
            assert_eq!(refused(garbage).0, None, "{garbage}");
        }
    }
}
