//! How long answers to our own questions live, by what they are and how they ended, within what searchd says of them.

use std::time::Duration;

use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName};

use crate::Lifetime;
use crate::semantics::directives::{Control, OWN, Scope};
use crate::semantics::fields::Head;

/// No answer to a search is fresh for longer, whatever its origin allows.
const LONGEST: Duration = Duration::from_secs(300);

/// What of an answer's head is about the answer and not about the exchange. All else (`Set-Cookie`, `RateLimit`,
/// `X-Request-Id`, `Server-Timing`, `traceparent`, hop-by-hop fields, …) stays with the request that it came for.
const KEPT: [HeaderName; 4] = [
    header::CONTENT_TYPE,
    header::CONTENT_LANGUAGE,
    header::LAST_MODIFIED,
    // Which region's data this is.
    HeaderName::from_static("nearfield-region"),
];

/// The kinds of answers that are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    Embed,
    Search,
}

/// Lifetimes by content; the defaults are the documented ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub embed: Duration,
    pub search: Duration,
    /// A point or a collection that is not there.
    pub not_found: Duration,
    pub limited: Duration,
    /// Past its freshness an answer is still better than none, when the origin fails.
    pub stale_if_error: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            embed: Duration::from_secs(300),
            search: Duration::from_secs(30),
            not_found: Duration::from_secs(60),
            limited: Duration::from_secs(10),
            stale_if_error: Duration::from_secs(300),
        }
    }
}

impl Policy {
    /// None for what is not to be stored: what the origin forbids, and failures. A failure of the origin is not kept
    /// even for a second: concurrent requests share it by coalescing, and the next one finds the origin recovered.
    pub fn lifetime(&self, content: Content, status: StatusCode, headers: &HeaderMap) -> Option<Lifetime> {
        let own = match (status, content) {
            (StatusCode::OK, Content::Embed) => self.embed,
            (StatusCode::OK, Content::Search) => self.search,
            (StatusCode::NOT_FOUND, _) => return stored(self.not_found, Duration::ZERO),
            (StatusCode::TOO_MANY_REQUESTS, _) => return stored(self.limited, Duration::ZERO),
            _ => return None,
        };
        let control = Control::of(headers, &[OWN]);
        // Narrower than RFC 9111 allows: a search that is to be asked for again each time has no use for a copy.
        let forbidden = control.no_store || control.private != Scope::Nothing || control.no_cache != Scope::Nothing;
        if forbidden || headers.contains_key(header::SET_COOKIE) {
            return None;
        }
        let told = control.shared_max_age.or(control.max_age);
        let fresh = told.unwrap_or(own).min(LONGEST.max(own));
        stored(fresh, if control.forbids_stale() { Duration::ZERO } else { self.stale_if_error })
    }

    /// The head that is kept with an answer.
    pub fn head(headers: &HeaderMap) -> Head {
        let kept = KEPT.into_iter().filter_map(|name| headers.get(&name).cloned().map(|value| (name, value)));
        kept.collect()
    }
}

fn stored(fresh: Duration, if_error: Duration) -> Option<Lifetime> {
    (!fresh.is_zero()).then(|| Lifetime { fresh, if_error, strict: true, ..Lifetime::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(content: Content, status: u16, cache_control: &str, expected: Option<(u64, u64)>) {
        let mut headers = HeaderMap::new();
        if !cache_control.is_empty() {
            headers.insert(header::CACHE_CONTROL, cache_control.parse().unwrap());
        }
        let status = StatusCode::from_u16(status).unwrap();
        let lifetime = Policy::default().lifetime(content, status, &headers);
        let lifetime = lifetime.map(|lifetime| (lifetime.fresh.as_secs(), lifetime.if_error.as_secs()));
        assert_eq!(lifetime, expected, "{content:?} {status} {cache_control:?}");
    }

    #[test]
    fn lifetimes_go_by_content() {
        check(Content::Embed, 200, "", Some((300, 300)));
        check(Content::Search, 200, "", Some((30, 300)));
        for status in [204, 206, 301, 400, 403, 409, 413, 500, 502, 503, 504] {
            check(Content::Search, status, "max-age=60", None);
        }
    }

    #[test]
    fn absence_and_limits_are_remembered_for_a_while() {
        check(Content::Embed, 404, "", Some((60, 0)));
        check(Content::Search, 404, "", Some((60, 0)));
        check(Content::Search, 429, "", Some((10, 0)));
    }

    #[test]
    fn the_origin_is_obeyed_within_bounds() {
        check(Content::Search, 200, "max-age=5", Some((5, 300)));
        check(Content::Search, 200, "max-age=5, s-maxage=7", Some((7, 0)));
        check(Content::Search, 200, "s-maxage=\"7\"", Some((7, 0)));
        check(Content::Search, 200, "public, max-age=100000", Some((300, 300)));
        check(Content::Search, 200, "max-age=99999999999999999999999", Some((300, 300)));
        check(Content::Search, 200, "max-age=0", None);
        check(Content::Search, 200, "max-age=soon", None);
        check(Content::Search, 200, "max-age=-1", None);
        check(Content::Search, 200, "No-Store", None);
        check(Content::Search, 200, "private=\"x\"", None);
        check(Content::Embed, 200, "max-age=60, must-revalidate", Some((60, 0)));
        check(Content::Search, 200, ",, ,", Some((30, 300)));
    }
}
