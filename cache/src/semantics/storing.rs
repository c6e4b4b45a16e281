//! Whether an answer may be stored, and for how long (RFC 9111 section 3).

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};

use super::directives::{Control, Scope};
use super::freshness::{self, Freshness, Timing};
use super::vary::Vary;
use super::{range, validation};
use crate::Lifetime;

/// How long past its freshness an answer is kept that can be validated.
const VALIDATED_FOR: Duration = Duration::from_secs(3600);

/// Why an answer is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It answers somebody's credentials, and nothing says that others may have it (section 3.5).
    Credentials,
    NoStore,
    /// Its status means something that this cache does not know, and it says that one must.
    NotUnderstood,
    /// Neither fresh for a moment nor to be validated, or a status that nothing says may be kept.
    NotWorthIt,
    /// A part that cannot be placed.
    Part,
    Private,
    /// It depends on more than the request (`Vary: *`).
    Varies,
}

/// An exchange with an origin, as far as it decides. The method is one whose answers are stored: GET or QUERY.
#[derive(Clone, Copy, Debug)]
pub struct Exchange<'a> {
    pub asked: &'a HeaderMap,
    pub status: StatusCode,
    pub answered: &'a HeaderMap,
    pub control: &'a Control,
    pub timing: Timing,
}

impl Exchange<'_> {
    /// How long the answer lives. Past its freshness it stands in for failures for `stale_if_error`, unless it says
    /// otherwise itself.
    pub fn lifetime(&self, stale_if_error: Duration) -> Result<Lifetime, Refusal> {
        self.admit()?;
        let control = self.control;
        let freshness = freshness::of(self.status, self.answered, control, self.timing);
        let known = control.public || freshness::is_heuristic(self.status);
        if matches!(freshness, Freshness::Unknown) && !known {
            return Err(Refusal::NotWorthIt);
        }
        let validated = validation::has_validator(self.answered) && self.status != StatusCode::PARTIAL_CONTENT;
        let always_asks = control.no_cache == Scope::Everything;
        let forbids_stale = control.forbids_stale();
        let unless_forbidden = |duration: Duration| if forbids_stale { Duration::ZERO } else { duration };
        let lifetime = Lifetime {
            initial: freshness::initial_age(self.answered, self.timing),
            fresh: if always_asks { Duration::ZERO } else { freshness.lifetime() },
            while_revalidate: unless_forbidden(control.stale_while_revalidate.unwrap_or_default()),
            // One failure is no better than another.
            if_error: match self.status.is_server_error() {
                true => Duration::ZERO,
                false => unless_forbidden(control.stale_if_error.unwrap_or(stale_if_error)),
            },
            retained: if validated { VALIDATED_FOR } else { Duration::ZERO },
            strict: forbids_stale,
        };
        // Stored stale: only to be validated, or to be given to whoever is content with that.
        let lasts = lifetime.total().saturating_sub(self.timing.answered.saturating_sub(self.timing.asked));
        if lasts.is_zero() || lifetime.fresh.is_zero() && !validated {
            return Err(Refusal::NotWorthIt);
        }
        Ok(lifetime)
    }

    fn admit(&self) -> Result<(), Refusal> {
        let control = self.control;
        if control.must_understand {
            // It replaces `no-store` for those who understand (section 5.2.2.3).
            if !is_understood(self.status) {
                return Err(Refusal::NotUnderstood);
            }
        } else if control.no_store {
            return Err(Refusal::NoStore);
        }
        if self.status.is_informational() || self.status == StatusCode::NOT_MODIFIED {
            return Err(Refusal::NotUnderstood);
        }
        if control.private == Scope::Everything {
            return Err(Refusal::Private);
        }
        let shared = control.public || control.must_revalidate || control.shared_max_age.is_some();
        if self.asked.contains_key(header::AUTHORIZATION) && !shared {
            return Err(Refusal::Credentials);
        }
        if self.status == StatusCode::PARTIAL_CONTENT && range::Span::of(self.answered).is_none() {
            return Err(Refusal::Part);
        }
        if Vary::of(self.answered) == Vary::Everything {
            return Err(Refusal::Varies);
        }
        Ok(())
    }

    /// May the answer be given to those who were asking for the same while it was on its way, though it is not kept?
    /// So that a failing origin is asked once and not by all of them.
    pub fn is_shared_failure(&self) -> bool {
        self.status.is_server_error()
            && self.admit().is_ok()
            && self.control.no_cache == Scope::Nothing
            && !self.answered.contains_key(header::SET_COOKIE)
            && !self.asked.contains_key(header::AUTHORIZATION)
    }
}

