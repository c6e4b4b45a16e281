//! Every way in which the gateway itself can refuse or fail a request. `rescue.rs` alone turns these into answers.

use std::sync::Arc;
use std::time::Duration;

use nearfield_auth::{Rejection, Scope};

/// One thing wrong in a request, found by where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// A JSON pointer (RFC 6901) into the body, or the name of a query parameter or header.
    pub pointer: String,
    pub detail: String,
}

impl Violation {
    pub fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), detail: detail.into() }
    }
}

/// Why a request gets no ordinary answer. Closed on purpose: a new variant does not compile until `rescue.rs` maps it. A copy says
/// the same to another who is told.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A request's body came too slowly.
    #[error("the body of the request took too long")]
    BodyTimeout,
    /// The state of the target speaks against it: another version, or another collection of that name.
    #[error("{0}")]
    Conflict(String),
    #[error("the deadline passed")]
    DeadlineExceeded,
    #[error("the caller lacks the scope {0}")]
    Forbidden(Scope),
    /// The request's head did not arrive in time.
    #[error("the head of the request took too long")]
    HeadTimeout,
    #[error("the header fields are too many or too large")]
    HeadTooLarge,
    #[error("an internal failure")]
    Internal(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// Credentials that do not hold. The text says what was wrong and nothing of them.
    #[error("{0}")]
    InvalidCredentials(Rejection),
    /// Too many requests by this caller.
    #[error("the rate limit {policy} is exhausted")]
    Limited { policy: &'static str, limit: u32, retry_after: Duration },
    /// A body of many lines that ended with a bad one.
    #[error("line {line}: {cause}; {stored} points were stored before")]
    Line { line: u64, stored: u64, cause: Box<Self> },
    #[error("{detail}")]
    Malformed { detail: String, violations: Vec<Violation> },
    #[error("the method is not allowed here")]
    MethodNotAllowed { allow: &'static str },
    /// No healthy region, or no healthy searchd in any.
    #[error("no healthy region can answer")]
    NoRegion,
    /// An extended CONNECT for anything but a WebSocket.
    #[error("an extended CONNECT opens a WebSocket here, nothing else")]
    NoSuchProtocol,
    /// The caller wanted a cached answer or none (`only-if-cached`).
    #[error("no answer is cached, and the request asks for no other")]
    NotCached,
    #[error("{0}")]
    NotFound(String),
    /// It did not come through the load balancer in front, as everything has to here.
    #[error("this address is not for clients: requests come through the service's load balancer")]
    OutsidePerimeter,
    /// The collection's data stays in certain areas, and none of the regions that could answer may.
    #[error("the collection's data stays in {areas}, where no region can answer")]
    Residency {
        areas: String,
        /// A region there is ill now.
        may_pass: bool,
    },
    /// The process protects itself.
    #[error("shed: {reason}")]
    Shed { reason: &'static str, retry_after: Duration },
    #[error("the request target is too long")]
    TargetTooLong,
    /// It came in TLS early data at a hop in front, and must not be answered twice.
    #[error("the request came before its connection was sure, and must not be answered twice: send it again")]
    TooEarly,
    #[error("{what} is larger than the limit of {limit} bytes")]
    TooLarge { what: &'static str, limit: u64 },
    /// No credentials, or none of a kind that is taken.
    #[error("{0}")]
    Unauthenticated(String),
    #[error("{0}")]
    UnsupportedMediaType(String),
    /// The path takes another protocol.
    #[error("{0}")]
    UpgradeRequired(String),
    /// What searchd answered, after retries.
    #[error("searchd answered {:?}: {}", .0.code(), .0.message())]
    Upstream(#[source] Box<tonic::Status>),
}

impl Error {
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::Malformed { detail: detail.into(), violations: Vec::new() }
    }

    pub fn invalid(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        let violation = Violation::new(pointer, detail);
        Self::Malformed { detail: "the request is not valid".to_owned(), violations: vec![violation] }
    }
}

impl Error {
    /// What the failure of a request's body means. Layers that limit a body fail it with an [`Error`] of their own,
    /// which comes out again here; anything else is a peer that left or broke its protocol.
    pub fn of_body(error: crate::body::BodyError) -> Self {
        match error.downcast::<Self>() {
            Ok(ours) => *ours,
            Err(other) => Self::malformed(format!("the body could not be read: {other}")),
        }
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        Self::Upstream(Box::new(status))
    }
}
