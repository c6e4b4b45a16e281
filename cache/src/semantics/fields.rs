//! Which fields of an answer's head are the answer's, and which were the connection's (RFC 9111 section 3.1).

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::directives::{Control, members};

/// A head as it is stored: lines of one name in their order.
pub type Head = Vec<(HeaderName, HeaderValue)>;

/// Fields that are about one hop (RFC 9110 section 7.6.1), or about credentials between two.
const HOP_BY_HOP: [HeaderName; 10] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-authentication-info"),
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Takes away what is between this hop and its neighbour, as a proxy must in both directions.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(members)
        .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
        .collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
}

/// What is stored of `headers`: all but what is a hop's, what is one caller's (`private="…"`), what may not be given
/// without asking (`no-cache="…"`), and what is computed anew for each answer.
pub fn stored(headers: &HeaderMap, control: &Control) -> Head {
    let mut kept = headers.clone();
    remove_hop_by_hop(&mut kept);
    for name in control.private.fields().iter().chain(control.no_cache.fields()) {
        kept.remove(name);
    }
    // The length is the body's, the age is counted on, and what caches before this one did they did for another request.
    for name in [header::CONTENT_LENGTH, header::AGE, HeaderName::from_static("cache-status")] {
        kept.remove(name);
    }
    kept.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The first line of a field of a stored head.
pub fn first<'a>(head: &'a [(HeaderName, HeaderValue)], name: &HeaderName) -> Option<&'a HeaderValue> {
    head.iter().find(|(known, _)| known == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_hops_or_one_callers_is_not_stored() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "a, B"),
            ("a", "1"),
            ("b", "2"),
            ("c", "3"),
            ("c", "4"),
            ("d", "5"),
            ("e", "6"),
            ("keep-alive", "x"),
            ("proxy-authenticate", "x"),
            ("te", "x"),
            ("upgrade", "x"),
            ("age", "7"),
            ("content-length", "8"),
            ("cache-control", "private=\"d\", no-cache=\"e\""),
            ("set-cookie", "f=9"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let head = stored(&headers, &Control::of(&headers, &[]));
        let mut names: Vec<&str> = head.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["c", "c", "cache-control", "set-cookie"]);
        assert_eq!(first(&head, &HeaderName::from_static("c")), Some(&HeaderValue::from_static("3")));
    }
}
