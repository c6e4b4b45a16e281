//! Who is calling, by a JWT or an API key, and whether the route is open to them: 401 when that is not known, 403 when
//! it is and does not suffice (RFC 6750).
//!
//! Credentials stop here: inside there is the [`Caller`], and no header to leak.

mod key_ages;

use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, Ready, ready};
use http::header::{AUTHORIZATION, HeaderName, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderMap, Method};
use nearfield_auth::{Authenticator, Credentials, Principal, Rejection, Scope};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use self::key_ages::KeyAges;
use super::{Answering, classify};
use crate::body::{Request, Response};
use crate::current::Current;
use crate::error::Error;
use crate::request::Caller;
use crate::route::Route;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// How a browser's WebSocket, which can set no other header, carries a token.
const SUBPROTOCOL_PREFIX: &str = "bearer.";
/// When keys are out of reach: about how soon they are asked for again.
const RETRY_AFTER: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub(crate) struct Layer {
    authenticator: Current<Authenticator>,
    metrics: Metrics,
}

impl Layer {
    pub(crate) fn new(authenticator: Current<Authenticator>, metrics: Metrics) -> Self {
        Self { authenticator, metrics }
    }

    /// The same with its metrics.
    pub(crate) fn register(authenticator: Current<Authenticator>, registry: &mut Registry) -> Self {
        registry.register_collector(Box::new(KeyAges(authenticator.clone())));
        Self::new(authenticator, Metrics::register(registry))
    }
}

impl<S> tower::Layer<S> for Layer {
    type Service = Service<S>;

    fn layer(&self, inner: S) -> Service<S> {
        Service { inner: Arc::new(inner), layer: self.clone() }
    }
}

pub(crate) struct Service<S> {
    inner: Arc<S>,
    layer: Layer,
}

type Answered = Result<Response, Error>;

impl<S> hyper::service::Service<Request> for Service<S>
where
    S: hyper::service::Service<Request, Response = Response, Error = Error> + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Error;
    type Future = Either<S::Future, Either<Ready<Answered>, Answering>>;

    fn call(&self, mut request: Request) -> Self::Future {
        let route = classify::route(&request);
        let admitted = match route.scope(request.method()) {
            None => Ok(()),
            Some(scope) => match presented(request.headers(), route, request.method()) {
                Err(error) => Err(error),
                Ok(credentials) => match self.layer.authenticator.get().recall(credentials) {
                    Some(principal) => self.layer.admit(&mut request, principal, scope),
                    None => {
                        let credentials = Owned::from(credentials);
                        return Either::Right(Either::Right(self.verify(credentials, scope, request)));
                    }
                },
            },
        };
        match admitted {
            Ok(()) => {
                strip(request.headers_mut());
                Either::Left(self.inner.call(request))
            }
            Err(error) => Either::Right(Either::Left(ready(Err(error)))),
        }
    }
}

impl<S> Service<S>
where
    S: hyper::service::Service<Request, Response = Response, Error = Error> + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    /// For credentials that are new, or of a kind that is looked up each time.
    fn verify(&self, credentials: Owned, scope: Scope, mut request: Request) -> Answering {
        let (inner, layer) = (Arc::clone(&self.inner), self.layer.clone());
        Box::pin(async move {
            let principal = layer.verify(credentials.as_ref()).await?;
            layer.admit(&mut request, principal, scope)?;
            strip(request.headers_mut());
            inner.call(request).await
        })
    }
}

/// Credentials that borrow no header while keys are asked for.
enum Owned {
    ApiKey(String),
    Bearer(String),
}

impl From<Credentials<'_>> for Owned {
    fn from(credentials: Credentials<'_>) -> Self {
        match credentials {
            Credentials::ApiKey(key) => Self::ApiKey(key.to_owned()),
            Credentials::Bearer(token) => Self::Bearer(token.to_owned()),
        }
    }
}

