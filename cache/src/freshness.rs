//! How long an answer lives, by what it is, how it ended, and what its origin says of it (RFC 9111).

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};

/// No answer to a search is fresh for longer, whatever its origin allows.
pub const LONGEST: Duration = Duration::from_secs(300);
/// Right after a change another searchd may still answer from before it: what is stored then lives this short, …
pub const SETTLING: Duration = Duration::from_secs(1);
/// … and this is how long after.
pub const SETTLED_AFTER: Duration = Duration::from_secs(5);

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

/// How long an answer may be given without asking, and how long past that when asking fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    pub fresh: Duration,
    pub stale: Duration,
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
        let origin = Directives::of(headers);
        if origin.forbids_storing || headers.contains_key(header::SET_COOKIE) {
            return None;
        }
        let fresh = origin.max_age.unwrap_or(own).min(LONGEST.max(own));
        stored(fresh, if origin.must_revalidate { Duration::ZERO } else { self.stale_if_error })
    }
}

fn stored(fresh: Duration, stale: Duration) -> Option<Lifetime> {
    (!fresh.is_zero()).then_some(Lifetime { fresh, stale })
}

impl Lifetime {
    /// Shortened when the collection changed `since` ago.
    #[must_use]
    pub fn settling(self, since: Option<Duration>) -> Self {
        match since {
            Some(since) if since < SETTLED_AFTER => Self { fresh: self.fresh.min(SETTLING), ..self },
            _ => self,
        }
    }
}

/// What an origin's `Cache-Control` says to a shared cache.
#[derive(Debug, Default)]
struct Directives {
    forbids_storing: bool,
    must_revalidate: bool,
    max_age: Option<Duration>,
}

impl Directives {
    fn of(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        let mut shared_max_age = None;
        for (name, value) in directives(headers) {
            match name.as_str() {
                "no-store" | "private" | "no-cache" => found.forbids_storing = true,
                "must-revalidate" | "proxy-revalidate" => found.must_revalidate = true,
                // A lifetime that cannot be read is over (RFC 9111 section 4.2.1).
                "max-age" => found.max_age = Some(seconds(value)),
                "s-maxage" => shared_max_age = Some(seconds(value)),
                _ => {}
            }
        }
        found.max_age = shared_max_age.or(found.max_age);
        found
    }
}

/// `name[=value]` of every `Cache-Control` line, names in lower case, values without quotes.
pub fn directives(headers: &HeaderMap) -> impl Iterator<Item = (String, &str)> {
    let lines = headers.get_all(header::CACHE_CONTROL).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).filter_map(|directive| {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        let name = name.trim().to_ascii_lowercase();
        (!name.is_empty()).then(|| (name, value.trim().trim_matches('"')))
    })
}

/// What a number of seconds means that is too large to be one.
const VERY_LONG: u64 = 1 << 31;

/// RFC 9111 section 1.2.2: delta-seconds; zero for what is none.
pub fn seconds(value: &str) -> Duration {
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    Duration::from_secs(if digits { value.parse().unwrap_or(VERY_LONG) } else { 0 })
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
        let expected = expected
            .map(|(fresh, stale)| Lifetime { fresh: Duration::from_secs(fresh), stale: Duration::from_secs(stale) });
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
        check(Content::Search, 200, "max-age=5, s-maxage=7", Some((7, 300)));
        check(Content::Search, 200, "s-maxage=\"7\"", Some((7, 300)));
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

    #[test]
    fn a_changed_collection_settles_first() {
        let lifetime = Lifetime { fresh: Duration::from_secs(30), stale: Duration::ZERO };
        assert_eq!(lifetime.settling(Some(Duration::from_secs(4))).fresh, SETTLING);
        assert_eq!(lifetime.settling(Some(SETTLED_AFTER)), lifetime);
        assert_eq!(lifetime.settling(None), lifetime);
    }
}
