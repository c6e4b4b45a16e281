//! The only map from an [`Error`] to an answer: problem+json (RFC 9457) for HTTP, a trailers-only status for gRPC.
//!
//! [`problem`] gives the parts, so that WebSocket and SSE can carry the same problem inside a stream.

use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;
use tonic::Code;
use tonic_types::StatusExt;

use crate::body::{self, Response};
use crate::error::{Error, Violation};

/// An RFC 9457 problem.
#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub title: &'static str,
    pub status: u16,
    pub detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ProblemItem>,
    /// The line of an NDJSON body that ended it, counted from 1, and how many points were stored before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inserted: Option<u64>,
}

/// One entry of a problem's `errors`.
#[derive(Clone, Debug, Serialize)]
pub struct ProblemItem {
    pub pointer: String,
    pub detail: String,
}

impl From<Violation> for ProblemItem {
    fn from(v: Violation) -> Self {
        Self { pointer: v.pointer, detail: v.detail }
    }
}

/// How an error is told: the HTTP status, the gRPC code, and a title that is the same for all of its kind.
fn classify(error: &Error) -> (StatusCode, Code, &'static str) {
    match error {
        Error::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, Code::DeadlineExceeded, "body-timeout"),
        Error::Conflict(_) => (StatusCode::CONFLICT, Code::Aborted, "conflict"),
        Error::DeadlineExceeded => (StatusCode::GATEWAY_TIMEOUT, Code::DeadlineExceeded, "deadline-exceeded"),
        Error::Forbidden(_) => (StatusCode::FORBIDDEN, Code::PermissionDenied, "forbidden"),
        Error::HeadTimeout => (StatusCode::REQUEST_TIMEOUT, Code::DeadlineExceeded, "head-timeout"),
        Error::HeadTooLarge => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, Code::ResourceExhausted, "head-too-large"),
        Error::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, Code::Internal, "internal"),
        Error::Line { cause, .. } => classify(cause),
        Error::Limited { .. } => (StatusCode::TOO_MANY_REQUESTS, Code::ResourceExhausted, "limited"),
        Error::Malformed { .. } => (StatusCode::BAD_REQUEST, Code::InvalidArgument, "malformed"),
        Error::MethodNotAllowed { .. } => (StatusCode::METHOD_NOT_ALLOWED, Code::Unimplemented, "method-not-allowed"),
        Error::NoRegion => (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, "no-region"),
        // RFC 9220 section 3.
        Error::NoSuchProtocol => (StatusCode::NOT_IMPLEMENTED, Code::Unimplemented, "no-such-protocol"),
        // RFC 9111 section 5.2.1.7.
        Error::NotCached => (StatusCode::GATEWAY_TIMEOUT, Code::Unavailable, "not-cached"),
        Error::NotFound(_) => (StatusCode::NOT_FOUND, Code::NotFound, "not-found"),
        Error::OutsidePerimeter => (StatusCode::FORBIDDEN, Code::PermissionDenied, "outside-perimeter"),
        Error::Residency { .. } => (StatusCode::FORBIDDEN, Code::PermissionDenied, "residency"),
        Error::Shed { .. } => (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, "shed"),
        Error::TargetTooLong => (StatusCode::URI_TOO_LONG, Code::InvalidArgument, "target-too-long"),
        // RFC 8470 section 5.2. gRPC's word for what may be sent again as it is.
        Error::TooEarly => (StatusCode::TOO_EARLY, Code::Unavailable, "too-early"),
        Error::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, Code::ResourceExhausted, "too-large"),
        Error::InvalidCredentials(_) | Error::Unauthenticated(_) => {
            (StatusCode::UNAUTHORIZED, Code::Unauthenticated, "unauthenticated")
        }
        Error::UnsupportedMediaType(_) => {
            (StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::InvalidArgument, "unsupported-media-type")
        }
        Error::UpgradeRequired(_) => (StatusCode::UPGRADE_REQUIRED, Code::InvalidArgument, "upgrade-required"),
        Error::Upstream(status) => {
            let (http, title) = upstream(status.code());
            (http, status.code(), title)
        }
    }
}

