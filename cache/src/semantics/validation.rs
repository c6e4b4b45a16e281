//! Validators: what a caller has already, and whether what is stored still holds (RFC 9111 section 4.3, RFC 9110
//! section 13).

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::date;
use super::fields::{self, Head};

/// The conditions of a request that a cache answers itself.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    /// `If-None-Match`.
    known: Vec<HeaderValue>,
    /// `If-Modified-Since`; of no account beside the other.
    since: Option<HeaderValue>,
}

/// The fields of [`Conditions`], of ranges, and of ranges under a condition: a cache asks for the whole.
pub const CONDITIONAL: [HeaderName; 4] =
    [header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE, header::RANGE, header::IF_RANGE];

impl Conditions {
    pub fn of(headers: &HeaderMap) -> Self {
        let known: Vec<HeaderValue> = headers.get_all(header::IF_NONE_MATCH).iter().cloned().collect();
        let since = if known.is_empty() { headers.get(header::IF_MODIFIED_SINCE).cloned() } else { None };
        Self { known, since }
    }

    /// Has the caller what is stored with this head already?
    pub fn hold(&self, head: &[(HeaderName, HeaderValue)]) -> bool {
        if !self.known.is_empty() {
            return fields::first(head, &header::ETAG).is_some_and(|etag| self.knows(etag));
        }
        let Some(since) = self.since.as_ref().and_then(|since| date::parse(since.to_str().ok()?)) else { return false };
        // Where the last change is not told, it was not after the answer was made (section 4.3.2).
        let changed = fields::first(head, &header::LAST_MODIFIED).or_else(|| fields::first(head, &header::DATE));
        changed.and_then(|changed| date::parse(changed.to_str().ok()?)).is_some_and(|changed| changed <= since)
    }

    /// Compared weakly (RFC 9110 section 13.1.2).
    fn knows(&self, etag: &HeaderValue) -> bool {
        let opaque = without_weakness(etag.as_bytes());
        let lines = self.known.iter().map(HeaderValue::as_bytes);
        lines.flat_map(tags).any(|tag| tag == b"*" || without_weakness(tag) == opaque)
    }
}

/// The members of a list of entity tags. Commas may stand in a tag, which may hold bytes that are no text.
fn tags(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut quoted = false;
    line.split(move |b| {
        quoted ^= *b == b'"';
        *b == b',' && !quoted
    })
    .map(<[u8]>::trim_ascii)
    .filter(|tag| !tag.is_empty())
}

fn without_weakness(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

fn is_strong(tag: &HeaderValue) -> bool {
    tag.as_bytes().starts_with(b"\"")
}

/// Can the origin be asked whether the answer still holds?
pub fn has_validator(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ETAG) || date::of(headers, &header::LAST_MODIFIED).is_some()
}

/// The conditions by which the origin is asked whether what is stored still holds. Empty where it cannot be.
pub fn conditions(head: &[(HeaderName, HeaderValue)]) -> Head {
    let validators = [(header::ETAG, header::IF_NONE_MATCH), (header::LAST_MODIFIED, header::IF_MODIFIED_SINCE)];
    validators
        .into_iter()
        .filter_map(|(name, condition)| fields::first(head, &name).map(|value| (condition, value.clone())))
        .collect()
}

/// Does a 304 speak of what is stored? One that names another strong validator does not (section 4.3.4).
pub fn confirms(head: &[(HeaderName, HeaderValue)], answered: &HeaderMap) -> bool {
    match (answered.get(header::ETAG), fields::first(head, &header::ETAG)) {
        (Some(new), Some(stored)) if is_strong(new) => new == stored,
        _ => true,
    }
}

/// What is about the body that is stored, and not about the answer that says so (section 3.2).
const OF_THE_BODY: [HeaderName; 4] =
    [header::CONTENT_ENCODING, header::CONTENT_LENGTH, header::CONTENT_RANGE, header::CONTENT_TYPE];

/// The stored head with what a 304, or an answer to HEAD, says anew.
pub fn freshened(head: &[(HeaderName, HeaderValue)], answered: &HeaderMap) -> HeaderMap {
    let mut news = answered.clone();
    fields::remove_hop_by_hop(&mut news);
    OF_THE_BODY.iter().for_each(|name| {
        news.remove(name);
    });
    let mut merged = HeaderMap::with_capacity(head.len() + news.len());
    for (name, value) in head.iter().filter(|(name, _)| !news.contains_key(name)) {
        merged.append(name.clone(), value.clone());
    }
    for (name, value) in &news {
        merged.append(name.clone(), value.clone());
    }
    merged
}

/// Does `If-Range` let the range count, given what is stored (RFC 9110 section 13.1.5)? Compared strongly.
pub fn range_applies(request: &HeaderMap, head: &[(HeaderName, HeaderValue)]) -> bool {
    let Some(condition) = request.get(header::IF_RANGE) else { return true };
    if is_strong(condition) {
        return fields::first(head, &header::ETAG) == Some(condition);
    }
    !condition.as_bytes().starts_with(b"W/") && fields::first(head, &header::LAST_MODIFIED) == Some(condition)
}

