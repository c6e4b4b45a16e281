//! How old an answer is when it comes, and how long it is fresh (RFC 9111 section 4.2).

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};

use super::date;
use super::directives::{Control, is_seconds, members, seconds};

/// Guessed lifetimes are a tenth of the time since the last change, and at most this.
const MAX_HEURISTIC: Duration = Duration::from_secs(24 * 3600);

/// When a request was sent and when its answer began to come, in Unix time by this cache's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    pub asked: Duration,
    pub answered: Duration,
}

/// How long an answer is fresh, and by whose word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    Explicit(Duration),
    Heuristic(Duration),
    /// Nobody says anything.
    Unknown,
}

impl Freshness {
    pub fn lifetime(self) -> Duration {
        match self {
            Self::Explicit(lifetime) | Self::Heuristic(lifetime) => lifetime,
            Self::Unknown => Duration::ZERO,
        }
    }
}

/// The age that the answer had when it was asked for: time goes on counting from there (section 4.2.3).
pub fn initial_age(headers: &HeaderMap, timing: Timing) -> Duration {
    let told = told_age(headers);
    let whole = |time: Duration| Duration::from_secs(time.as_secs());
    // Dates have no fractions.
    let apparent = date::of(headers, &header::DATE)
        .map_or(Duration::ZERO, |date| whole(timing.answered).saturating_sub(date))
        .saturating_sub(timing.answered.saturating_sub(timing.asked));
    told.max(apparent)
}

/// `Age`: of several members the first counts (section 5.1); one that is no number of seconds is ignored.
fn told_age(headers: &HeaderMap) -> Duration {
    let line = headers.get(header::AGE).and_then(|line| line.to_str().ok());
    let first = line.and_then(|line| members(line).next());
    first.filter(|text| is_seconds(text)).map_or(Duration::ZERO, seconds)
}

/// Section 4.2.1, for a shared cache.
pub fn of(status: StatusCode, headers: &HeaderMap, control: &Control, timing: Timing) -> Freshness {
    if let Some(lifetime) = control.shared_max_age.or(control.max_age) {
        return Freshness::Explicit(lifetime);
    }
    let date = date::of(headers, &header::DATE).unwrap_or(timing.answered);
    if headers.contains_key(header::EXPIRES) && !control.targeted {
        // One that is no date, zero above all, is past (section 5.3).
        let expires = date::of(headers, &header::EXPIRES).unwrap_or_default();
        return Freshness::Explicit(expires.saturating_sub(date));
    }
    let changed = date::of(headers, &header::LAST_MODIFIED).filter(|_| control.public || is_heuristic(status));
    changed.map_or(Freshness::Unknown, |changed| {
        Freshness::Heuristic((date.saturating_sub(changed) / 10).min(MAX_HEURISTIC))
    })
}

/// RFC 9110 section 15.1: statuses whose answers may be kept for a guessed time.
pub(super) fn is_heuristic(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 206 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;
    use crate::semantics::directives::CDN;

    const NOW: Duration = Duration::from_secs(1_000_000_000);
    const TIMING: Timing = Timing { asked: NOW, answered: NOW };

    fn at(delta: i64) -> String {
        let time = std::time::UNIX_EPOCH + Duration::from_secs((NOW.as_secs() as i64 + delta) as u64);
        httpdate::fmt_http_date(time)
    }

    fn headers(lines: &[(HeaderName, String)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, HeaderValue::try_from(value).unwrap());
        }
        headers
    }

    fn check(status: u16, lines: &[(HeaderName, String)], expected: Freshness) {
        let headers = headers(lines);
        let control = Control::of(&headers, &[CDN]);
        let found = of(StatusCode::from_u16(status).unwrap(), &headers, &control, TIMING);
        assert_eq!(found, expected, "{status} {lines:?}");
    }

    fn explicit(seconds: u64) -> Freshness {
        Freshness::Explicit(Duration::from_secs(seconds))
    }

    fn control(text: &str) -> (HeaderName, String) {
        (header::CACHE_CONTROL, text.to_owned())
    }

    #[test]
    fn what_is_for_shared_caches_goes_before_what_is_for_all() {
        check(200, &[control("max-age=1, s-maxage=60")], explicit(60));
        check(200, &[control("s-maxage=1, max-age=60")], explicit(1));
        check(200, &[control("max-age=60"), control("s-maxage=1")], explicit(1));
        check(200, &[control("max-age=60"), (CDN, "max-age=1".to_owned())], explicit(1));
        check(599, &[control("max-age=60")], explicit(60));
    }

    #[test]
    fn expires_counts_from_date_and_only_where_nothing_else_is_said() {
        let (date, expires) = (|delta| (header::DATE, at(delta)), |delta| (header::EXPIRES, at(delta)));
        check(200, &[date(0), expires(60)], explicit(60));
        check(200, &[date(400), expires(300)], explicit(0));
        check(200, &[date(0), expires(0)], explicit(0));
        check(200, &[date(-10), expires(10)], explicit(20));
        check(200, &[expires(60)], explicit(60));
        check(200, &[(header::DATE, "foo".to_owned()), expires(10)], explicit(10));
        check(200, &[(header::EXPIRES, "0".to_owned())], explicit(0));
        check(200, &[expires(60), expires(60)], explicit(0));
        check(200, &[expires(-60), control("max-age=60")], explicit(60));
        check(200, &[expires(60), control("max-age=0")], explicit(0));
        check(200, &[expires(60), (CDN, "public".to_owned())], Freshness::Unknown);
    }

    #[test]
    fn a_lifetime_is_guessed_where_the_status_allows() {
        let changed = |delta| (header::LAST_MODIFIED, at(delta));
        let guessed = |seconds| Freshness::Heuristic(Duration::from_secs(seconds));
        for status in [200, 203, 204, 404, 405, 410, 414, 501] {
            check(status, &[changed(-1000)], guessed(100));
        }
        for status in [201, 202, 302, 403, 500, 502, 503, 504, 599] {
            check(status, &[changed(-1000)], Freshness::Unknown);
        }
        check(599, &[changed(-1000), control("public")], guessed(100));
        check(200, &[changed(-100_000_000)], guessed(24 * 3600));
        check(200, &[changed(1000)], guessed(0));
        check(200, &[], Freshness::Unknown);
    }

    fn check_age(lines: &[(HeaderName, String)], expected: u64) {
        assert_eq!(initial_age(&headers(lines), TIMING), Duration::from_secs(expected), "{lines:?}");
    }

    #[test]
    fn an_answer_is_as_old_as_it_says_or_as_its_date() {
        let age = |text: &str| (header::AGE, text.to_owned());
        check_age(&[], 0);
        check_age(&[age("30")], 30);
        check_age(&[age("7200, 0")], 7200);
        check_age(&[age("0, 7200")], 0);
        check_age(&[age("7200"), age("0")], 7200);
        check_age(&[age("2147483649")], 1 << 31);
        for text in ["abc", "-7200", "7200.0", "7200;foo=bar", ""] {
            check_age(&[age(text)], 0);
        }
        check_age(&[(header::DATE, at(-100)), age("30")], 100);
        check_age(&[(header::DATE, at(100)), age("30")], 30);
    }

    #[test]
    fn the_time_that_the_answer_took_is_not_counted_twice() {
        let timing = Timing { asked: NOW - Duration::from_secs(8), answered: NOW };
        assert_eq!(initial_age(&headers(&[(header::DATE, at(-10))]), timing), Duration::from_secs(2));
        assert_eq!(initial_age(&headers(&[(header::DATE, at(-5))]), timing), Duration::ZERO);
    }
}
