//! What is asked for: an answer to one of our own questions, or whatever an origin has at some path.

use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode, header};
use nearfield_cache::semantics::directives::{CDN, Control, OWN};
use nearfield_cache::semantics::fields::{self, Head};
use nearfield_cache::semantics::freshness::Timing;
use nearfield_cache::semantics::range::Span;
use nearfield_cache::semantics::storing;
use nearfield_cache::semantics::vary::Vary;
use nearfield_cache::{Content, Key, Lifetime, Policy, Tag, Tags};

use super::asked::Exchange;
use super::{CACHE_TAG, CDN_CACHE_CONTROL};

/// The fields that are aimed at this cache, before `Cache-Control`. Between searchd and here there is no other cache,
/// so that `CDN-Cache-Control` is for the one in front.
const TARGETS: [HeaderName; 2] = [OWN, CDN];
/// Words that an answer may be purged by; one with more is not stored.
const MAX_WORDS: usize = 60;

/// A question, and what is known of it before it is answered.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) key: Key,
    /// By which the answer is purged; an origin may add to them.
    pub(super) tags: Tags,
    pub(super) subject: Subject,
}

#[derive(Debug)]
pub(super) enum Subject {
    /// `cache_tag` are the tags as a CDN is told, `units` what it costs its caller when it has to be asked for.
    Answer {
        content: Content,
        cache_tag: HeaderValue,
        units: u32,
    },
    Resource,
}

/// How an answer is kept.
pub(super) struct Keeping {
    pub(super) lifetime: Lifetime,
    pub(super) head: Head,
    pub(super) tags: Tags,
    pub(super) span: Option<Span>,
    /// The fields of the request that choose it.
    pub(super) vary: Vec<HeaderName>,
}

/// What of an answer's head decides about keeping it.
pub(super) struct Answered<'a> {
    pub(super) status: StatusCode,
    pub(super) headers: &'a http::HeaderMap,
    pub(super) timing: Timing,
}

/// What becomes of an answer.
pub(super) enum Fate {
    Kept(Box<Keeping>),
    /// A failure that all may have who waited for it.
    Shared(Head),
    /// For one of them; the head in case that the body is here already.
    Once(Head),
}

impl Known {
    pub(super) fn is_resource(&self) -> bool {
        matches!(self.subject, Subject::Resource)
    }

    /// What it costs its caller when it has to be asked for.
    pub(super) fn units(&self) -> u32 {
        match self.subject {
            Subject::Answer { units, .. } => units,
            Subject::Resource => 1,
        }
    }

    /// What becomes of an answer to `exchange`.
    pub(super) fn fate(&self, policy: &Policy, exchange: &Exchange, answered: &Answered<'_>) -> Fate {
        match self.subject {
            Subject::Answer { content, .. } => {
                match policy.lifetime(content, answered.status, answered.headers) {
                    Some(lifetime) => Fate::Kept(Box::new(Keeping {
                        lifetime,
                        head: Policy::head(answered.headers),
                        tags: self.tags.clone(),
                        span: None,
                        // What the answer depends on is in the key; `Vary` is for the caches in front.
                        vary: Vec::new(),
                    })),
                    None => Fate::Once(Head::new()),
                }
            }
            Subject::Resource => self.resource_fate(policy, exchange, answered),
        }
    }

    fn resource_fate(&self, policy: &Policy, exchange: &Exchange, answered: &Answered<'_>) -> Fate {
        let Answered { status, headers, timing } = *answered;
        let control = control(headers);
        let decision =
            storing::Exchange { asked: &exchange.parts.headers, status, answered: headers, control: &control, timing };
        let words = words(headers);
        match decision.lifetime(policy.stale_if_error) {
            Ok(lifetime) if words.len() <= MAX_WORDS => Fate::Kept(Box::new(Keeping {
                lifetime,
                head: fields::stored(headers, &control),
                tags: Tags::from(self.tags.iter().chain(words).collect::<Vec<_>>()),
                span: if status == StatusCode::PARTIAL_CONTENT { Span::of(headers) } else { None },
                vary: match Vary::of(headers) {
                    Vary::Fields(names) => names,
                    Vary::Nothing | Vary::Everything => Vec::new(),
                },
            })),
            _ if decision.is_shared_failure() => Fate::Shared(fields::stored(headers, &control)),
            _ => Fate::Once(fields::stored(headers, &control)),
        }
    }

    /// Fields that go out with every copy of an answer to a question: validator, lifetimes for other caches, tags.
    pub(super) fn dress(&self, head: &mut Head, body: &[u8], fresh: Duration, cdn_max_age: Option<Duration>) {
        let Subject::Answer { cache_tag, .. } = &self.subject else { return };
        let fresh = fresh.as_secs();
        // Private: an answer to a request with credentials is no other caller's (RFC 9111 section 3.5), and a cache
        // that does not see X-API-Key would not know that there were any.
        let control = format!("private, max-age={fresh}");
        let cdn = cdn_max_age.map(|most| format!("public, max-age={}", most.as_secs().min(fresh)));
        let hash = blake3::hash(body).to_hex();
        for (name, value) in [
            (header::ETAG, format!("\"{}\"", &hash[..32])),
            (header::CACHE_CONTROL, control),
            (CDN_CACHE_CONTROL, cdn.unwrap_or_else(|| "no-store".to_owned())),
        ] {
            head.push((name, HeaderValue::try_from(value).expect("words and digits")));
        }
        head.push((header::VARY, VARY));
        head.push((CACHE_TAG, cache_tag.clone()));
    }
}

/// What a resource's answer says to this cache.
pub(super) fn control(headers: &http::HeaderMap) -> Control {
    Control::of(headers, &TARGETS)
}

/// A browser's cache serves all who use it, and a read that has to see a write is another read.
const VARY: HeaderValue = HeaderValue::from_static("authorization, x-api-key, nearfield-session");

/// The words of `Cache-Tag`.
fn words(headers: &http::HeaderMap) -> Vec<Tag> {
    let lines = headers.get_all(CACHE_TAG).iter().filter_map(|line| line.to_str().ok());
    let words = lines.flat_map(|line| line.split([',', ' '])).map(str::trim).filter(|word| !word.is_empty());
    words.take(MAX_WORDS + 1).map(Tag::word).collect()
}
