//! A stored answer.

mod wire;

use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode, header};

use crate::{Lifetime, Stamp, Tags};

/// What of an answer's head is about the answer and not about the exchange. All else (`Set-Cookie`, `RateLimit`,
/// `X-Request-Id`, `Server-Timing`, `traceparent`, hop-by-hop fields, …) stays with the request that it came for.
const KEPT: [HeaderName; 4] = [
    header::CONTENT_TYPE,
    header::CONTENT_LANGUAGE,
    header::LAST_MODIFIED,
    // Which region's data this is.
    HeaderName::from_static("nearfield-region"),
];
/// What an entry costs beside its body and head, by estimate: struct, reference counts, the cache's own bookkeeping.
const OVERHEAD_BYTES: usize = 400;
const HEADER_OVERHEAD_BYTES: usize = 64;

/// An answer, complete and immutable: shared by reference.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub status: StatusCode,
    /// In the order in which they are sent.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Before any content coding.
    pub body: Bytes,
    pub stamp: Stamp,
    pub lifetime: Lifetime,
    pub tags: Tags,
}

/// How old an entry is, against its lifetime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    Fresh {
        age: Duration,
        left: Duration,
    },
    /// Too old to be given while the origin answers.
    Stale {
        age: Duration,
        by: Duration,
    },
    Dead,
}

impl Entry {
    /// Keeps of `headers` what is about the answer.
    pub fn new(
        status: StatusCode,
        headers: &HeaderMap,
        body: Bytes,
        stamp: Stamp,
        lifetime: Lifetime,
        tags: Tags,
    ) -> Self {
        let kept = KEPT.into_iter().filter_map(|name| headers.get(&name).cloned().map(|value| (name, value)));
        Self { status, headers: kept.collect(), body, stamp, lifetime, tags }
    }

    /// `now` in Unix microseconds. An entry is as old as the question, not as the answer: that is when it was true.
    pub fn age(&self, now: u64) -> Age {
        let age = Duration::from_micros(now.saturating_sub(self.stamp.micros));
        let Lifetime { fresh, stale } = self.lifetime;
        if age < fresh {
            Age::Fresh { age, left: fresh - age }
        } else if age < fresh + stale {
            Age::Stale { age, by: age - fresh }
        } else {
            Age::Dead
        }
    }

    /// Bytes of memory.
    pub fn weight(&self) -> usize {
        let header =
            |(name, value): &(HeaderName, HeaderValue)| name.as_str().len() + value.len() + HEADER_OVERHEAD_BYTES;
        OVERHEAD_BYTES + self.body.len() + self.headers.iter().map(header).sum::<usize>()
    }
}
