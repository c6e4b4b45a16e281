//! REST ⇄ gRPC: bodies and query strings become proto messages, and messages become answers.
//!
//! Strict: only documented fields, each of its documented form, all violations named by JSON pointers. Vectors are read
//! straight into `Vec<f32>`, filters and metadata are carried as the bytes that came, answers are written as bytes.

pub mod answer;
pub mod batch;
pub mod collection;
mod explanation;
pub mod json;
pub(crate) mod keys;
pub mod name;
pub mod ndjson;
pub(crate) mod operating;
pub mod point;
pub mod query;
pub mod read;
pub mod search;
pub mod vector;

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use nearfield_proto::v1;
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::error::Error;

/// A search that an outer layer has decoded already, left in the request's extensions.
#[derive(Clone, Debug)]
pub struct DecodedSearch(pub v1::SearchRequest);

/// The request header, and the answer's, that carries a session token.
pub const SESSION_HEADER: &str = "nearfield-session";

/// Reads a search from `GET …?query` or the body of a `POST` or `QUERY`. The session may also come in the header.
///
/// # Errors
/// [`Error::Malformed`] with all violations, [`Error::UnsupportedMediaType`] for a body that is not JSON.
pub fn decode_search(parts: &http::request::Parts, body: &[u8]) -> Result<v1::SearchRequest, Error> {
    let mut search = if matches!(parts.method, http::Method::POST | http::Method::QUERY) {
        expect_json_of(&parts.method, &parts.headers)?;
        search::of_body(body)?
    } else {
        search::of_query(parts.uri.query().unwrap_or_default())?
    };
    search.session = session(&parts.headers, std::mem::take(&mut search.session))?;
    Ok(search)
}

/// The session of a read: the body's, or the header's, or none.
///
/// # Errors
/// [`Error::Malformed`] when both are given and differ, or the header is not text.
pub fn session(headers: &HeaderMap, of_body: String) -> Result<String, Error> {
    let Some(header) = headers.get(SESSION_HEADER) else { return Ok(of_body) };
    let header = header.to_str().map_err(|_| Error::invalid("Nearfield-Session", "is not printable ASCII"))?;
    if !of_body.is_empty() && of_body != header {
        return Err(Error::invalid("/session", "differs from the Nearfield-Session header"));
    }
    Ok(header.to_owned())
}

/// The only parameter of a read that has no others: `session`.
///
/// # Errors
/// [`Error::Malformed`] for any other parameter.
pub(crate) fn session_parameter(query: &str) -> Result<String, Error> {
    let report = json::Report::default();
    let session = query::Parameters::read(query, &["session"], &report).text("session").unwrap_or_default().to_owned();
    report.finish(session)
}

/// A failure inside an answer, as the status that it would have been alone.
pub(crate) fn status_of(problem: v1::Problem) -> tonic::Status {
    let violations = problem.violations.into_iter().map(|v| FieldViolation::new(v.field, v.description));
    let details = ErrorDetails::with_bad_request(violations.collect::<Vec<_>>());
    tonic::Status::with_error_details(tonic::Code::from_i32(problem.code), problem.message, details)
}

/// Is the body declared as JSON? A body without a declaration is taken for it.
///
/// # Errors
/// [`Error::UnsupportedMediaType`].
pub fn expect_json(headers: &HeaderMap) -> Result<(), Error> {
    match media_type(headers)? {
        None => Ok(()),
        Some(media) if media == "application/json" => Ok(()),
        Some(media) => Err(Error::UnsupportedMediaType(format!("{media} is not application/json"))),
    }
}

/// The same for a method that may be QUERY, whose body has to be declared (RFC 10008 section 2).
///
/// # Errors
/// As [`expect_json`], and [`Error::Malformed`] for a QUERY that does not say what its body is.
pub fn expect_json_of(method: &http::Method, headers: &HeaderMap) -> Result<(), Error> {
    if *method == http::Method::QUERY && !headers.contains_key(CONTENT_TYPE) {
        return Err(Error::invalid("Content-Type", "is missing, and a QUERY has to have it"));
    }
    expect_json(headers)
}

/// The body's media type in lower case, without parameters.
///
/// # Errors
/// [`Error::UnsupportedMediaType`] for a `Content-Type` that cannot be read, or a charset other than UTF-8.
pub fn media_type(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(None) };
    let unreadable = |_| Error::UnsupportedMediaType("the Content-Type is not printable ASCII".to_owned());
    let value = value.to_str().map_err(unreadable)?.to_ascii_lowercase();
    let mut parts = value.split(';').map(str::trim);
    let media = parts.next().unwrap_or_default().to_owned();
    let charset = parts.find_map(|p| p.strip_prefix("charset=")).map(|charset| charset.trim_matches('"'));
    match charset {
        None | Some("utf-8" | "utf8" | "us-ascii") => Ok(Some(media)),
        Some(other) => Err(Error::UnsupportedMediaType(format!("the charset {other} is not UTF-8"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types() {
        let check = |value: &str, accepted: bool| {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, value.parse().unwrap())]);
            assert_eq!(expect_json(&headers).is_ok(), accepted, "{value}");
        };
        check("application/json", true);
        check("Application/JSON; charset=UTF-8", true);
        check("application/json; charset=\"utf-8\"", true);
        check("application/json; charset=latin1", false);
        check("text/plain", false);
        check("application/x-www-form-urlencoded", false);
        assert!(expect_json(&HeaderMap::new()).is_ok());
    }

    #[test]
    fn a_session_comes_by_header_or_body() {
        let headers = HeaderMap::from_iter([(SESSION_HEADER.parse().unwrap(), "abc".parse().unwrap())]);
        assert_eq!(session(&headers, String::new()).unwrap(), "abc");
        assert_eq!(session(&HeaderMap::new(), "xyz".to_owned()).unwrap(), "xyz");
        assert!(session(&headers, "xyz".to_owned()).is_err());
    }
}
