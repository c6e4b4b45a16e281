//! A stored answer.

mod wire;

pub(crate) use self::wire::Undecodable;

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderName, HeaderValue};

use crate::semantics::fields::{self, Head};
use crate::semantics::range::Span;
use crate::{Age, Lifetime, Stamp, Tags};

/// What an entry costs beside its body and head, by estimate: struct, reference counts, the cache's own bookkeeping.
const OVERHEAD_BYTES: usize = 400;
const HEADER_OVERHEAD_BYTES: usize = 64;
const SIGNPOST_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// An answer, complete and immutable: shared by reference.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub status: StatusCode,
    pub head: Head,
    /// Before any content coding of ours.
    pub body: Bytes,
    pub stamp: Stamp,
    pub lifetime: Lifetime,
    pub tags: Tags,
    /// How long its origin took to make it: what is saved each time that it is given from here.
    pub cost: Duration,
    /// Of a part (206): where it lies in the whole.
    pub span: Option<Span>,
    /// No answer itself: the answer depends on these fields of the request, and is under [`crate::Key::variant`].
    pub signpost: Option<Vec<HeaderName>>,
}

impl Entry {
    pub fn new(status: StatusCode, head: Head, body: Bytes, stamp: Stamp, lifetime: Lifetime, tags: Tags) -> Self {
        Self { status, head, body, stamp, lifetime, tags, cost: Duration::ZERO, span: None, signpost: None }
    }

    /// Where the answers are that depend on the fields `names`, `answer` one of them. It outlives any of them, and is
    /// purged with them.
    pub fn signpost(names: Vec<HeaderName>, answer: &Self) -> Self {
        let Self { status, stamp, cost, .. } = *answer;
        let lifetime = Lifetime { fresh: SIGNPOST_LIFETIME, ..Lifetime::default() };
        let tags = answer.tags.clone();
        Self { signpost: Some(names), cost, ..Self::new(status, Head::new(), Bytes::new(), stamp, lifetime, tags) }
    }

    /// `now` in Unix microseconds. An entry is as old as the question, not as the answer: that is when it was true.
    pub fn age(&self, now: u64) -> Age {
        self.lifetime.age(Duration::from_micros(now.saturating_sub(self.stamp.micros)))
    }

    /// The first line of a field.
    pub fn field(&self, name: &HeaderName) -> Option<&HeaderValue> {
        fields::first(&self.head, name)
    }

    /// Bytes of memory.
    pub fn weight(&self) -> usize {
        let header =
            |(name, value): &(HeaderName, HeaderValue)| name.as_str().len() + value.len() + HEADER_OVERHEAD_BYTES;
        let names = self.signpost.iter().flatten().map(|name| name.as_str().len() + HEADER_OVERHEAD_BYTES);
        OVERHEAD_BYTES + self.body.len() + self.head.iter().map(header).sum::<usize>() + names.sum::<usize>()
    }
}
