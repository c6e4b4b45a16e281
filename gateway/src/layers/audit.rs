//! Has every administrative act written down ([`crate::audit`]) before its answer leaves.
//!
//! An act is what its route says it is, whatever came of it; what was refused before it was anybody's act (bad
//! credentials, a scope that is missing, limits) is counted and logged elsewhere.

use futures::future::Either;
use http::Method;

use super::{Answering, classify};
use crate::audit::{Act, Audit, Target};
use crate::body::{Request, Response};
use crate::error::Error;
use crate::request::{Caller, ClientAddr, RequestId};
use crate::rescue;
use crate::route::{GrpcMethod, Route};

/// Bytes of a path that are written down.
const MAX_TARGET_BYTES: usize = 1_024;

#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) audit: Audit,
}

impl<S> tower::Layer<S> for Layer {
    type Service = Service<S>;

    fn layer(&self, inner: S) -> Service<S> {
        Service { inner, audit: self.audit.clone() }
    }
}

pub(crate) struct Service<S> {
    inner: S,
    audit: Audit,
}

impl<S> hyper::service::Service<Request> for Service<S>
where
    S: hyper::service::Service<Request, Response = Response, Error = Error>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Error;
    type Future = Either<S::Future, Answering>;

    fn call(&self, request: Request) -> Self::Future {
        let act = act(&request);
        let answer = self.inner.call(request);
        let Some(mut act) = act else { return Either::Left(answer) };
        let audit = self.audit.clone();
        Either::Right(Box::pin(async move {
            let answer = answer.await;
            match &answer {
                Ok(response) => {
                    act.status = response.status().as_u16();
                    act.grpc_status = response.headers().get("grpc-status").and_then(|v| v.to_str().ok()?.parse().ok());
                    if let Some(Target(target)) = response.extensions().get() {
                        act.target.clone_from(target);
                    }
                }
                Err(error) => act.status = rescue::problem(error, None).status,
            }
            audit.record(act).await;
            answer
        }))
    }
}

/// The act that a request is, but for its outcome.
fn act(request: &Request) -> Option<Act> {
    let action = action(classify::route(request), request.method(), request.uri().path())?;
    let Caller(principal) = request.extensions().get()?;
    let path = request.uri().path();
    let end = path.len().min(MAX_TARGET_BYTES);
    Some(Act {
        subject: principal.subject.clone(),
        tenant: principal.tenant.clone(),
        key: principal.key.clone(),
        from: request.extensions().get::<ClientAddr>().map(|ClientAddr(addr)| addr.ip().to_string()),
        request_id: request.extensions().get::<RequestId>().map(|id| id.as_str().to_owned()),
        action,
        // A path is ASCII, so it can be cut anywhere.
        target: path.get(..end).unwrap_or_default().to_owned(),
        ..Act::default()
    })
}

fn action(route: Route, method: &Method, path: &str) -> Option<&'static str> {
    Some(match route {
        Route::CachePurge => "cache.purge",
        Route::CacheWarm => "cache.warm",
        Route::Collection if *method == Method::DELETE => "collections.delete",
        Route::Collection if *method == Method::PUT => "collections.create",
        Route::Grpc(GrpcMethod::Admin) if path.ends_with("/Delete") => "collections.delete",
        Route::Grpc(GrpcMethod::Admin) => "collections.create",
        Route::Key if *method == Method::DELETE => "keys.revoke",
        Route::KeyRotate if *method == Method::POST => "keys.rotate",
        Route::Keys if *method == Method::POST => "keys.create",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_something_for_others_is_an_act_and_what_reads_is_none() {
        let check = |method: Method, path: &str, expected: Option<&str>| {
            assert_eq!(action(Route::of(path), &method, path), expected, "{method} {path}");
        };
        check(Method::PUT, "/api/v1/collections/c", Some("collections.create"));
        check(Method::DELETE, "/api/v1/collections/c", Some("collections.delete"));
        check(Method::GET, "/api/v1/collections/c", None);
        check(Method::POST, "/nearfield.v1.Collections/Create", Some("collections.create"));
        check(Method::POST, "/nearfield.v1.Collections/Delete", Some("collections.delete"));
        check(Method::POST, "/nearfield.v1.Collections/List", None);
        check(Method::POST, "/api/v1/keys", Some("keys.create"));
        check(Method::GET, "/api/v1/keys", None);
        check(Method::DELETE, "/api/v1/keys/a", Some("keys.revoke"));
        check(Method::POST, "/api/v1/keys/a/rotate", Some("keys.rotate"));
        check(Method::POST, "/api/v1/cache/purge", Some("cache.purge"));
        check(Method::POST, "/api/v1/insert", None);
        check(Method::GET, "/api/v1/audit", None);
    }
}
