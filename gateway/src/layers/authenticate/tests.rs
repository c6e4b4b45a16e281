use std::path::Path;

use http::{StatusCode, header};
use hyper::service::Service as _;
use nearfield_auth::api_key::{ApiKeys, NewKey};
use nearfield_auth::dev::{self, DevKey, Grant};
use nearfield_auth::{Config, Scope, Scopes};
use tower::Layer as _;

use super::*;
use crate::{body, rescue};

struct Fixture {
    authenticator: Current<Authenticator>,
    metrics: Metrics,
    key: DevKey,
    dir: tempfile::TempDir,
}

async fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let key = DevKey::load_or_create(dir.path()).unwrap();
    let path: &Path = dir.path();
    let config = Config { api_keys: Some(dev::api_keys_path(path).into()), issuers: vec![dev::issuer(path)] };
    let authenticator = Current::from(Authenticator::start(&config).await.unwrap());
    Fixture { authenticator, metrics: Metrics::default(), key, dir }
}

fn read_only() -> Scopes {
    Scopes::default().with(Scope::VectorsRead)
}

impl Fixture {
    fn token(&self, ttl: Duration) -> String {
        let (subject, scopes) = ("alice".to_owned(), read_only());
        self.key.sign(&Grant { subject, scopes, tenant: Some("acme".to_owned()), plan: None, ttl }).unwrap()
    }

    fn good(&self) -> String {
        self.token(Duration::from_secs(60))
    }

    async fn api_key(&self) -> String {
        let keys = ApiKeys::open(dev::api_keys_path(self.dir.path())).await.unwrap();
        let new = NewKey { subject: "ci".to_owned(), scopes: read_only(), tenant: None, plan: None, ttl: None };
        keys.create(new).await.unwrap().0
    }

