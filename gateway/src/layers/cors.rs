//! Who may call from a page in a browser: CORS (the Fetch standard), for REST and gRPC-Web alike. Off until an origin is named.

use std::sync::Arc;
use std::time::Duration;

use futures::future::Either;
use http::{HeaderName, HeaderValue, Method, Uri, header};
use serde::Deserialize;
use tower_http::cors::{AllowHeaders, AllowOrigin, Cors, CorsLayer};

use super::{Answering, AsTower};
use crate::body::{Request, Response};

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Origins whose pages may call (`https://app.example.com`), at most [`ORIGINS_MAX`]; `["*"]` lets all pages.
    pub allowed_origins: Vec<String>,
    /// How long a browser remembers that it may.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { allowed_origins: Vec::new(), max_age: Duration::from_secs(7200) }
    }
}

/// Every request from a page is compared with all of them.
const ORIGINS_MAX: usize = 100;
const ANY: &str = "*";

/// What is wrong with `cors.allowed_origins`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("`cors.allowed_origins` has {0:?}, which is no origin such as https://app.example.com")]
    Origin(String),
    #[error("`cors.allowed_origins` has more than {ORIGINS_MAX} entries")]
    TooMany,
}

impl Config {
    /// # Errors
    /// The first entry that is no origin.
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        if self.allowed_origins.len() > ORIGINS_MAX {
            return Err(Invalid::TooMany);
        }
        if self.allows_any() {
            return Ok(());
        }
        self.allowed_origins.iter().try_for_each(|entry| origin(entry).map(drop))
    }

    fn allows_any(&self) -> bool {
        self.allowed_origins == [ANY]
    }

    /// What to say, when any origin is allowed.
    fn rules(&self) -> Option<CorsLayer> {
        if self.allowed_origins.is_empty() {
            return None;
        }
        let origins = if self.allows_any() {
            AllowOrigin::any()
        } else {
            AllowOrigin::list(self.allowed_origins.iter().filter_map(|entry| origin(entry).ok()))
        };
        // No cookies are looked at, so a page brings its caller's token itself: no `Allow-Credentials`.
        let cors = CorsLayer::new()
            .allow_origin(origins)
            .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE, Method::QUERY])
            .allow_headers(AllowHeaders::mirror_request())
            .expose_headers(EXPOSED)
            .max_age(self.max_age);
        Some(cors)
    }
}

/// A scheme, a host, a port if it is not the scheme's: as a browser writes it (RFC 6454 section 6.2).
fn origin(entry: &str) -> Result<HeaderValue, Invalid> {
    let bad = || Invalid::Origin(entry.to_owned());
    let uri: Uri = entry.parse().map_err(|_| bad())?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return Err(bad()) };
    if format!("{scheme}://{authority}") != entry || authority.as_str().contains('@') {
        return Err(bad());
    }
    HeaderValue::from_str(entry).map_err(|_| bad())
}

/// What a page may read of an answer, beside what every page may.
const EXPOSED: [HeaderName; 15] = [
    HeaderName::from_static("accept-query"),
    header::AGE,
    HeaderName::from_static("cache-status"),
    header::ETAG,
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-status-details-bin"),
    HeaderName::from_static("nearfield-region"),
    HeaderName::from_static("nearfield-session"),
    HeaderName::from_static("ratelimit"),
    HeaderName::from_static("ratelimit-policy"),
    header::RETRY_AFTER,
    HeaderName::from_static("server-timing"),
    header::WWW_AUTHENTICATE,
    HeaderName::from_static("x-request-id"),
];

#[derive(Clone)]
pub(crate) struct Layer {
    rules: Option<CorsLayer>,
}

impl Layer {
    pub(crate) fn new(config: &Config) -> Self {
        Self { rules: config.rules() }
    }
}

impl<S> tower::Layer<S> for Layer {
    type Service = Service<S>;

    fn layer(&self, inner: S) -> Service<S> {
        let inner = Arc::new(inner);
        let cors = self.rules.as_ref().map(|rules| rules.layer(AsTower::new(&inner)));
        Service { inner, cors }
    }
}

pub(crate) struct Service<S> {
    inner: Arc<S>,
    /// Absent when no origin is allowed.
    cors: Option<Cors<AsTower<S>>>,
}

impl<S> hyper::service::Service<Request> for Service<S>
where
    S: hyper::service::Service<Request, Response = Response>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Either<S::Future, Answering<S::Error>>;

    fn call(&self, request: Request) -> Self::Future {
        match &self.cors {
            None => Either::Left(self.inner.call(request)),
            Some(cors) => Either::Right(Box::pin(tower::Service::call(&mut cors.clone(), request))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_written_as_browsers_write_them() {
        let check = |entries: &[&str], good: bool| {
            let allowed_origins = entries.iter().map(|entry| (*entry).to_owned()).collect();
            let config = Config { allowed_origins, ..Config::default() };
            assert_eq!(config.check().is_ok(), good, "{entries:?}");
        };
        check(&[], true);
        check(&["*"], true);
        check(&["https://app.example.com", "http://localhost:3000"], true);
        for bad in ["app.example.com", "https://app.example.com/", "https://x/path", "https://a@b", "null", ""] {
            check(&[bad], false);
        }
        check(&["https://a", "*"], false);
        check(&["https://a"; ORIGINS_MAX + 1], false);
    }
}
