//! `GET /audit`: what administrators did, the newest first.

use std::sync::Arc;

use http::request::Parts;

use super::reply;
use crate::audit::Audit;
use crate::body::Response;
use crate::error::Error;
use crate::forward::codec::{answer, keys as codec};
use crate::request::Caller;

/// Who is confined to a tenant is told of those who are confined to it too.
pub(super) async fn list(audit: &Audit, parts: &Parts) -> Result<Response, Error> {
    let (before, limit) = codec::audit(parts.uri.query().unwrap_or_default())?;
    let tenant = parts.extensions.get::<Caller>().and_then(|Caller(principal)| principal.tenant.clone());
    let page = audit.page(tenant, before, limit).await.map_err(|error| Error::Internal(Arc::new(error)))?;
    let page = page.ok_or_else(|| Error::NotFound("no audit log is kept here".to_owned()))?;
    Ok(reply::json(answer::plain(&page)))
}
