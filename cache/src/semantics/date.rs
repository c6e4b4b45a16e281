//! Times as HTTP writes them (RFC 9110 section 5.6.7).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, header};

const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// Unix time. The three forms of the RFC, letters in any case, and the day of the week, which says nothing new, any; all
/// else is no date, however near to one.
pub fn parse(text: &str) -> Option<Duration> {
    let text = cased(text);
    let date = httpdate::parse_http_date(&text).ok().or_else(|| on_any_day(&text))?;
    date.duration_since(UNIX_EPOCH).ok()
}

/// Words with a capital at their beginning, as dates have them.
fn cased(text: &str) -> String {
    let mut begins = true;
    let letter = |c: char| {
        let cased = if begins { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
        begins = !c.is_ascii_alphabetic();
        cased
    };
    let cased: String = text.chars().map(letter).collect();
    match cased.strip_suffix("Gmt") {
        Some(rest) => format!("{rest}GMT"),
        None => cased,
    }
}

fn on_any_day(text: &str) -> Option<SystemTime> {
    let end = text.find(|c: char| !c.is_ascii_alphabetic())?;
    let (day, rest) = text.split_at(end);
    let short = end == 3;
    let name = |full: &'static str| if short { &full[..3] } else { full };
    DAYS.iter().position(|full| name(full) == day)?;
    DAYS.iter().find_map(|full| httpdate::parse_http_date(&format!("{}{rest}", name(full))).ok())
}

/// The date in a field that has one line; several lines are no date.
pub fn of(headers: &HeaderMap, name: &HeaderName) -> Option<Duration> {
    let mut lines = headers.get_all(name).iter();
    let (first, more) = (lines.next()?, lines.next());
    parse(first.to_str().ok()?).filter(|_| more.is_none())
}

/// `Date` for an answer that came without one, at a Unix time (RFC 9110 section 6.6.1).
pub fn ensure(headers: &mut HeaderMap, now: Duration) {
    if let header::Entry::Vacant(vacant) = headers.entry(header::DATE)
        && let Ok(value) = HeaderValue::try_from(httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + now))
    {
        vacant.insert(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, valid: bool) {
        assert_eq!(parse(text).is_some(), valid, "{text}");
    }

    #[test]
    fn the_three_forms_are_read() {
        let expected = Some(Duration::from_secs(784_111_777));
        for text in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(parse(text), expected, "{text}");
        }
        check("Sun, 21 Nov 2286 04:46:39 GMT", true);
        check("Tue, 19 Jan 2038 14:14:08 GMT", true);
        check("Thursday, 18-Aug-50 02:01:18 GMT", true);
    }

    #[test]
    fn a_wrong_day_of_the_week_does_no_harm() {
        check("Thu Aug  8 02:01:18 2050", true);
        check("Mon, 06 Nov 1994 08:49:37 GMT", true);
        check("Xyz, 06 Nov 1994 08:49:37 GMT", false);
    }

    #[test]
    fn case_makes_no_difference() {
        for text in ["THU, 18 Aug 2050 02:01:18 GMT", "Thu, 18 AUG 2050 02:01:18 GMT", "Thu, 18 Aug 2050 02:01:18 gMT"]
        {
            check(text, true);
        }
    }

    #[test]
    fn what_is_nearly_a_date_is_none() {
        for text in [
            "",
            "0",
            "-1",
            "foo",
            "Thu, 18 Aug 2050 02:01:18 UTC",
            "Thu, 18 Aug 2050 02:01:18 AEST",
            "Thu, 18 Aug 50 02:01:18 GMT",
            "Thu 18 Aug 2050 02:01:18 GMT",
            "Thu, 18  Aug  2050 02:01:18 GMT",
            "Thu, 18-Aug-2050 02:01:18 GMT",
            "Thu, 18 Aug 2050 02.01.18 GMT",
            "Thu, 18 Aug 2050 2:01:18 GMT",
        ] {
            check(text, false);
        }
    }
}