/// searchd's codes in HTTP. searchd speaks of the caller's request, so most codes have one meaning.
fn upstream(code: Code) -> (StatusCode, &'static str) {
    match code {
        Code::InvalidArgument | Code::FailedPrecondition => (StatusCode::BAD_REQUEST, "malformed"),
        Code::NotFound => (StatusCode::NOT_FOUND, "not-found"),
        Code::AlreadyExists | Code::Aborted => (StatusCode::CONFLICT, "conflict"),
        // Metadata past its limit, or a message.
        Code::OutOfRange => (StatusCode::PAYLOAD_TOO_LARGE, "too-large"),
        Code::DeadlineExceeded => (StatusCode::GATEWAY_TIMEOUT, "deadline-exceeded"),
        Code::ResourceExhausted => (StatusCode::SERVICE_UNAVAILABLE, "shed"),
        Code::Unavailable | Code::Cancelled => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        // It knows no scopes: what it denies may not be where it is.
        Code::PermissionDenied => (StatusCode::FORBIDDEN, "residency"),
        // What is stored is damaged: asking again helps no more than asking through another gateway.
        Code::DataLoss => (StatusCode::INTERNAL_SERVER_ERROR, "data-loss"),
        Code::Unauthenticated | Code::Ok | Code::Unknown | Code::Unimplemented | Code::Internal => {
            (StatusCode::BAD_GATEWAY, "upstream")
        }
    }
}

fn type_uri(title: &str) -> &'static str {
    match title {
        "body-timeout" => "https://nearfield.dev/problems/body-timeout",
        "conflict" => "https://nearfield.dev/problems/conflict",
        "data-loss" => "https://nearfield.dev/problems/data-loss",
        "deadline-exceeded" => "https://nearfield.dev/problems/deadline-exceeded",
        "forbidden" => "https://nearfield.dev/problems/forbidden",
        "head-timeout" => "https://nearfield.dev/problems/head-timeout",
        "head-too-large" => "https://nearfield.dev/problems/head-too-large",
        "limited" => "https://nearfield.dev/problems/limited",
        "malformed" => "https://nearfield.dev/problems/malformed",
        "method-not-allowed" => "https://nearfield.dev/problems/method-not-allowed",
        "no-region" => "https://nearfield.dev/problems/no-region",
        "no-such-protocol" => "https://nearfield.dev/problems/no-such-protocol",
        "not-cached" => "https://nearfield.dev/problems/not-cached",
        "not-found" => "https://nearfield.dev/problems/not-found",
        "outside-perimeter" => "https://nearfield.dev/problems/outside-perimeter",
        "residency" => "https://nearfield.dev/problems/residency",
        "shed" => "https://nearfield.dev/problems/shed",
        "target-too-long" => "https://nearfield.dev/problems/target-too-long",
        "too-early" => "https://nearfield.dev/problems/too-early",
        "too-large" => "https://nearfield.dev/problems/too-large",
        "unauthenticated" => "https://nearfield.dev/problems/unauthenticated",
        "unavailable" => "https://nearfield.dev/problems/unavailable",
        "unsupported-media-type" => "https://nearfield.dev/problems/unsupported-media-type",
        "upgrade-required" => "https://nearfield.dev/problems/upgrade-required",
        "upstream" => "https://nearfield.dev/problems/upstream",
        _ => "https://nearfield.dev/problems/internal",
    }
}

