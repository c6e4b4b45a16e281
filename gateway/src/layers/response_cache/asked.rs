//! What a request asks of a cache (RFC 9111 section 5.2.1), and which copy it has already.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, header};
use nearfield_cache::Age;
use nearfield_cache::freshness::{directives, seconds};

#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) no_cache: bool,
    pub(super) no_store: bool,
    pub(super) only_if_cached: bool,
    max_age: Option<Duration>,
    min_fresh: Duration,
    /// The request is for the head alone.
    pub(super) head: bool,
    /// `If-None-Match`, of a GET or HEAD; for other methods it means something else.
    known: Vec<HeaderValue>,
}

impl Asked {
    pub(super) fn of(method: &Method, headers: &HeaderMap) -> Self {
        let mut asked = Self { head: *method == Method::HEAD, ..Self::default() };
        if *method != Method::POST {
            asked.known.extend(headers.get_all(header::IF_NONE_MATCH).iter().cloned());
        }
        if !headers.contains_key(header::CACHE_CONTROL) {
            // RFC 9111 section 5.4: only where Cache-Control says nothing.
            let pragma = headers.get(header::PRAGMA).and_then(|value| value.to_str().ok());
            asked.no_cache = pragma.is_some_and(|pragma| pragma.eq_ignore_ascii_case("no-cache"));
            return asked;
        }
        for (name, value) in directives(headers) {
            match name.as_str() {
                "no-cache" => asked.no_cache = true,
                "no-store" => asked.no_store = true,
                "only-if-cached" => asked.only_if_cached = true,
                "max-age" => asked.max_age = Some(seconds(value)),
                "min-fresh" => asked.min_fresh = seconds(value),
                _ => {}
            }
        }
        asked
    }

    /// Is an answer of this age good enough?
    pub(super) fn admits(&self, age: Age) -> bool {
        match age {
            Age::Fresh { age, left } => self.max_age.is_none_or(|most| age <= most) && left >= self.min_fresh,
            Age::Stale { .. } | Age::Dead => false,
        }
    }

    /// Does the caller have this very answer? Compared weakly (RFC 9110 section 13.1.2).
    pub(super) fn has(&self, etag: &HeaderValue) -> bool {
        let lines = self.known.iter().filter_map(|value| value.to_str().ok());
        let Ok(etag) = etag.to_str() else { return false };
        lines
            .flat_map(|line| line.split(','))
            .map(str::trim)
            .any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(headers: &[(header::HeaderName, &str)]) -> Asked {
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        Asked::of(&Method::GET, &headers)
    }

    #[test]
    fn directives_are_read_in_any_case() {
        let all = asked(&[(header::CACHE_CONTROL, "No-Cache, no-store"), (header::CACHE_CONTROL, "only-if-cached")]);
        assert!(all.no_cache && all.no_store && all.only_if_cached);
        assert!(asked(&[(header::PRAGMA, "no-cache")]).no_cache);
        assert!(!asked(&[(header::PRAGMA, "no-cache"), (header::CACHE_CONTROL, "max-age=1")]).no_cache);
    }

    #[test]
    fn an_age_may_be_too_old_for_the_asker() {
        let seconds = Duration::from_secs;
        let check = |control: &str, expected: bool| {
            let fresh = Age::Fresh { age: seconds(10), left: seconds(20) };
            assert_eq!(asked(&[(header::CACHE_CONTROL, control)]).admits(fresh), expected, "{control}");
        };
        check("max-age=10", true);
        check("max-age=9", false);
        check("max-age=0", false);
        check("min-fresh=20", true);
        check("min-fresh=21", false);
        assert!(!asked(&[]).admits(Age::Stale { age: seconds(31), by: seconds(1) }));
    }

    #[test]
    fn known_copies_are_compared_weakly() {
        let check = |known: &str, expected: bool| {
            let etag = HeaderValue::from_static("\"abc\"");
            assert_eq!(asked(&[(header::IF_NONE_MATCH, known)]).has(&etag), expected, "{known}");
        };
        check("\"abc\"", true);
        check("W/\"abc\"", true);
        check("\"x\", W/\"abc\"", true);
        check("*", true);
        check("abc", false);
        check("\"abcd\"", false);
        check("", false);
    }
}
