//! `/keys`: API keys made, listed, rotated and revoked by whoever administers them.
//!
//! Nobody gives away more than they have: a key's scopes are among its maker's. An administrator who is confined to a
//! tenant sees and makes that tenant's keys alone, on their own plan.

use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderValue, Method, StatusCode, header};
use nearfield_auth::api_key::{self, ApiKeys, NewKey, Position, Record, StoreError};
use nearfield_auth::{Authenticator, Principal, Scopes};
use serde::Serialize;

use super::{body, reply};
use crate::audit::Target;
use crate::body::{Request, Response};
use crate::error::Error;
use crate::forward::codec::keys::{self as codec, cursor, refuse};
use crate::forward::codec::{self as codecs, answer};
use crate::request::Caller;

/// When the store is out of reach: about how soon it is asked again.
const RETRY_AFTER: Duration = Duration::from_secs(5);
const PREFIX: &str = "/api/v1/keys/";
const ROTATE: &str = "/rotate";

/// A key without its secret. Times are RFC 3339.
#[derive(Serialize)]
struct KeyAnswer<'a> {
    id: &'a str,
    /// The key itself, only where it was just made.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    subject: &'a str,
    scope: String,
    tenant: Option<&'a str>,
    plan: Option<&'a str>,
    created: String,
    expires: Option<String>,
    revoked: Option<String>,
    last_used: Option<String>,
    replaces: Option<&'a str>,
}

#[derive(Serialize)]
struct KeysAnswer<'a> {
    keys: Vec<KeyAnswer<'a>>,
    next: Option<String>,
}

impl<'a> KeyAnswer<'a> {
    fn of(record: &'a Record, key: Option<&'a str>) -> Self {
        let time = |seconds: u64| {
            humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds.min(MAX_SECONDS))).to_string()
        };
        Self {
            id: &record.id,
            key,
            subject: &record.subject,
            scope: record.scopes.to_string(),
            tenant: record.tenant.as_deref(),
            plan: record.plan.as_deref(),
            created: time(record.created),
            expires: record.expires.map(time),
            revoked: record.revoked.map(time),
            last_used: record.last_used.map(time),
            replaces: record.replaces.as_deref(),
        }
    }
}

/// The end of the year 9999, past which RFC 3339 has no dates.
const MAX_SECONDS: u64 = 253_402_300_799;

/// Answers `/keys`, `/keys/{id}` and `/keys/{id}/rotate`.
pub(super) async fn answer(authenticator: &Authenticator, request: Request) -> Result<Response, Error> {
    let keys = authenticator.api_keys().ok_or_else(|| Error::NotFound("no API keys are kept here".to_owned()))?;
    let (parts, incoming) = request.into_parts();
    let caller = parts.extensions.get::<Caller>().map(|Caller(principal)| principal.clone());
    let caller = caller.ok_or_else(|| Error::Unauthenticated("keys are somebody's to administer".to_owned()))?;
    let rest = parts.uri.path().strip_prefix(PREFIX);
    match (rest, &parts.method) {
        (None, &Method::POST) => {
            codecs::expect_json(&parts.headers)?;
            create(keys, &caller, &body::read(incoming).await?).await
        }
        (None, _) => list(keys, &caller, parts.uri.query().unwrap_or_default()).await,
        (Some(id), &Method::DELETE) => revoke(keys, &caller, id).await,
        (Some(path), &Method::POST) if path.ends_with(ROTATE) => {
            codecs::expect_json(&parts.headers)?;
            let id = path.strip_suffix(ROTATE).unwrap_or(path);
            rotate(keys, &caller, id, codec::rotate(&body::read(incoming).await?)?).await
        }
        (Some(id), _) => describe(keys, &caller, id).await,
    }
}

