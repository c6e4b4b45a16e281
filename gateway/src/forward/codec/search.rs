//! A search: as a body, and as a query string.

use nearfield_proto::v1::SearchRequest;
use serde::de::MapAccess;

use super::json::{self, Fields, Place, Pointer, Report};
use super::query::Parameters;
use super::{name, read, vector};
use crate::error::Error;

/// Hits of one search.
pub const K_MAX: i64 = 10_000;
/// Hits when `k` is not given.
pub const K_DEFAULT: i32 = 10;
/// Candidates that a search may ask for.
pub const EF_SEARCH_MAX: i64 = 10_000;
/// The share of the nearest that may be asked for.
pub const RECALL: (f64, f64) = (0.5, 0.999);

/// A search while it is read.
#[derive(Default)]
pub(crate) struct SearchFields {
    pub(crate) request: SearchRequest,
    /// A violation was told about the query itself: its absence is then no second one.
    has_query: bool,
    has_id: bool,
}

impl SearchFields {
    pub(crate) const NAMES: [&'static str; 12] = [
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

    /// Reads one of [`SearchFields::NAMES`]; other shapes (a WebSocket's message) hold the same fields.
    ///
    /// # Errors
    /// Only those of `object`: text that is no JSON.
    pub(crate) fn read_field<'de, A: MapAccess<'de>>(
        &mut self,
        name: &str,
        place: Place<'_>,
        object: &mut A,
    ) -> Result<(), A::Error> {
        let request = &mut self.request;
        match name {
            "collection" => {
                let given = read::text(place, object)?;
                request.collection = given.and_then(|c| name::collection(&c, place)).unwrap_or_default();
            }
            "query" => {
                request.query = vector::read(place, object)?.unwrap_or_default();
                self.has_query = true;
            }
            "query_vector_id" => {
                let given = read::text(place, object)?;
                self.has_id = given.is_some();
                request.query_vector_id = given.and_then(|id| name::id(&id, place)).unwrap_or_default();
            }
            "k" => request.k = read::integer(place, object, (1, K_MAX))?.map_or(0, narrow),
            "metric" => {
                let given = read::text(place, object)?;
                request.metric = given.and_then(|m| name::word(&m, &name::METRICS, place)).unwrap_or_default();
            }
            "filter" => request.filter = json::raw_object(place, object)?.unwrap_or_default(),
            "include" => {
                let words = read::texts(place, object, name::INCLUDES.len())?;
                for (i, word) in words.iter().flatten().enumerate() {
                    let at = place.at.index(i);
                    name::word(word, &name::INCLUDES, Place { at: &at, report: place.report });
                }
                request.include = words.map(said).unwrap_or_default();
            }
            "ef_search" => {
                let ef = read::integer(place, object, (1, EF_SEARCH_MAX))?;
                request.ef_search = ef.map_or(0, narrow);
            }
            "recall_target" => {
                request.recall_target = read::number(place, object, RECALL)?.unwrap_or_default();
            }
            "exact" => request.exact = read::flag(place, object)?.unwrap_or_default(),
            "explain" => request.explain = read::flag(place, object)?.unwrap_or_default(),
            "session" => request.session = read::text(place, object)?.unwrap_or_default().into_owned(),
            _ => unreachable!("only the names above are read"),
        }
        Ok(())
    }

    pub(crate) fn check_query(&mut self, place: Place<'_>) {
        match (self.has_query, self.has_id) {
            (false, false) => {
                let at = place.at.key("query");
                place.report.add(&at, "is missing: give query or query_vector_id");
            }
            (true, true) => {
                let at = place.at.key("query_vector_id");
                place.report.add(&at, "does not go together with query");
            }
            (true, false) | (false, true) => {}
        }
        one_effort(self.request.ef_search, self.request.recall_target, place);
        normalise(&mut self.request);
    }
}

impl Fields for SearchFields {
    const NAMES: &'static [&'static str] = &Self::NAMES;
    const EXPECTED: &'static str = "an object that describes a search";

    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        name: &'static str,
        place: Place<'_>,
        object: &mut A,
    ) -> Result<(), A::Error> {
        self.read_field(name, place, object)
    }

    fn check(&mut self, place: Place<'_>) {
        self.check_query(place);
    }
}

/// Tells when both ways of saying how hard to try are given.
pub(super) fn one_effort(ef_search: u32, recall_target: f64, place: Place<'_>) {
    if ef_search > 0 && recall_target > 0.0 {
        place.report.add(&place.at.key("ef_search"), "does not go together with recall_target");
        place.report.add(&place.at.key("recall_target"), "does not go together with ef_search");
    }
}

/// The defaults written out, so that equal searches are equal messages.
fn normalise(request: &mut SearchRequest) {
    if request.collection.is_empty() {
        name::DEFAULT_COLLECTION.clone_into(&mut request.collection);
    }
    if request.k == 0 {
        request.k = K_DEFAULT;
    }
    if request.include.is_empty() {
        request.include.push("metadata".to_owned());
    }
    request.include.sort_unstable();
    request.include.dedup();
}

/// An `include` that was given: an empty one asks for nothing, not for the default.
fn said(mut words: Vec<String>) -> Vec<String> {
    if words.is_empty() {
        words.push("id".to_owned());
    }
    words
}

fn narrow<T: TryFrom<i64> + Default>(value: i64) -> T {
    T::try_from(value).unwrap_or_default()
}

/// Reads the body of `POST /search`.
///
/// # Errors
/// [`Error::Malformed`] with all violations.
pub(crate) fn of_body(body: &[u8]) -> Result<SearchRequest, Error> {
    json::object(body, SearchFields::default()).map(|fields| fields.request)
}

