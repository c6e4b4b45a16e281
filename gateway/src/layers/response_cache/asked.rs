//! What a request asks of a cache: how fresh, under which conditions, which part.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method};
use nearfield_cache::semantics::range::Range;
use nearfield_cache::semantics::request::{Demand, Verdict};
use nearfield_cache::semantics::validation::Conditions;
use nearfield_cache::{Age, Entry, Found};

#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) demand: Demand,
    /// The request is for the head alone.
    pub(super) head: bool,
    /// Of a GET or HEAD; for other methods they mean something else.
    pub(super) conditions: Conditions,
    /// Of a GET.
    pub(super) range: Option<Range>,
}

impl Asked {
    pub(super) fn of(method: &Method, headers: &HeaderMap) -> Self {
        let reads = matches!(*method, Method::GET | Method::HEAD);
        Self {
            demand: Demand::of(headers),
            head: *method == Method::HEAD,
            conditions: if reads { Conditions::of(headers) } else { Conditions::default() },
            range: if *method == Method::GET { Range::of(headers) } else { None },
        }
    }

    pub(super) fn judge(&self, found: &Found) -> Verdict {
        self.demand.judge(found.age, &found.entry.lifetime)
    }

    pub(super) fn judge_entry(&self, age: Age, entry: &Entry) -> Verdict {
        self.demand.judge(age, &entry.lifetime)
    }
}

/// A request that can be sent again. Clones share its head until one is sent.
#[derive(Clone)]
pub(super) struct Exchange {
    pub(super) parts: Arc<Parts>,
    pub(super) body: Bytes,
}

impl Exchange {
    pub(super) fn new(parts: Parts, body: Bytes) -> Self {
        Self { parts: Arc::new(parts), body }
    }

    /// To change the head, of this clone alone.
    pub(super) fn head(&mut self) -> &mut Parts {
        Arc::make_mut(&mut self.parts)
    }

    pub(super) fn into_request(self) -> crate::body::Request {
        crate::body::Request::from_parts(Arc::unwrap_or_clone(self.parts), crate::body::full(self.body))
    }
}