    /// What comes out: an error's answer, or who called and the header names that were left.
    async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> (Response, String) {
        let inner = hyper::service::service_fn(|request: Request| async move {
            let caller = request.extensions().get::<Caller>().map(|Caller(p)| p.subject.clone());
            let names: Vec<_> = request.headers().iter().map(|(n, v)| format!("{n}={}", v.to_str().unwrap())).collect();
            let text = format!("{} {}", caller.unwrap_or_default(), names.join(" "));
            Ok(Response::new(body::full(text)))
        });
        let layer = Layer::new(self.authenticator.clone(), self.metrics.clone());
        let mut request = http::Request::builder().method(method).uri(path).body(body::empty()).unwrap();
        for (name, value) in headers {
            request.headers_mut().append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        let answer = classify::Layer.layer(layer.layer(inner)).call(request).await;
        let response = answer.unwrap_or_else(|error| rescue::response(&error, None));
        let (parts, body) = response.into_parts();
        let bytes = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
        (Response::from_parts(parts, body::empty()), String::from_utf8(bytes.to_vec()).unwrap())
    }

    async fn check(&self, path: &str, headers: &[(&str, &str)], status: u16, challenge: Option<&str>) {
        let (response, text) = self.ask(Method::GET, path, headers).await;
        assert_eq!(response.status().as_u16(), status, "{path} {headers:?} {text}");
        let told = response.headers().get(header::WWW_AUTHENTICATE).map(|v| v.to_str().unwrap());
        assert_eq!(told, challenge, "{path} {headers:?}");
        for (_, value) in headers {
            let secret = value.rsplit([' ', '.']).next().unwrap();
            assert!(status == 200 || secret.len() < 8 || !text.contains(secret), "{text}");
        }
    }
}

const SEARCH: &str = "/api/v1/search";
const PLAIN: &str = "Bearer realm=\"nearfield\"";

#[tokio::test]
async fn a_token_and_an_api_key_let_in() {
    let f = fixture().await;
    for bearer in ["Bearer", "bearer", "BEARER"] {
        let (response, text) =
            f.ask(Method::GET, SEARCH, &[("authorization", &format!("{bearer} {}", f.good()))]).await;
        assert_eq!((response.status(), text.as_str()), (StatusCode::OK, "alice "));
    }
    let (response, text) = f.ask(Method::GET, SEARCH, &[("x-api-key", &f.api_key().await)]).await;
    assert_eq!((response.status(), text.as_str()), (StatusCode::OK, "ci "));
}

#[tokio::test]
async fn without_credentials_the_caller_is_told_how_to_send_them() {
    let f = fixture().await;
    f.check(SEARCH, &[], 401, Some(PLAIN)).await;
    f.check(SEARCH, &[("authorization", "Basic YTpi")], 401, Some(PLAIN)).await;
    f.check("/nearfield.v1.VectorSearch/Search", &[], 401, Some(PLAIN)).await;
    f.check("/api/v1/ws", &[("sec-websocket-protocol", "nearfield.v1")], 401, Some(PLAIN)).await;
}

#[tokio::test]
async fn bad_credentials_are_told_apart_from_none() {
    let f = fixture().await;
    let invalid = |text: &str| format!("{PLAIN}, error=\"invalid_token\", error_description=\"{text}\"");
    let expired = format!("Bearer {}", f.token(Duration::ZERO));
    f.check(SEARCH, &[("authorization", &expired)], 401, Some(&invalid("the token has expired"))).await;
    let shape = invalid("the token is not a JWT of three base64url parts");
    for bad in ["Bearer", "Bearer ", "Bearer x"] {
        f.check(SEARCH, &[("authorization", bad)], 401, Some(&shape)).await;
    }
    let key = invalid("the API key is not of the form nf_<id>_<secret>");
    f.check(SEARCH, &[("x-api-key", "secret-secret")], 401, Some(&key)).await;
}

#[tokio::test]
async fn a_missing_scope_is_forbidden_and_named() {
    let f = fixture().await;
    let token = format!("Bearer {}", f.good());
    let lacking = |scope: &str| format!("{PLAIN}, error=\"insufficient_scope\", scope=\"{scope}\"");
    f.check("/api/v1/insert", &[("authorization", &token)], 403, Some(&lacking("vectors:write"))).await;
    f.check("/api/v1/cache/purge", &[("authorization", &token)], 403, Some(&lacking("cache:admin"))).await;
    f.check("/api/v1/regions", &[("authorization", &token)], 403, Some(&lacking("regions:read"))).await;
    let (response, _) = f.ask(Method::PUT, "/api/v1/collections/c", &[("authorization", &token)]).await;
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    f.check("/api/v1/collections/c", &[("authorization", &token)], 200, None).await;
}

#[tokio::test]
async fn two_sets_of_credentials_are_one_too_many() {
    let f = fixture().await;
    let (token, key) = (format!("Bearer {}", f.good()), f.api_key().await);
    f.check(SEARCH, &[("authorization", &token), ("x-api-key", &key)], 400, None).await;
    f.check(SEARCH, &[("authorization", &token), ("authorization", &token)], 400, None).await;
    f.check(SEARCH, &[("x-api-key", &key), ("x-api-key", &key)], 400, None).await;
}

#[tokio::test]
async fn a_websocket_may_carry_its_token_as_a_subprotocol() {
    let f = fixture().await;
    let offered = format!("nearfield.v1, bearer.{}", f.good());
    let (_, text) = f.ask(Method::GET, "/api/v1/ws", &[("sec-websocket-protocol", &offered)]).await;
    assert_eq!(text, "alice sec-websocket-protocol=nearfield.v1");
    // Elsewhere it is a header like another.
    f.check(SEARCH, &[("sec-websocket-protocol", &offered)], 401, Some(PLAIN)).await;
    let alone = format!("bearer.{}", f.good());
    let (_, text) = f.ask(Method::CONNECT, "/api/v1/ws", &[("sec-websocket-protocol", &alone)]).await;
    assert_eq!(text, "alice ");
}

#[tokio::test]
async fn what_is_open_asks_for_nothing_and_passes_nothing_on() {
    let f = fixture().await;
    let (response, text) = f.ask(Method::GET, "/api/v1/openapi.json", &[("authorization", "Bearer x")]).await;
    assert_eq!((response.status(), text.as_str()), (StatusCode::OK, " "));
    f.check("/api/v1/nowhere", &[], 200, None).await;
    f.check("/grpc.health.v1.Health/Check", &[], 200, None).await;
}

#[tokio::test]
async fn refusals_are_counted_by_their_reason() {
    let f = fixture().await;
    f.check(
        SEARCH,
        &[("authorization", "Bearer x")],
        401,
        Some(&format!(
            "{PLAIN}, error=\"invalid_token\", error_description=\"the token is not a JWT of three base64url parts\""
        )),
    )
    .await;
    assert_eq!(f.metrics.refused.get_or_create(&Reason { reason: "shape" }).get(), 1);
}
