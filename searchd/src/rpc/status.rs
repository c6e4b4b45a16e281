//! From what went wrong inside to what a caller is told: the only place where gRPC status codes are chosen.

use nearfield_proto::v1;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::backup;
use crate::commit::command::Refusal;
use crate::engine::settings::Violation;
use crate::index::headroom::Bounds;
use crate::search::stop::Stopped;
use crate::search::{self, pool};
use crate::wal::AppendError;

/// The request is not right: says everything that is wrong with it.
pub(super) fn violations(violations: Vec<Violation>) -> Status {
    bad_request(Code::InvalidArgument, violations)
}

/// One thing is wrong with the request.
pub(super) fn violation(field: impl Into<String>, description: impl Into<String>) -> Status {
    violations(vec![Violation::new(field, description)])
}

/// A part of the request is larger than is allowed.
pub(super) fn too_large(violation: Violation) -> Status {
    bad_request(Code::OutOfRange, vec![violation])
}

fn bad_request(code: Code, violations: Vec<Violation>) -> Status {
    let message = match violations.as_slice() {
        [] => "the request is not right".to_owned(),
        [only] => format!("{} {}", only.field, only.description),
        [first, rest @ ..] => format!("{} {} (and {} more)", first.field, first.description, rest.len()),
    };
    let mut details = ErrorDetails::new();
    for violation in violations.into_iter().take(MAX_VIOLATIONS) {
        details.add_bad_request_violation(violation.field, violation.description);
    }
    Status::with_error_details(code, message, details)
}

pub(super) fn no_collection(name: &str) -> Status {
    Status::not_found(format!(
        "there is no collection {name:?}; create it with PUT /api/v1/collections/{name} or nearfield.v1.Collections/Create"
    ))
}

pub(super) fn no_point(collection: &str, id: &str) -> Status {
    Status::not_found(format!("the collection {collection:?} has no point {id:?}"))
}

/// The gateway's word for PERMISSION_DENIED: nothing else is denied here.
pub(super) fn residency(collection: &str, areas: &[String]) -> Status {
    Status::permission_denied(format!(
        "the data of the collection {collection:?} stays in {}, and this is elsewhere",
        areas.join(", ")
    ))
}

pub(super) fn deadline() -> Status {
    Status::deadline_exceeded("the deadline passed before the answer was there")
}

pub(super) fn draining() -> Status {
    Status::unavailable("this instance is shutting down")
}

/// More waits to be indexed than may, and the write's patience is over.
/// `is_searched`: the bound may be the one that holds while searches are asked.
pub(super) fn backlog(bounds: Bounds, is_searched: bool) -> Status {
    let bound = bounds.now(is_searched);
    let name = if bound == bounds.always { "engine.waiting_bytes" } else { "engine.searched_bytes" };
    Status::resource_exhausted(format!(
        "{bound} bytes of vectors ({name}) wait to be indexed in this collection; nothing was changed. Try again a little later: \
         room comes as they are"
    ))
}

pub(super) fn no_archive() -> Status {
    Status::failed_precondition("this searchd has no object storage to make backups in: set [archive] url")
}

pub(super) fn backup(error: &backup::Error) -> Status {
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    Status::unavailable(format!("no backup was made: {message}"))
}

pub(super) fn stopped(stopped: Stopped) -> Status {
    match stopped {
        Stopped::Cancelled => Status::cancelled("the caller has gone"),
        Stopped::Deadline => deadline(),
        Stopped::Unavailable => Status::unavailable(stopped.to_string()),
    }
}

pub(super) fn pool(error: pool::Error) -> Status {
    match error {
        pool::Error::Full => Status::resource_exhausted("too many searches are waiting"),
        pool::Error::Lost => Status::internal("the search failed"),
    }
}

/// `point` is the id that the search was to start from.
pub(super) fn search(error: search::Error, collection: &str, point: &str) -> Status {
    match error {
        search::Error::Dimension { expected, actual } => violation("/query", wrong_dimension(actual, expected)),
        search::Error::NoCollection => no_collection(collection),
        search::Error::NoPoint => no_point(collection, point),
        search::Error::Damaged { segment, id } => damaged(collection, segment, &id),
        search::Error::Stopped(why) => stopped(why),
    }
}

/// What is asked for cannot be told without a vector that is damaged on the disk.
pub(super) fn damaged(collection: &str, segment: u32, id: &str) -> Status {
    Status::data_loss(format!(
        "the answer needs the vector of the point {id:?}, which is damaged in segment {segment} of the collection {collection:?}; \
         store the point anew, or restore a backup"
    ))
}

pub(super) fn wrong_dimension(actual: usize, expected: usize) -> String {
    format!("has {actual} numbers, the collection has {expected}")
}

/// `point` is the id that was to be changed.
pub(super) fn refusal(refusal: Refusal, collection: &str, point: &str) -> Status {
    match refusal {
        Refusal::Closed => draining(),
        Refusal::Differs => Status::already_exists(format!("the collection {collection:?} exists with other settings")),
        Refusal::Log(error) => match &*error {
            AppendError::DiskFull(_) => Status::resource_exhausted("the disk is full; nothing was changed"),
            AppendError::Io(_) => Status::unavailable("the write could not be stored"),
        },
        Refusal::NoCollection => no_collection(collection),
        Refusal::NoRoom => Status::resource_exhausted(
            "the disk is nearly full; nothing was changed. Deletes are still taken, and writes again when there is room",
        ),
        Refusal::NoPoint => no_point(collection, point),
        Refusal::Overloaded => Status::resource_exhausted("too many writes are waiting"),
        Refusal::Replaced => {
            Status::aborted(format!("the collection {collection:?} was replaced meanwhile; try again"))
        }
        Refusal::TooLarge(violation) => too_large(violation),
        Refusal::Version { expected, actual } => {
            Status::aborted(format!("the point {point:?} has version {actual}, not {expected}"))
        }
        Refusal::Violations(all) => violations(all),
    }
}

/// The same, inside an answer that holds several.
pub(super) fn problem(status: &Status) -> v1::Problem {
    let violations = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
    v1::Problem {
        code: status.code().into(),
        message: status.message().to_owned(),
        violations: violations
            .into_iter()
            .map(|violation| v1::FieldViolation { field: violation.field, description: violation.description })
            .collect(),
    }
}

/// More would not fit into the trailers that carry them.
const MAX_VIOLATIONS: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_names_the_point_and_where_it_is() {
        let status = search(search::Error::Damaged { segment: 7, id: "p-1".into() }, "docs", "");
        assert_eq!(status.code(), Code::DataLoss);
        for word in ["\"p-1\"", "segment 7", "\"docs\""] {
            assert!(status.message().contains(word), "{word}: {status:?}");
        }
    }
}
