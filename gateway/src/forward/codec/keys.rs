//! What administrators ask of API keys.

use std::time::Duration;

use nearfield_auth::api_key::{Listing, Position};
use nearfield_auth::{Scope, Scopes};
use serde::de::MapAccess;

use super::json::{self, Fields, Place, Pointer, Report};
use super::query::Parameters;
use super::read;
use crate::error::Error;

/// The longest life of a key that has an end.
const EXPIRES_SECONDS_MAX: i64 = 10 * 366 * 86_400;
/// The longest that a key lives beside its successor, and how long it does unless that is said.
const OVERLAP_SECONDS_MAX: i64 = 90 * 86_400;
const OVERLAP: Duration = Duration::from_secs(86_400);
/// Entries of a page, unless that is said, and at most.
const PAGE: u32 = 100;
const PAGE_MAX: i64 = 500;

/// A key that is to be made.
#[derive(Debug, Default)]
pub(crate) struct Create {
    pub subject: String,
    pub scopes: Scopes,
    pub tenant: Option<String>,
    pub plan: Option<String>,
    pub ttl: Option<Duration>,
}

impl Fields for Create {
    const NAMES: &'static [&'static str] = &["subject", "scope", "tenant", "plan", "expires_in_seconds"];

    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        name: &'static str,
        place: Place<'_>,
        object: &mut A,
    ) -> Result<(), A::Error> {
        match name {
            "subject" => self.subject = read::text(place, object)?.unwrap_or_default().into_owned(),
            "scope" => {
                let given = read::text(place, object)?;
                self.scopes = given.map(|words| scopes(&words, place)).unwrap_or_default();
            }
            "tenant" => self.tenant = read::text(place, object)?.map(Into::into),
            "plan" => self.plan = read::text(place, object)?.map(Into::into),
            "expires_in_seconds" => self.ttl = seconds(read::integer(place, object, (1, EXPIRES_SECONDS_MAX))?),
            _ => unreachable!("only the names above are read"),
        }
        Ok(())
    }

    fn check(&mut self, place: Place<'_>) {
        if !place.report.is_empty() {
            return;
        }
        if self.subject.is_empty() {
            place.report.add(&place.at.key("subject"), "is missing");
        }
        if self.scopes == Scopes::default() {
            place.report.add(&place.at.key("scope"), "names no scope");
        }
    }
}

/// A word that names no scope is a mistake here: the key would not do what it was made for.
fn scopes(words: &str, place: Place<'_>) -> Scopes {
    let mut scopes = Scopes::default();
    for word in words.split_ascii_whitespace() {
        match word.parse::<Scope>() {
            Ok(scope) => scopes = scopes.with(scope),
            Err(error) => place.refuse(error.to_string()),
        }
    }
    scopes
}

fn seconds(given: Option<i64>) -> Option<Duration> {
    given.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs)
}

#[derive(Default)]
struct Rotate {
    overlap: Option<Duration>,
}

impl Fields for Rotate {
    const NAMES: &'static [&'static str] = &["overlap_seconds"];

    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        _: &'static str,
        place: Place<'_>,
        object: &mut A,
    ) -> Result<(), A::Error> {
        self.overlap = seconds(read::integer(place, object, (0, OVERLAP_SECONDS_MAX))?);
        Ok(())
    }
}

/// Reads the body of `POST /keys`.
///
/// # Errors
/// [`Error::Malformed`] with all violations.
pub(crate) fn create(body: &[u8]) -> Result<Create, Error> {
    json::object(body, Create::default())
}

/// Reads the body of `POST /keys/{id}/rotate`, which may be left out: how long the old key lives on.
///
/// # Errors
/// [`Error::Malformed`] with all violations.
pub(crate) fn rotate(body: &[u8]) -> Result<Duration, Error> {
    let rotate = if body.is_empty() { Rotate::default() } else { json::object(body, Rotate::default())? };
    Ok(rotate.overlap.unwrap_or(OVERLAP))
}

/// Reads the query string of `GET /keys`.
///
/// # Errors
/// [`Error::Malformed`] with all violations.
pub(crate) fn listing(query: &str, tenant: Option<String>) -> Result<Listing, Error> {
    let report = Report::default();
    let parameters = Parameters::read(query, &["limit", "after"], &report);
    let limit = parameters.integer("limit", (1, PAGE_MAX)).and_then(|limit| u32::try_from(limit).ok());
    let after = parameters.with("after", |text, place| {
        let position = position(text);
        if position.is_none() {
            place.refuse("is not the `next` of a page");
        }
        position
    });
    report.finish(Listing { tenant, after, limit: Some(limit.unwrap_or(PAGE)) })
}

/// `<created>-<id>`.
pub(crate) fn cursor(position: &Position) -> String {
    format!("{}-{}", position.created, position.id)
}

fn position(text: &str) -> Option<Position> {
    let (created, id) = text.split_once('-')?;
    let created = created.parse().ok().filter(|created| i64::try_from(*created).is_ok())?;
    Some(Position { created, id: id.to_owned() })
}

/// Reads the query string of `GET /audit`: before which number, and how many.
///
/// # Errors
/// [`Error::Malformed`] with all violations.
pub(crate) fn audit(query: &str) -> Result<(Option<u64>, usize), Error> {
    let report = Report::default();
    let parameters = Parameters::read(query, &["limit", "before"], &report);
    let limit = parameters.integer("limit", (1, PAGE_MAX)).and_then(|limit| usize::try_from(limit).ok());
    let before = parameters.integer("before", (1, i64::MAX)).and_then(|before| u64::try_from(before).ok());
    report.finish((before, limit.unwrap_or(PAGE as usize)))
}

/// A violation of a field of a body.
pub(crate) fn refuse(field: &str, detail: &str) -> Error {
    Error::invalid(Pointer::Root.key(field).to_string(), detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_must_say_who_and_what() {
        let check = |body: &str, expected: &[&str]| match create(body.as_bytes()) {
            Ok(_) => assert!(expected.is_empty(), "{body}"),
            Err(Error::Malformed { violations, .. }) => {
                let pointers: Vec<&str> = violations.iter().map(|violation| violation.pointer.as_str()).collect();
                assert_eq!(pointers, expected, "{body}");
            }
            Err(other) => panic!("{other}"),
        };
        check(r#"{"subject":"ci","scope":"vectors:read keys:admin","expires_in_seconds":60}"#, &[]);
        check(r#"{"subject":"ci","scope":"vectors:reed"}"#, &["/scope"]);
        check("{}", &["/subject", "/scope"]);
        check(r#"{"subject":"ci","scope":"vectors:read","expires_in_seconds":0}"#, &["/expires_in_seconds"]);
        check(r#"{"subject":"ci","scope":"vectors:read","scopes":[]}"#, &["/scopes"]);
    }

    #[test]
    fn a_page_goes_on_where_the_last_one_ended() {
        let at = Position { created: 7, id: "00ff".to_owned() };
        assert_eq!(listing(&format!("after={}&limit=2", cursor(&at)), None).unwrap().after, Some(at));
        for bad in ["after=x", "after=-1-a", "limit=0", "limit=501", "after=99999999999999999999-a"] {
            assert!(listing(bad, None).is_err(), "{bad}");
        }
    }
}
