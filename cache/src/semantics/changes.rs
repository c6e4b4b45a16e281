//! What a request that may change things makes doubtful (RFC 9111 section 4.4).

use http::uri::Uri;
use http::{HeaderMap, Method, StatusCode, header};

use super::request::is_safe;

/// Whether stored answers for the target of a request are to be doubted now that it was answered so.
pub fn invalidates(method: &Method, status: StatusCode) -> bool {
    !is_safe(method) && (status.is_success() || status.is_redirection())
}

/// The paths, with their queries, that an answer's `Location` and `Content-Location` name at the same host.
pub fn named(target: &Uri, host: &str, answered: &HeaderMap) -> Vec<String> {
    [header::LOCATION, header::CONTENT_LOCATION]
        .iter()
        .filter_map(|name| resolve(target, host, answered.get(name)?.to_str().ok()?))
        .collect()
}

/// Does the answer say that it is what a GET of its target would get (RFC 9110 section 8.7)?
pub fn is_of_its_target(target: &Uri, host: &str, answered: &HeaderMap) -> bool {
    let location = answered.get(header::CONTENT_LOCATION).and_then(|value| value.to_str().ok());
    let own = target.path_and_query().map(|path| path.as_str());
    location.and_then(|location| resolve(target, host, location)).as_deref() == own
}

/// A reference as a path at `host`; None for another host or what is no reference (RFC 3986 section 5.2).
fn resolve(base: &Uri, host: &str, reference: &str) -> Option<String> {
    let reference = reference.split('#').next().unwrap_or_default();
    if let Some((scheme, rest)) = reference.split_once("://")
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric())
    {
        return at_host(rest, host);
    }
    if let Some(rest) = reference.strip_prefix("//") {
        return at_host(rest, host);
    }
    let query = |text: &str| format!("{}{text}", base.path());
    Some(match reference.bytes().next() {
        Some(b'/') => without_dots(reference),
        Some(b'?') => query(reference),
        None => query(&base.query().map(|query| format!("?{query}")).unwrap_or_default()),
        Some(_) => {
            let folder = base.path().rfind('/').map_or("/", |end| &base.path()[..=end]);
            without_dots(&format!("{folder}{reference}"))
        }
    })
}

fn at_host(rest: &str, host: &str) -> Option<String> {
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    authority.eq_ignore_ascii_case(host).then(|| without_dots(&path))
}

fn without_dots(path: &str) -> String {
    let (path, query) = path.find('?').map_or((path, ""), |at| path.split_at(at));
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            _ => kept.push(segment),
        }
    }
    format!("/{}{query}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_what_may_change_something_and_did_not_fail_invalidates() {
        let check = |method: &str, status: u16, expected: bool| {
            let (method, status) = (method.parse().unwrap(), StatusCode::from_u16(status).unwrap());
            assert_eq!(invalidates(&method, status), expected, "{method} {status}");
        };
        for method in ["POST", "PUT", "DELETE", "PATCH", "M-SEARCH"] {
            check(method, 200, true);
            check(method, 303, true);
            check(method, 404, false);
            check(method, 500, false);
        }
        for method in ["GET", "HEAD", "OPTIONS", "TRACE", "QUERY"] {
            check(method, 200, false);
        }
    }

    fn check(reference: &'static str, expected: Option<&str>) {
        let headers = HeaderMap::from_iter([(header::LOCATION, HeaderValue::from_static(reference))]);
        let base = Uri::from_static("/a/b?c=d");
        assert_eq!(named(&base, "Example.org", &headers).first().map(String::as_str), expected, "{reference}");
    }

    #[test]
    fn references_are_resolved_at_the_same_host() {
        check("/x?y=z#w", Some("/x?y=z"));
        check("x", Some("/a/x"));
        check("../x/./y/..", Some("/x/"));
        check("?x", Some("/a/b?x"));
        check("", Some("/a/b?c=d"));
        check("https://example.org/x", Some("/x"));
        check("//example.org", Some("/"));
        check("https://example.org?x", Some("/?x"));
        check("https://example.com/x", None);
        check("//example.org.evil/x", None);
    }

    #[test]
    fn an_answer_may_be_that_of_a_get() {
        let check = |target: &'static str, location: &'static str, expected: bool| {
            let headers = HeaderMap::from_iter([(header::CONTENT_LOCATION, HeaderValue::from_static(location))]);
            assert_eq!(is_of_its_target(&Uri::from_static(target), "h", &headers), expected, "{location}");
        };
        check("/a?b", "/a?b", true);
        check("/a?b", "", true);
        check("/a?b", "https://h/a?b", true);
        check("/a", "/b", false);
        check("/a", "https://other/a", false);
        assert!(!is_of_its_target(&Uri::from_static("/a"), "h", &HeaderMap::new()));
    }
}
