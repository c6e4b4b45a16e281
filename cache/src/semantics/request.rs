//! What a request asks of a cache (RFC 9111 section 5.2.1).

use std::time::Duration;

use http::{HeaderMap, Method, header};

use super::directives::{directives, seconds};
use crate::{Age, Lifetime};

/// The directives of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    pub no_cache: bool,
    pub no_store: bool,
    pub only_if_cached: bool,
    pub max_age: Option<Duration>,
    pub min_fresh: Duration,
    /// How stale an answer may be; the longest there is when the request does not say.
    pub max_stale: Option<Duration>,
}

/// What to do about a stored answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Ask, whatever is stored.
    Ask,
    Give,
    /// Give it, and ask behind the caller's back (RFC 5861 section 3).
    GiveAndAsk,
}

impl Demand {
    pub fn of(headers: &HeaderMap) -> Self {
        let mut demand = Self::default();
        if !headers.contains_key(header::CACHE_CONTROL) {
            // Section 5.4: only where Cache-Control says nothing.
            let pragma = headers.get(header::PRAGMA).and_then(|value| value.to_str().ok());
            demand.no_cache = pragma.is_some_and(|pragma| pragma.eq_ignore_ascii_case("no-cache"));
            return demand;
        }
        for (name, value) in directives(headers) {
            match (name.as_str(), value) {
                ("no-cache", _) => demand.no_cache = true,
                ("no-store", _) => demand.no_store = true,
                ("only-if-cached", _) => demand.only_if_cached = true,
                ("max-age", value) => demand.max_age = Some(seconds(value.as_deref().unwrap_or_default())),
                ("min-fresh", value) => demand.min_fresh = seconds(value.as_deref().unwrap_or_default()),
                ("max-stale", value) => demand.max_stale = Some(value.map_or(Duration::MAX, |text| seconds(&text))),
                _ => {}
            }
        }
        demand
    }

    /// May an answer of this age and lifetime be given?
    pub fn judge(&self, age: Age, lifetime: &Lifetime) -> Verdict {
        if self.no_cache {
            return Verdict::Ask;
        }
        let young_enough = |age: Duration| self.max_age.is_none_or(|most| age <= most);
        match age {
            Age::Fresh { age, left } if young_enough(age) && left >= self.min_fresh => Verdict::Give,
            Age::Stale { age, by } if young_enough(age) && self.min_fresh.is_zero() => {
                if by < lifetime.while_revalidate {
                    Verdict::GiveAndAsk
                } else if !lifetime.strict && self.max_stale.is_some_and(|most| by <= most) {
                    Verdict::Give
                } else {
                    Verdict::Ask
                }
            }
            Age::Fresh { .. } | Age::Stale { .. } | Age::Dead => Verdict::Ask,
        }
    }
}

/// Methods that change nothing (RFC 9110 section 9.2.1; QUERY: RFC 10008).
pub fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE) || is_query(method)
}

/// Asks with a body what GET asks with a URI; the body is part of the question.
pub fn is_query(method: &Method) -> bool {
    method.as_str() == "QUERY"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(control: &[&str]) -> Demand {
        Demand::of(&control.iter().map(|text| (header::CACHE_CONTROL, text.parse().unwrap())).collect())
    }

    #[test]
    fn directives_are_read_in_any_case_and_on_any_line() {
        let all = demand(&["No-Cache, no-store", "only-if-cached, max-stale"]);
        assert!(all.no_cache && all.no_store && all.only_if_cached);
        assert_eq!(all.max_stale, Some(Duration::MAX));
        let pragma = HeaderMap::from_iter([(header::PRAGMA, "no-cache".parse().unwrap())]);
        assert!(Demand::of(&pragma).no_cache);
        let both = HeaderMap::from_iter([
            (header::PRAGMA, "no-cache".parse().unwrap()),
            (header::CACHE_CONTROL, "max-age=1".parse().unwrap()),
        ]);
        assert!(!Demand::of(&both).no_cache);
    }

    fn check(control: &str, age: Age, lifetime: &Lifetime, expected: Verdict) {
        assert_eq!(demand(&[control]).judge(age, lifetime), expected, "{control} {age:?}");
    }

    #[test]
    fn a_fresh_answer_may_be_too_old_for_the_asker() {
        let seconds = Duration::from_secs;
        let (fresh, any) = (Age::Fresh { age: seconds(10), left: seconds(20) }, &Lifetime::default());
        check("x", fresh, any, Verdict::Give);
        check("max-age=10", fresh, any, Verdict::Give);
        check("max-age=9", fresh, any, Verdict::Ask);
        check("max-age=0", fresh, any, Verdict::Ask);
        check("min-fresh=20", fresh, any, Verdict::Give);
        check("min-fresh=21", fresh, any, Verdict::Ask);
        check("no-cache", fresh, any, Verdict::Ask);
    }

    #[test]
    fn a_stale_answer_may_be_good_enough() {
        let seconds = Duration::from_secs;
        let stale = Age::Stale { age: seconds(40), by: seconds(10) };
        let plain = Lifetime::default();
        check("x", stale, &plain, Verdict::Ask);
        check("max-stale", stale, &plain, Verdict::Give);
        check("max-stale=10", stale, &plain, Verdict::Give);
        check("max-stale=9", stale, &plain, Verdict::Ask);
        check("max-stale, max-age=39", stale, &plain, Verdict::Ask);
        check("max-stale", stale, &Lifetime { strict: true, ..plain }, Verdict::Ask);
        let renewed = Lifetime { while_revalidate: seconds(11), ..plain };
        check("x", stale, &renewed, Verdict::GiveAndAsk);
        check("min-fresh=1", stale, &renewed, Verdict::Ask);
        check("x", stale, &Lifetime { while_revalidate: seconds(10), ..plain }, Verdict::Ask);
        check("max-stale", Age::Dead, &plain, Verdict::Ask);
    }
}
