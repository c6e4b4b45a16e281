//! What h3 takes for a request's head though it is none.

use http::{Method, header};

use super::quic_fields::Protocol;

/// Pseudo-fields that belong together, without a part of an authority that is no more (RFC 9114 sections 4.3.1 and 4.4).
fn well_shaped(head: &http::Request<()>, protocol: Option<Protocol>) -> bool {
    let (method, uri) = (head.method(), head.uri());
    let path = uri.path_and_query().map(http::uri::PathAndQuery::as_str);
    let asterisk = *method == Method::OPTIONS && path == Some("*");
    let target = uri.scheme_str().is_some_and(|scheme| !scheme.is_empty())
        && (asterisk || path.is_some_and(|path| path.starts_with('/')));
    let shape = match (*method == Method::CONNECT, protocol) {
        (true, None) => uri.scheme().is_none() && path.is_none(),
        // RFC 8441 section 4: `:protocol` is of CONNECT alone, and then `:scheme` and `:path` are of it too.
        (false, Some(_)) => false,
        (true, Some(_)) | (false, None) => target,
    };
    shape && uri.authority().is_none_or(|authority| !authority.as_str().contains('@'))
}

/// Fields of a connection, not of a request, are malformed in HTTP/3 (RFC 9114 section 4.2).
pub(super) fn well_formed(head: &http::Request<()>, protocol: Option<Protocol>) -> bool {
    const FORBIDDEN: [&str; 5] = ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];
    let headers = head.headers();
    well_shaped(head, protocol)
        && FORBIDDEN.iter().all(|name| !headers.contains_key(*name))
        && headers.get(header::TE).is_none_or(|te| te == "trailers")
        && headers.get_all(header::CONTENT_LENGTH).iter().count() <= 1
}