impl Owned {
    fn as_ref(&self) -> Credentials<'_> {
        match self {
            Self::ApiKey(key) => Credentials::ApiKey(key),
            Self::Bearer(token) => Credentials::Bearer(token),
        }
    }
}

impl Layer {
    /// Lets in who may do what `scope` names.
    fn admit(&self, request: &mut Request, principal: Arc<Principal>, scope: Scope) -> Result<(), Error> {
        if !principal.scopes.admit(scope) {
            self.metrics.refused("scope");
            return Err(Error::Forbidden(scope));
        }
        request.extensions_mut().insert(Caller(principal));
        Ok(())
    }

    async fn verify(&self, credentials: Credentials<'_>) -> Result<Arc<Principal>, Error> {
        match self.authenticator.get().authenticate(credentials).await {
            Ok(principal) => Ok(principal),
            Err(rejection) => {
                self.metrics.refused(rejection.label());
                Err(match rejection {
                    Rejection::Unavailable => {
                        Error::Shed { reason: "credentials cannot be checked at present", retry_after: RETRY_AFTER }
                    }
                    _ => Error::InvalidCredentials(rejection),
                })
            }
        }
    }
}

/// The one credential of a request.
fn presented<'a>(headers: &'a HeaderMap, route: Route, method: &Method) -> Result<Credentials<'a>, Error> {
    let mut found = None;
    let mut count = 0;
    for value in headers.get_all(AUTHORIZATION) {
        count += 1;
        found = Some(Credentials::Bearer(bearer(value)?));
    }
    for value in headers.get_all(API_KEY) {
        count += 1;
        found = Some(Credentials::ApiKey(value.to_str().map_err(|_| unreadable())?.trim()));
    }
    if route == Route::WebSocket && matches!(*method, Method::GET | Method::CONNECT) {
        for token in subprotocols(headers).filter_map(|word| word.strip_prefix(SUBPROTOCOL_PREFIX)) {
            count += 1;
            found = Some(Credentials::Bearer(token));
        }
    }
    match (found, count) {
        (Some(credentials), 1) => Ok(credentials),
        (Some(_), _) => Err(Error::malformed("the request carries more than one set of credentials")),
        (None, _) => {
            let text = "no credentials: send Authorization: Bearer <token>, or X-API-Key: <key>";
            Err(Error::Unauthenticated(text.to_owned()))
        }
    }
}

/// RFC 6750 section 2.1; the scheme in any case (RFC 9110 section 11.1).
fn bearer(value: &HeaderValue) -> Result<&str, Error> {
    let text = value.to_str().map_err(|_| unreadable())?;
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Error::Unauthenticated("the scheme of Authorization is not Bearer".to_owned()));
    }
    Ok(token.trim())
}

fn unreadable() -> Error {
    Error::Unauthenticated("the credentials are not printable ASCII".to_owned())
}

fn subprotocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

fn strip(headers: &mut HeaderMap) {
    headers.remove(AUTHORIZATION);
    headers.remove(API_KEY);
    if subprotocols(headers).any(|word| word.starts_with(SUBPROTOCOL_PREFIX)) {
        let others: Vec<&str> = subprotocols(headers).filter(|word| !word.starts_with(SUBPROTOCOL_PREFIX)).collect();
        match HeaderValue::from_str(&others.join(", ")) {
            Ok(others) if !others.is_empty() => {
                headers.insert(SEC_WEBSOCKET_PROTOCOL, others);
            }
            _ => {
                headers.remove(SEC_WEBSOCKET_PROTOCOL);
            }
        }
    }
}

/// Counts refusals by their reason.
#[derive(Clone, Default)]
pub(crate) struct Metrics {
    refused: Family<Reason, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("gateway");
        registry.register("auth_refused", "credentials refused, by why", metrics.refused.clone());
        metrics
    }

    fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&Reason { reason }).inc();
    }
}

#[cfg(test)]
mod tests;
