//! Which fields of a request choose among the answers to it (RFC 9111 section 4.1).

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, header};

use super::directives::members;

/// More names than this are as good as all: nothing is stored under them.
const MAX_FIELDS: usize = 16;

/// What `Vary` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vary {
    Nothing,
    /// In the order of their names, each once.
    Fields(Vec<HeaderName>),
    /// What is no field of the request decides too.
    Everything,
}

impl Vary {
    pub fn of(headers: &HeaderMap) -> Self {
        let lines = headers.get_all(header::VARY).iter();
        let mut names = Vec::new();
        for line in lines {
            let Ok(text) = line.to_str() else { return Self::Everything };
            for name in members(text) {
                match HeaderName::from_bytes(name.as_bytes()) {
                    Ok(name) if name != "*" => names.push(name),
                    _ => return Self::Everything,
                }
            }
        }
        names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        names.dedup();
        match names.len() {
            0 => Self::Nothing,
            1..=MAX_FIELDS => Self::Fields(names),
            _ => Self::Everything,
        }
    }
}

/// What a request says in a field that chooses: lines joined, white space between members dropped, and for languages
/// their order and case where these make no difference. None where the field is not there.
pub fn normalised(request: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    let mut lines = request.get_all(name).iter().peekable();
    lines.peek()?;
    let text: Option<Vec<&str>> = lines.map(|line| line.to_str().ok()).collect();
    let Some(lines) = text else {
        // Bytes that no syntax speaks of.
        return Some(request.get_all(name).iter().map(http::HeaderValue::as_bytes).collect::<Vec<_>>().join(&b','));
    };
    let mut parts: Vec<Cow<'_, str>> = lines.into_iter().flat_map(members).map(Cow::Borrowed).collect();
    if matches!(*name, header::ACCEPT_LANGUAGE | header::ACCEPT_ENCODING) {
        for part in &mut parts {
            *part = part.to_ascii_lowercase().replace([' ', '\t'], "").into();
        }
        // Equals are equals by weight, not by place (RFC 9110 section 12.5.4).
        parts.sort_unstable();
        parts.dedup();
    }
    Some(parts.join(",").into_bytes())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn map(name: &'static str, lines: &[&str]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for line in lines {
            map.append(name, HeaderValue::from_str(line).unwrap());
        }
        map
    }

    #[test]
    fn names_are_a_set() {
        let fields = |names: &[&'static str]| Vary::Fields(names.iter().map(|n| HeaderName::from_static(n)).collect());
        assert_eq!(Vary::of(&map("vary", &["Foo, bar , foo,"])), fields(&["bar", "foo"]));
        assert_eq!(Vary::of(&HeaderMap::new()), Vary::Nothing);
        assert_eq!(Vary::of(&map("vary", &[""])), Vary::Nothing);
    }

    #[test]
    fn a_star_anywhere_is_everything() {
        for line in ["*", "*, *", ", *", "*, Foo", "Foo, *", "a b"] {
            assert_eq!(Vary::of(&map("vary", &[line])), Vary::Everything, "{line}");
        }
        assert_eq!(Vary::of(&map("vary", &["", "*"])), Vary::Everything);
        let many: Vec<String> = (0..17).map(|i| format!("f{i}")).collect();
        assert_eq!(Vary::of(&map("vary", &[&many.join(",")])), Vary::Everything);
    }

    fn check(name: &'static str, one: &[&str], other: &[&str], equal: bool) {
        let values = [one, other].map(|lines| normalised(&map(name, lines), &HeaderName::from_static(name)));
        assert_eq!(values[0] == values[1], equal, "{name} {one:?} {other:?}");
    }

    #[test]
    fn what_makes_no_difference_is_no_difference() {
        check("foo", &["1, 2"], &["1", "2"], true);
        check("foo", &["1,2"], &[" 1, 2 "], true);
        check("foo", &["1, 2"], &["2, 1"], false);
        check("foo", &["a"], &["A"], false);
        check("foo", &["1"], &[], false);
        check("foo", &[""], &[], false);
        check("accept-language", &["en, de"], &["de, en"], true);
        check("accept-language", &["en, de"], &["eN, De"], true);
        check("accept-language", &["en, de"], &[" en ,   de"], true);
        check("accept-language", &["en, de;q=0.5"], &["en;q=0.5, de"], false);
    }
}