/// Does a request have to be decided by the origin, since it is about what the origin has?
pub fn is_for_the_origin(headers: &HeaderMap) -> bool {
    headers.contains_key(header::IF_MATCH) || headers.contains_key(header::IF_UNMODIFIED_SINCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn head(lines: &[(HeaderName, &str)]) -> Head {
        map(lines).iter().map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    fn check(asked: &[(HeaderName, &str)], stored: &[(HeaderName, &str)], expected: bool) {
        assert_eq!(Conditions::of(&map(asked)).hold(&head(stored)), expected, "{asked:?} {stored:?}");
    }

    #[test]
    fn tags_are_compared_weakly() {
        let check = |known: &str, stored: &str, expected| {
            check(&[(header::IF_NONE_MATCH, known)], &[(header::ETAG, stored)], expected);
        };
        check("\"abc\"", "\"abc\"", true);
        check("W/\"abc\"", "\"abc\"", true);
        check("\"abc\"", "W/\"abc\"", true);
        check("\"x\", W/\"abc\", \"y\"", "\"abc\"", true);
        check("\"a,b\"", "\"a,b\"", true);
        check("\"abcü\"", "\"abcü\"", true);
        check("*", "\"abc\"", true);
        check("abc", "\"abc\"", false);
        check("\"abcd\"", "\"abc\"", false);
        check("", "\"abc\"", false);
    }

    const EARLY: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const LATE: &str = "Mon, 07 Nov 1994 08:49:37 GMT";

    #[test]
    fn dates_are_compared_in_any_form() {
        let since = |text| [(header::IF_MODIFIED_SINCE, text)];
        check(&since(EARLY), &[(header::LAST_MODIFIED, EARLY)], true);
        check(&since(LATE), &[(header::LAST_MODIFIED, EARLY)], true);
        check(&since(EARLY), &[(header::LAST_MODIFIED, LATE)], false);
        check(&since("Sunday, 06-Nov-94 08:49:37 GMT"), &[(header::LAST_MODIFIED, EARLY)], true);
        check(&since(LATE), &[(header::DATE, EARLY)], true);
        check(&since(EARLY), &[(header::DATE, LATE)], false);
        check(&since("foo"), &[(header::LAST_MODIFIED, EARLY)], false);
        check(&since(EARLY), &[], false);
    }

    #[test]
    fn a_tag_goes_before_a_date() {
        let stored = [(header::ETAG, "\"a\""), (header::LAST_MODIFIED, LATE)];
        check(&[(header::IF_NONE_MATCH, "\"a\""), (header::IF_MODIFIED_SINCE, EARLY)], &stored, true);
        check(&[(header::IF_NONE_MATCH, "\"b\""), (header::IF_MODIFIED_SINCE, LATE)], &stored, false);
    }

    #[test]
    fn the_origin_is_asked_by_what_is_stored() {
        let stored = head(&[(header::ETAG, "W/\"a\""), (header::LAST_MODIFIED, EARLY)]);
        let expected = head(&[(header::IF_NONE_MATCH, "W/\"a\""), (header::IF_MODIFIED_SINCE, EARLY)]);
        assert_eq!(conditions(&stored), expected);
        assert_eq!(conditions(&[]), []);
    }

    #[test]
    fn a_304_of_another_strong_tag_is_about_something_else() {
        let stored = head(&[(header::ETAG, "\"a\"")]);
        let check =
            |tag: &str, expected| assert_eq!(confirms(&stored, &map(&[(header::ETAG, tag)])), expected, "{tag}");
        check("\"a\"", true);
        check("\"b\"", false);
        check("W/\"a\"", true);
        assert!(confirms(&stored, &HeaderMap::new()));
        assert!(confirms(&[], &map(&[(header::ETAG, "\"b\"")])));
    }

    #[test]
    fn a_304_brings_news_of_all_but_the_body() {
        let of = HeaderName::from_static;
        let stored = head(&[(of("a"), "1"), (of("b"), "1"), (header::CONTENT_TYPE, "x"), (of("c"), "1")]);
        let news = map(&[(of("b"), "2"), (of("b"), "3"), (header::CONTENT_TYPE, "y"), (header::CONTENT_LENGTH, "9")]);
        let expected =
            map(&[(of("a"), "1"), (header::CONTENT_TYPE, "x"), (of("c"), "1"), (of("b"), "2"), (of("b"), "3")]);
        assert_eq!(freshened(&stored, &news), expected);
    }

    #[test]
    fn a_range_counts_only_of_what_the_caller_has() {
        let stored = head(&[(header::ETAG, "\"a\""), (header::LAST_MODIFIED, EARLY)]);
        let check = |condition: &str, expected| {
            assert_eq!(range_applies(&map(&[(header::IF_RANGE, condition)]), &stored), expected, "{condition}");
        };
        check("\"a\"", true);
        check("\"b\"", false);
        check("W/\"a\"", false);
        check(EARLY, true);
        check(LATE, false);
        assert!(range_applies(&HeaderMap::new(), &stored));
    }
}