/// Statuses of RFC 9110 that a cache can do right by.
fn is_understood(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 206 | 300..=303 | 307 | 308 | 404 | 405 | 410 | 414 | 501)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    const NOW: Duration = Duration::from_secs(1_000_000_000);
    const DEFAULT: Duration = Duration::from_secs(300);

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn decide(status: u16, asked: &[(&str, &str)], answered: &[(&str, &str)]) -> Result<Lifetime, Refusal> {
        let (asked, answered) = (map(asked), map(answered));
        let control = Control::of(&answered, &[]);
        let timing = Timing { asked: NOW, answered: NOW };
        let status = StatusCode::from_u16(status).unwrap();
        Exchange { asked: &asked, status, answered: &answered, control: &control, timing }.lifetime(DEFAULT)
    }

    fn check(status: u16, answered: &[(&str, &str)], expected: Result<(u64, u64), Refusal>) {
        let decided = decide(status, &[], answered).map(|l| (l.fresh.as_secs(), l.if_error.as_secs()));
        assert_eq!(decided, expected, "{status} {answered:?}");
    }

    fn control(text: &str) -> [(&str, &str); 1] {
        [("cache-control", text)]
    }

    #[test]
    fn what_is_said_of_storing_is_obeyed() {
        check(200, &control("max-age=60"), Ok((60, 300)));
        check(200, &control("max-age=60, no-store"), Err(Refusal::NoStore));
        check(200, &control("max-age=60, private"), Err(Refusal::Private));
        check(200, &control("max-age=60, private=\"a\""), Ok((60, 300)));
        check(200, &control("max-age=60, no-cache=\"a\""), Ok((60, 300)));
        check(200, &[("cache-control", "max-age=60"), ("vary", "*")], Err(Refusal::Varies));
        check(599, &control("max-age=60"), Ok((60, 0)));
        check(206, &control("max-age=60"), Err(Refusal::Part));
        check(304, &control("max-age=60"), Err(Refusal::NotUnderstood));
    }

    #[test]
    fn what_is_neither_fresh_nor_to_be_validated_is_not_stored() {
        check(200, &[], Err(Refusal::NotWorthIt));
        check(200, &control("max-age=0"), Err(Refusal::NotWorthIt));
        check(200, &control("no-cache"), Err(Refusal::NotWorthIt));
        check(200, &[("etag", "\"a\"")], Ok((0, 300)));
        check(500, &[("etag", "\"a\"")], Err(Refusal::NotWorthIt));
        check(200, &[("cache-control", "max-age=60, no-cache"), ("etag", "\"a\"")], Ok((0, 0)));
        check(200, &[("cache-control", "max-age=60"), ("age", "7200")], Err(Refusal::NotWorthIt));
        check(200, &[("cache-control", "max-age=60"), ("age", "100")], Ok((60, 300)));
    }

    #[test]
    fn must_understand_goes_before_no_store() {
        check(200, &control("max-age=60, no-store, must-understand"), Ok((60, 300)));
        check(599, &control("max-age=60, no-store, must-understand"), Err(Refusal::NotUnderstood));
        check(599, &control("max-age=60, must-understand"), Err(Refusal::NotUnderstood));
    }

    #[test]
    fn answers_to_credentials_are_stored_when_that_is_said() {
        let check = |text: &str, expected: Result<u64, Refusal>| {
            let decided = decide(200, &[("authorization", "x")], &control(text));
            assert_eq!(decided.map(|lifetime| lifetime.fresh.as_secs()), expected, "{text}");
        };
        check("max-age=60", Err(Refusal::Credentials));
        check("max-age=60, public", Ok(60));
        check("max-age=60, must-revalidate", Ok(60));
        check("s-maxage=60", Ok(60));
    }

    #[test]
    fn staleness_is_bounded_by_what_is_said() {
        check(200, &control("max-age=60, stale-if-error=10"), Ok((60, 10)));
        for strict in ["must-revalidate", "proxy-revalidate", "s-maxage=60"] {
            let lifetime =
                decide(200, &[], &control(&format!("max-age=60, stale-while-revalidate=5, {strict}"))).unwrap();
            assert_eq!((lifetime.if_error, lifetime.while_revalidate), (Duration::ZERO, Duration::ZERO), "{strict}");
            assert!(lifetime.strict);
        }
        let lifetime = decide(200, &[], &control("max-age=60, stale-while-revalidate=5")).unwrap();
        assert_eq!(lifetime.while_revalidate, Duration::from_secs(5));
    }
}