/// The problem that tells of `error`. Internal failures are told without their cause: that is for the log.
pub fn problem(error: &Error, request_id: Option<&str>) -> Problem {
    if let Error::Line { line, stored, cause } = error {
        let problem = problem(cause, request_id);
        let detail = format!("line {line}: {}; {stored} points were stored before", problem.detail);
        return Problem { detail, line: Some(*line), inserted: Some(*stored), ..problem };
    }
    let (status, _, title) = classify(error);
    let (detail, errors) = match error {
        Error::Malformed { detail, violations } => {
            (detail.clone(), violations.iter().cloned().map(ProblemItem::from).collect())
        }
        Error::Upstream(status) => {
            let violations = status.get_details_bad_request().map(|b| b.field_violations).unwrap_or_default();
            let items =
                violations.into_iter().map(|v| ProblemItem { pointer: v.field, detail: v.description }).collect();
            (status.message().to_owned(), items)
        }
        other => (other.to_string(), Vec::new()),
    };
    Problem {
        kind: type_uri(title),
        title,
        status: status.as_u16(),
        detail,
        request_id: request_id.map(str::to_owned),
        errors,
        line: None,
        inserted: None,
    }
}

/// The headers that a refusal owes its reader.
fn refusal_headers(error: &Error, headers: &mut HeaderMap) {
    let retry_after = |headers: &mut HeaderMap, seconds: u64| {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    };
    match error {
        Error::Limited { retry_after: wait, .. } | Error::Shed { retry_after: wait, .. } => {
            retry_after(headers, wait.as_secs_f64().ceil() as u64);
        }
        Error::Line { cause, .. } => refusal_headers(cause, headers),
        Error::NoRegion | Error::Residency { may_pass: true, .. } => retry_after(headers, 1),
        Error::Upstream(status) if matches!(status.code(), Code::Unavailable | Code::ResourceExhausted) => {
            retry_after(headers, 1);
        }
        Error::Unauthenticated(_) => {
            headers.insert(header::WWW_AUTHENTICATE, challenge(""));
        }
        // RFC 6750 section 3.1. Rejections are fixed texts without quotes.
        Error::InvalidCredentials(rejection) => {
            let parameters = format!(", error=\"invalid_token\", error_description=\"{rejection}\"");
            headers.insert(header::WWW_AUTHENTICATE, challenge(&parameters));
        }
        Error::Forbidden(scope) => {
            let parameters = format!(", error=\"insufficient_scope\", scope=\"{scope}\"");
            headers.insert(header::WWW_AUTHENTICATE, challenge(&parameters));
        }
        Error::UpgradeRequired(_) => {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        Error::MethodNotAllowed { allow } => {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        _ => {}
    }
}

fn challenge(parameters: &str) -> HeaderValue {
    HeaderValue::try_from(format!("Bearer realm=\"nearfield\"{parameters}")).expect("printable ASCII")
}

/// The HTTP answer.
pub fn response(error: &Error, request_id: Option<&str>) -> Response {
    let problem = problem(error, request_id);
    let bytes = serde_json::to_vec(&problem).expect("a problem holds only strings and numbers");
    let mut response = Response::new(body::full(bytes));
    *response.status_mut() = StatusCode::from_u16(problem.status).expect("classify gives valid statuses");
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    refusal_headers(error, headers);
    response
}

/// The gRPC answer: HTTP 200, the status in the headers, no body (a "trailers-only" response).
pub fn grpc_response(error: &Error) -> Response {
    let mut response: Response = grpc_status(error).into_http::<tonic::body::Body>().map(body::boxed);
    refusal_headers(error, response.headers_mut());
    response
}

/// The end of a gRPC answer that has begun.
pub fn grpc_trailers(error: &Error) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    // It fails for what stands in no header field, and no text of ours does.
    let _ = grpc_status(error).add_header(&mut trailers);
    trailers
}

fn grpc_status(error: &Error) -> tonic::Status {
    match error {
        Error::Upstream(status) => (**status).clone(),
        other => {
            let (_, code, _) = classify(other);
            tonic::Status::new(code, other.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_damaged_is_told_as_data_loss_whatever_the_protocol() {
        let error = Error::from(tonic::Status::data_loss("segment 7 of the collection \"docs\""));
        let told = problem(&error, None);
        assert_eq!((told.status, told.title), (500, "data-loss"));
        assert!(told.detail.contains("segment 7") && told.kind.ends_with("/data-loss"), "{told:?}");
        let response = grpc_response(&error);
        assert_eq!(response.headers()["grpc-status"], (Code::DataLoss as i32).to_string());
    }
}
