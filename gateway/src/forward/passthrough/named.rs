//! The collections that a message of `nearfield.v1` names. Nothing else of it is decoded.

use prost::Message;

use crate::forward::codec::name::DEFAULT_COLLECTION;

/// What a message says of where it may be answered.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) collections: Vec<String>,
    /// Of a collection that is to be made: the areas to which it is confined.
    pub(crate) residency: Vec<String>,
}

/// `collection` or `name`, where it is field 1.
#[derive(Clone, PartialEq, Message)]
struct First {
    #[prost(string, tag = "1")]
    collection: String,
}

/// [`nearfield_proto::v1::SearchRequest`].
#[derive(Clone, PartialEq, Message)]
struct Search {
    #[prost(string, tag = "4")]
    collection: String,
}

/// [`nearfield_proto::v1::BatchSearchRequest`].
#[derive(Clone, PartialEq, Message)]
struct Batch {
    #[prost(message, repeated, tag = "1")]
    searches: Vec<Search>,
}

/// [`nearfield_proto::v1::CreateCollectionRequest`].
#[derive(Clone, PartialEq, Message)]
struct Create {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    settings: Option<Settings>,
}

#[derive(Clone, PartialEq, Message)]
struct Settings {
    #[prost(string, repeated, tag = "6")]
    residency: Vec<String>,
}

impl Named {
    /// Of a message of the method at `path`, without its prefix. One that cannot be decoded names nothing: searchd
    /// cannot either, and refuses it.
    pub(super) fn of(path: &str, message: &[u8]) -> Self {
        Self::decoded(path, message).unwrap_or_default()
    }

    fn decoded(path: &str, message: &[u8]) -> Option<Self> {
        let one = |collection| Self { collections: vec![or_default(collection)], residency: Vec::new() };
        Some(match path {
            "/nearfield.v1.VectorSearch/Search"
            | "/nearfield.v1.VectorSearch/StreamSearch"
            | "/nearfield.v1.VectorSearch/BidirectionalSearch" => one(Search::decode(message).ok()?.collection),
            "/nearfield.v1.VectorSearch/BatchSearch" => {
                let searches = Batch::decode(message).ok()?.searches;
                let mut collections: Vec<String> = searches.into_iter().map(|s| or_default(s.collection)).collect();
                collections.sort_unstable();
                collections.dedup();
                Self { collections, residency: Vec::new() }
            }
            "/nearfield.v1.Collections/List" => Self::default(),
            "/nearfield.v1.Collections/Create" => {
                let Create { name, settings } = Create::decode(message).ok()?;
                Self { residency: settings.unwrap_or_default().residency, ..one(name) }
            }
            _ => one(First::decode(message).ok()?.collection),
        })
    }
}

fn or_default(collection: String) -> String {
    if collection.is_empty() { DEFAULT_COLLECTION.to_owned() } else { collection }
}

#[cfg(test)]
mod tests {
    use nearfield_proto::v1;

    use super::*;

    #[track_caller]
    fn check(path: &str, message: &impl Message, expected: &[&str]) {
        let bytes = message.encode_to_vec();
        assert_eq!(Named::of(path, &bytes).collections, expected, "{path}");
        // The last one counts, as it does to searchd.
        let twice =
            [bytes, v1::InsertRequest { collection: "b".into(), ..Default::default() }.encode_to_vec()].concat();
        if path.ends_with("/Insert") {
            assert_eq!(Named::of(path, &twice).collections, ["b"]);
        }
    }

    #[test]
    fn a_message_is_asked_for_its_collections_alone() {
        let search = |collection: &str| v1::SearchRequest {
            query: vec![0.5; 384],
            collection: collection.to_owned(),
            ..Default::default()
        };
        check("/nearfield.v1.VectorSearch/Search", &search("a"), &["a"]);
        check("/nearfield.v1.VectorSearch/StreamSearch", &search(""), &["default"]);
        let searches = vec![search("b"), search("a"), search("b")];
        check("/nearfield.v1.VectorSearch/BatchSearch", &v1::BatchSearchRequest { searches }, &["a", "b"]);
        let insert = v1::InsertRequest { collection: "a".to_owned(), vectors: vec![v1::Point::default()] };
        check("/nearfield.v1.VectorSearch/Insert", &insert, &["a"]);
        let describe = v1::DescribeCollectionRequest { name: "a".to_owned(), ..Default::default() };
        check("/nearfield.v1.Collections/Describe", &describe, &["a"]);
        check("/nearfield.v1.Collections/List", &v1::ListCollectionsRequest::default(), &[]);
    }

    #[test]
    fn a_new_collection_says_where_it_may_be() {
        let settings = v1::CollectionSettings { residency: vec!["europe".to_owned()], ..Default::default() };
        let create = v1::CreateCollectionRequest { name: "a".to_owned(), settings: Some(settings) };
        let named = Named::of("/nearfield.v1.Collections/Create", &create.encode_to_vec());
        assert_eq!((named.collections, named.residency), (vec!["a".to_owned()], vec!["europe".to_owned()]));
    }

    #[test]
    fn what_is_no_message_names_nothing() {
        assert_eq!(Named::of("/nearfield.v1.VectorSearch/Search", b"\xff\xff"), Named::default());
    }
}
