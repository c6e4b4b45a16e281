//! What a request asks for: the key of its answer, and what that depends on.
//!
//! Reading a search out of JSON costs many times what finding its answer does. So what a request meant is remembered
//! by its bytes, and a request that comes again byte for byte is not read at all.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, header};
use nearfield_cache::semantics::request::is_query;
use nearfield_cache::{Audience, Content, Key, Query, Tags, Target};
use nearfield_proto::v1;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::Cache;
use super::subject::{Known, Subject};
use crate::error::Error;
use crate::forward::codec::{self, SESSION_HEADER, point};
use crate::layers::rate_limit::toll::Toll;
use crate::request::Caller;

pub(super) enum Question {
    /// `search` when it had to be read.
    Answerable { known: Arc<Known>, search: Option<v1::SearchRequest> },
    /// It is to see a certain write.
    Sessioned(Option<v1::SearchRequest>),
    /// It asks how it is answered this time.
    Explained(v1::SearchRequest),
}

impl Cache {
    /// # Errors
    /// What is wrong with the request, as searchd's side of the gateway would say it.
    pub(super) fn question(&self, content: Content, parts: &Parts, body: &Bytes) -> Result<Question, Error> {
        if parts.headers.contains_key(SESSION_HEADER) {
            return Ok(Question::Sessioned(None));
        }
        let principal = parts.extensions.get().map(|Caller(principal)| principal);
        let tenant = principal.and_then(|p| p.tenant.as_deref());
        let audience = Audience { tenant, scope: nearfield_auth::Scope::VectorsRead.as_str() };
        let uri = &parts.uri;
        let media = parts.headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        let method = match &parts.method {
            &Method::POST => &b"POST"[..],
            method if is_query(method) => b"QUERY",
            _ => b"GET",
        };
        let query = uri.query().unwrap_or_default();
        let raw = Key::raw(audience, &[method, uri.path().as_bytes(), query.as_bytes(), media, body]);
        if let Some(known) = self.0.remembered.get(&raw) {
            return Ok(Question::Answerable { known, search: None });
        }
        let (known, search) = match content {
            Content::Embed => {
                let fetch = point::fetch(uri.path(), query)?;
                if !fetch.session.is_empty() {
                    return Ok(Question::Sessioned(None));
                }
                let id = fetch.ids.first().map(String::as_str).unwrap_or_default();
                let key = Key::embed(audience, &fetch.collection, id);
                (known(key, content, tenant, &fetch.collection, Some(id), 1)?, None)
            }
            Content::Search => {
                let search = codec::decode_search(parts, body)?;
                if !search.session.is_empty() {
                    return Ok(Question::Sessioned(Some(search)));
                }
                if search.explain {
                    return Ok(Question::Explained(search));
                }
                let id = Some(search.query_vector_id.as_str()).filter(|id| !id.is_empty());
                let key = Key::search(audience, &query_of(&search));
                let toll = parts.extensions.get::<Toll>();
                let units = toll.map_or(1, |toll| toll.prices().search(&search));
                (known(key, content, tenant, &search.collection, id, units)?, Some(search))
            }
        };
        let known = Arc::new(known);
        self.0.remembered.insert(raw, Arc::clone(&known));
        Ok(Question::Answerable { known, search })
    }
}

/// `id` is that of the point that the question is about.
fn known(
    key: Key,
    content: Content,
    tenant: Option<&str>,
    collection: &str,
    id: Option<&str>,
    units: u32,
) -> Result<Known, Error> {
    // Without the tenant: a caller's tags are looked up among its own.
    let mut text = format!("collection:{collection}");
    if let Some(id) = id {
        text.push_str(&format!(",point:{collection}/{}", utf8_percent_encode(id, TAG_ESCAPES)));
    }
    let cache_tag = HeaderValue::try_from(text).map_err(|e| Error::Internal(Arc::new(e)))?;
    let tags = Tags::new(tenant, collection, id);
    Ok(Known { key, tags, subject: Subject::Answer { content, cache_tag, units } })
}

fn query_of(search: &v1::SearchRequest) -> Query<'_> {
    let target = match search.query_vector_id.as_str() {
        "" => Target::Vector(&search.query),
        id => Target::Point(id),
    };
    Query {
        collection: &search.collection,
        target,
        k: u32::try_from(search.k).unwrap_or_default(),
        metric: &search.metric,
        filter: &search.filter,
        include: &search.include,
        ef_search: search.ef_search,
        recall_target: search.recall_target,
        exact: search.exact,
    }
}

/// A tag is a word: what is not plain in an id is escaped.
const TAG_ESCAPES: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b':');