/// Reads the query string of `GET /search`.
///
/// # Errors
/// [`Error::Malformed`] with all violations, each named by its parameter.
pub(crate) fn of_query(query: &str) -> Result<SearchRequest, Error> {
    const NAMES: [&str; 11] = [
        "collection",
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
    let report = Report::default();
    let parameters = Parameters::read(query, &NAMES, &report);
    if !parameters.has("query_vector_id") {
        report.add(&Pointer::Parameter("query_vector_id"), "is missing");
    }
    let metric = |word: &str, place: Place<'_>| name::word(word, &name::METRICS, place);
    let words = |list: &str, place: Place<'_>| {
        let words = list.split(',').filter(|word| !word.is_empty());
        words.map(|word| name::word(word, &name::INCLUDES, place)).collect::<Option<Vec<_>>>().map(said)
    };
    let mut request = SearchRequest {
        collection: parameters.with("collection", name::collection).unwrap_or_default(),
        query_vector_id: parameters.with("query_vector_id", name::id).unwrap_or_default(),
        k: parameters.integer("k", (1, K_MAX)).map_or(0, narrow),
        metric: parameters.with("metric", metric).unwrap_or_default(),
        filter: parameters.with("filter", super::query::json_object).unwrap_or_default(),
        include: parameters.with("include", words).unwrap_or_default(),
        ef_search: parameters.integer("ef_search", (1, EF_SEARCH_MAX)).map_or(0, narrow),
        recall_target: parameters.number("recall_target", RECALL).unwrap_or_default(),
        exact: parameters.flag("exact").unwrap_or_default(),
        explain: parameters.flag("explain").unwrap_or_default(),
        session: parameters.text("session").unwrap_or_default().to_owned(),
        ..SearchRequest::default()
    };
    if request.ef_search > 0 && request.recall_target > 0.0 {
        report.add(&Pointer::Parameter("ef_search"), "does not go together with recall_target");
        report.add(&Pointer::Parameter("recall_target"), "does not go together with ef_search");
    }
    normalise(&mut request);
    report.finish(request)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::super::answer;
    use super::*;

    prop_compose! {
        fn searches()(
            query in proptest::collection::vec(-1e30f32..1e30, 0..20),
            id in "[a-z/ä\"\\\\ ]{1,20}",
            k in 1..10_000i32,
            (ef_search, recall_target) in prop_oneof![
                (0..10_000u32).prop_map(|ef| (ef, 0.0)),
                (0.5..0.999f64).prop_map(|recall| (0, recall)),
            ],
            exact: bool,
            include in proptest::sample::subsequence(vec!["metadata", "values"], 0..=2),
            metric in proptest::sample::select(vec!["", "dot", "cosine"]),
            filter in proptest::option::of(Just(Bytes::from_static(b"{\"a\":{\"$gt\":1}}"))),
        ) -> SearchRequest {
            let query_vector_id = if query.is_empty() { id } else { String::new() };
            let include = said(include.into_iter().map(str::to_owned).collect());
            let filter = filter.unwrap_or_default();
            let collection = "c".to_owned();
            let metric = metric.to_owned();
            SearchRequest { query, k, metric, collection, query_vector_id, filter, include, ef_search, recall_target, exact, ..SearchRequest::default() }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_the_same(search in searches()) {
            let body = answer::search_body(&search);
            prop_assert_eq!(of_body(&body).unwrap(), search);
        }

        #[test]
        fn any_bytes_are_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = of_body(&body);
        }

        #[test]
        fn any_json_is_read_or_refused(
            body in "\\{(\"(query|k|filter|include|exact|id|type)\":(\\[[0-9,.e-]{0,9}\\]|-?[0-9e.]{1,9}|\"[a-zA-Z0-9+/=]{0,9}\"|null|true|\\{\\}),?){0,5}\\}",
        ) {
            let _ = of_body(body.as_bytes());
            let _ = super::super::point::insert(body.as_bytes());
            let _ = super::super::operating::warm(body.as_bytes());
        }

        #[test]
        fn any_query_string_is_read_or_refused(query in "([a-z_]{0,15}(=|&|%|\\+)[a-z0-9%{}\"]{0,9}){0,6}") {
            let _ = of_query(&query);
        }
    }

    #[test]
    fn a_search_says_once_how_hard_to_try() {
        let refused = |body: &str| {
            let Err(Error::Malformed { violations, .. }) = of_body(body.as_bytes()) else { panic!("{body}") };
            violations.into_iter().map(|violation| violation.pointer).collect::<Vec<_>>()
        };
        assert_eq!(of_body(br#"{"query":[1],"recall_target":0.98}"#).unwrap().recall_target, 0.98);
        assert_eq!(of_query("query_vector_id=a&recall_target=0.9").unwrap().recall_target, 0.9);
        let both = r#"{"query":[1],"recall_target":0.98,"ef_search":9}"#;
        assert_eq!(refused(both), ["/ef_search", "/recall_target"]);
        assert_eq!(refused(r#"{"query":[1],"recall_target":1}"#), ["/recall_target"]);
        assert!(of_query("query_vector_id=a&recall_target=0.9&ef_search=9").is_err());
    }

    #[test]
    fn equal_searches_are_equal_messages() {
        let check = |a: &str, b: &str| assert_eq!(of_body(a.as_bytes()).unwrap(), of_body(b.as_bytes()).unwrap());
        check(
            r#"{"query":[1]}"#,
            r#"{"k":10,"collection":"default","include":["metadata"],"exact":false,"query":[1.0]}"#,
        );
        check(
            r#"{"query":[1],"include":["values","metadata"]}"#,
            r#"{"query":"AACAPw","include":["metadata","values"]}"#,
        );
        check(r#"{"query":[1],"filter":null}"#, r#"{"query":[1]}"#);
    }
}