async fn create(keys: &ApiKeys, caller: &Principal, body: &[u8]) -> Result<Response, Error> {
    let asked = codec::create(body)?;
    allows(caller, asked.scopes)?;
    let (tenant, plan) = match &caller.tenant {
        None => (asked.tenant, asked.plan),
        Some(own) => {
            if asked.tenant.as_ref().is_some_and(|tenant| tenant != own) {
                return Err(refuse("tenant", "is not the caller's, who is confined to it"));
            }
            if asked.plan.is_some() && asked.plan != caller.plan {
                return Err(refuse("plan", "is not the caller's, who is confined to a tenant"));
            }
            (Some(own.clone()), caller.plan.clone())
        }
    };
    let new = NewKey { subject: asked.subject, scopes: asked.scopes, tenant, plan, ttl: asked.ttl };
    let (key, record) = keys.create(new).await.map_err(|error| match error {
        api_key::Error::Name(name) => {
            let field = name.strip_prefix("the ").unwrap_or(name);
            refuse(field, "is empty, longer than 256 bytes, or has characters that it must not have")
        }
        api_key::Error::Store(error) => unavailable(error),
    })?;
    Ok(made(&key, &record))
}

async fn list(keys: &ApiKeys, caller: &Principal, query: &str) -> Result<Response, Error> {
    let mut listing = codec::listing(query, caller.tenant.clone())?;
    let wanted = listing.limit.unwrap_or_default() as usize;
    // One more tells whether there is a next page.
    listing.limit = listing.limit.map(|limit| limit + 1);
    let records = keys.list(&listing).await.map_err(unavailable)?;
    let page = &records[..records.len().min(wanted)];
    let last = page.last().filter(|_| records.len() > wanted);
    let next = last.map(|last| cursor(&Position { created: last.created, id: last.id.clone() }));
    let keys = page.iter().map(|record| KeyAnswer::of(record, None)).collect();
    Ok(reply::json(answer::plain(&KeysAnswer { keys, next })))
}

async fn describe(keys: &ApiKeys, caller: &Principal, id: &str) -> Result<Response, Error> {
    let record = find(keys, caller, id).await?;
    Ok(reply::json(answer::plain(&KeyAnswer::of(&record, None))))
}

async fn rotate(keys: &ApiKeys, caller: &Principal, id: &str, overlap: Duration) -> Result<Response, Error> {
    let old = find(keys, caller, id).await?;
    // The new key's secret is a way to everything that the old one allows.
    allows(caller, old.scopes)?;
    let rotated = keys.rotate(id, overlap).await.map_err(unavailable)?;
    let gone = || Error::Conflict("the key has been revoked or has expired: it has no successor".to_owned());
    let (key, record) = rotated.ok_or_else(gone)?;
    Ok(made(&key, &record))
}

async fn revoke(keys: &ApiKeys, caller: &Principal, id: &str) -> Result<Response, Error> {
    find(keys, caller, id).await?;
    // One that was revoked before is what it was asked to be.
    keys.revoke(id).await.map_err(unavailable)?;
    let mut response = Response::new(crate::body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.extensions_mut().insert(Target(id.to_owned()));
    Ok(response)
}

/// The key `id`, when it is the caller's to see.
async fn find(keys: &ApiKeys, caller: &Principal, id: &str) -> Result<Record, Error> {
    let found = keys.find(id).await.map_err(unavailable)?;
    let own = |record: &Record| caller.tenant.is_none() || record.tenant == caller.tenant;
    found.filter(own).ok_or_else(|| Error::NotFound("there is no such key".to_owned()))
}

/// Has the caller all of these?
fn allows(caller: &Principal, scopes: Scopes) -> Result<(), Error> {
    scopes.iter().find(|scope| !caller.scopes.contains(*scope)).map_or(Ok(()), |lacking| Err(Error::Forbidden(lacking)))
}

/// A key and, this once, its text.
fn made(key: &str, record: &Record) -> Response {
    let bytes = answer::plain(&KeyAnswer::of(record, Some(key)));
    let mut response = reply::with_status(reply::json(bytes), StatusCode::CREATED);
    if let Ok(location) = HeaderValue::try_from(format!("{PREFIX}{}", record.id)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response.extensions_mut().insert(Target(record.id.clone()));
    response
}

fn unavailable(error: StoreError) -> Error {
    tracing::error!(error = &error as &dyn std::error::Error, "API keys are out of reach");
    Error::Shed { reason: "the store of API keys is out of reach", retry_after: RETRY_AFTER }
}
