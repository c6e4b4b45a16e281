//! The cache around origins that are made here, with tokio's clock standing still.

use std::sync::atomic::{AtomicUsize, Ordering};

use http::{HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use hyper::service::Service as _;
use nearfield_auth::Principal;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tower::Layer as _;

use super::*;
use crate::body;
use crate::config::Server;
use crate::layers::rescue;
use crate::request::{Caller, Deadline, RequestId};

mod hot;
mod purges;

type Inner = crate::layers::Stack<Error>;
type Answers = dyn Fn(usize, &Request) -> Result<Response, Error> + Send + Sync;

/// An origin that counts, a cache around it, and the layers that it relies on.
struct Fixture {
    cache: Cache,
    inner: Inner,
    asked: Arc<AtomicUsize>,
}

/// An answer, read.
#[derive(Debug)]
struct Told {
    status: StatusCode,
    headers: http::HeaderMap,
    body: String,
}

impl Told {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn cache(&self) -> &str {
        self.header("cache-status")
    }
}

fn json(text: impl Into<Bytes>) -> Response {
    let mut response = Response::new(body::full(text.into()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("nearfield-region", HeaderValue::from_static("here"));
    for (name, value) in [("ratelimit", "r=1"), ("x-request-id", "req_other"), ("server-timing", "upstream;dur=1")] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

impl Fixture {
    fn new(answers: impl Fn(usize, &Request) -> Result<Response, Error> + Send + Sync + 'static) -> Self {
        let answers: Arc<Answers> = Arc::new(answers);
        Self::around(move |number, request: Request| {
            let answer = answers(number, &request);
            async move { answer }
        })
    }

    fn around<F>(answer: impl Fn(usize, Request) -> F + Clone + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Response, Error>> + Send + 'static,
    {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let inner = hyper::service::service_fn(move |request: Request| -> Answering {
            Box::pin(answer(count.fetch_add(1, Ordering::SeqCst) + 1, request))
        });
        let cache = Cache::start(&Config::default(), &Server::default().name(), &mut Registry::default()).unwrap();
        Self { cache, inner: Arc::new(inner), asked }
    }

    /// Answers with its number.
    fn counting() -> Self {
        Self::new(|number, _| Ok(json(format!("{{\"n\":{number}}}"))))
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    async fn send(&self, request: Request) -> Told {
        let layer = Layer { cache: self.cache.clone() };
        let service = classify::Layer.layer(status::Layer.layer(rescue::Layer.layer(layer.layer(self.inner.clone()))));
        let response = service.call(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Told { status: parts.status, headers: parts.headers, body: String::from_utf8(bytes.to_vec()).unwrap() }
    }

    async fn get(&self, path: &str) -> Told {
        self.send(request(Method::GET, path, "", &[])).await
    }

    async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Told {
        self.send(request(Method::GET, path, "", headers)).await
    }

    fn invalidation(&self) -> &Invalidation {
        &self.cache.0.tiers.invalidation
    }
}

fn request(method: Method, path: &str, text: &str, headers: &[(&str, &str)]) -> Request {
    of_tenant(None, method, path, text, headers)
}

fn of_tenant(tenant: Option<&str>, method: Method, path: &str, text: &str, headers: &[(&str, &str)]) -> Request {
    let body = body::full(Bytes::copy_from_slice(text.as_bytes()));
    let mut request = http::Request::builder().method(method).uri(path).body(body).unwrap();
    for (name, value) in headers {
        let name = HeaderName::try_from(*name).unwrap();
        request.headers_mut().append(name, HeaderValue::from_str(value).unwrap());
    }
    let principal =
        Principal { subject: "alice".to_owned(), tenant: tenant.map(str::to_owned), ..Principal::default() };
    request.extensions_mut().insert(Caller(Arc::new(principal)));
    request.extensions_mut().insert(RequestId(HeaderValue::from_static("req_mine")));
    request
}

const POINT: &str = "/api/v1/embed/a?collection=shoes";
const SEARCH: &str = "/api/v1/search?collection=shoes&query_vector_id=a&k=5";

async fn pass(seconds: u64) {
    tokio::time::advance(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_asked_for_once_and_tells_its_age() {
    let f = Fixture::counting();
    let first = f.get(SEARCH).await;
    assert_eq!(first.cache(), "nearfield; fwd=uri-miss; fwd-status=200; stored");
    assert_eq!((first.body.as_str(), first.header("age")), ("{\"n\":1}", ""));
    assert_eq!(first.header("cache-control"), "private, max-age=30");
    assert_eq!(first.header("cdn-cache-control"), "no-store");
    assert_eq!(first.header("cache-tag"), "collection:shoes,point:shoes/a");
    assert_eq!(first.header("server-timing"), "upstream;dur=1");
    pass(12).await;
    let second = f.get(SEARCH).await;
    assert_eq!(second.cache(), "nearfield; hit; ttl=18");
    assert_eq!((second.body.as_str(), second.header("age")), ("{\"n\":1}", "12"));
    assert_eq!(second.header("etag"), first.header("etag"));
    assert_eq!((second.header("content-type"), second.header("nearfield-region")), ("application/json", "here"));
    assert!(second.header("server-timing").starts_with("cache;desc=hit"));
    for private in ["x-request-id", "ratelimit"] {
        assert_eq!(second.header(private), "", "{private}");
    }
    pass(18).await;
    let third = f.get(SEARCH).await;
    assert_eq!((third.cache(), third.body.as_str()), ("nearfield; fwd=stale; fwd-status=200; stored", "{\"n\":2}"));
}

#[tokio::test(start_paused = true)]
async fn points_live_longer_than_searches() {
    let f = Fixture::counting();
    assert_eq!(f.get(POINT).await.header("cache-control"), "private, max-age=300");
    pass(299).await;
    assert_eq!(f.get(POINT).await.cache(), "nearfield; hit; ttl=1");
    pass(1).await;
    f.get(POINT).await;
    assert_eq!(f.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn other_lifetimes_hold_for_what_is_stored_from_then_on() {
    let f = Fixture::counting();
    f.get(SEARCH).await;
    f.cache.set_terms(&Config { search_ttl: Duration::from_secs(7), ..Config::default() });
    assert_eq!(f.get(SEARCH).await.cache(), "nearfield; hit; ttl=30");
    pass(30).await;
    assert_eq!(f.get(SEARCH).await.header("cache-control"), "private, max-age=7");
    pass(7).await;
    f.get(SEARCH).await;
    assert_eq!(f.asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn one_question_has_one_answer_however_it_is_put() {
    let f = Fixture::counting();
    f.get(SEARCH).await;
    f.get("/api/v1/search?k=5&query_vector_id=%61&collection=shoes").await;
    for body in [
        r#"{"collection":"shoes","query_vector_id":"a","k":5}"#,
        r#"{ "k": 5, "query_vector_id": "a", "collection": "shoes", "include": ["metadata"] }"#,
    ] {
        let posted = f.send(request(Method::POST, "/api/v1/search", body, &[])).await;
        assert!(posted.cache().contains("hit"), "{}", posted.cache());
    }
    assert_eq!(f.asked(), 1);
    f.get("/api/v1/search?collection=shoes&query_vector_id=a&k=6").await;
    f.get("/api/v1/search?collection=hats&query_vector_id=a&k=5").await;
    assert_eq!(f.asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_is_never_given_anothers_answer() {
    let f = Fixture::new(|_, request| {
        let Caller(principal) = request.extensions().get().unwrap();
        Ok(json(principal.tenant.clone().unwrap_or_default()))
    });
    for _ in 0..3 {
        for tenant in [None, Some("a"), Some("b")] {
            for path in [SEARCH, POINT] {
                let told = f.send(of_tenant(tenant, Method::GET, path, "", &[])).await;
                assert_eq!(told.body, tenant.unwrap_or_default());
            }
        }
    }
    assert_eq!(f.asked(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_is_known_is_not_sent_again() {
    let f = Fixture::counting();
    let etag = f.get(POINT).await.header("etag").to_owned();
    for known in [etag.clone(), format!("W/{etag}"), format!("\"x\", {etag}"), "*".to_owned()] {
        let told = f.get_with(POINT, &[("if-none-match", &known)]).await;
        assert_eq!((told.status, told.body.as_str()), (StatusCode::NOT_MODIFIED, ""));
        assert_eq!(told.header("etag"), etag);
        assert_eq!(told.header("content-type"), "");
        assert!(told.cache().contains("hit"));
    }
    assert_eq!(f.get_with(POINT, &[("if-none-match", "\"x\"")]).await.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_head_is_answered_from_what_a_get_finds() {
    let f = Fixture::new(|_, request| {
        assert_eq!(request.method(), Method::GET);
        Ok(json("{}"))
    });
    for expected in ["fwd=uri-miss", "hit"] {
        let told = f.send(request(Method::HEAD, POINT, "", &[])).await;
        assert_eq!((told.status, told.body.as_str(), told.header("content-length")), (StatusCode::OK, "", "2"));
        assert!(told.cache().contains(expected));
    }
    assert_eq!(f.get(POINT).await.body, "{}");
    assert_eq!(f.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_callers_directives_are_obeyed() {
    let f = Fixture::counting();
    let uncached = f.get_with(SEARCH, &[("cache-control", "only-if-cached")]).await;
    assert_eq!((uncached.status, f.asked()), (StatusCode::GATEWAY_TIMEOUT, 0));
    f.get_with(SEARCH, &[("cache-control", "no-store")]).await;
    assert_eq!(f.get(SEARCH).await.body, "{\"n\":2}");
    assert_eq!(f.get_with(SEARCH, &[("cache-control", "only-if-cached")]).await.body, "{\"n\":2}");
    let renewed = f.get_with(SEARCH, &[("cache-control", "no-cache")]).await;
    assert_eq!(
        (renewed.body.as_str(), renewed.cache()),
        ("{\"n\":3}", "nearfield; fwd=request; fwd-status=200; stored")
    );
    assert_eq!(f.get(SEARCH).await.body, "{\"n\":3}");
    pass(10).await;
    assert_eq!(f.get_with(SEARCH, &[("cache-control", "max-age=10")]).await.body, "{\"n\":3}");
    assert_eq!(f.get_with(SEARCH, &[("cache-control", "max-age=9")]).await.body, "{\"n\":4}");
}

#[tokio::test(start_paused = true)]
async fn a_read_with_a_session_goes_past_the_cache() {
    let f = Fixture::counting();
    f.get(SEARCH).await;
    let by_header = f.get_with(SEARCH, &[("nearfield-session", "s")]).await;
    assert_eq!((by_header.body.as_str(), by_header.cache()), ("{\"n\":2}", "nearfield; fwd=bypass; detail=session"));
    let body = r#"{"collection":"shoes","query_vector_id":"a","k":5,"session":"s"}"#;
    for n in 3..5 {
        let by_body = f.send(request(Method::POST, "/api/v1/search", body, &[])).await;
        assert_eq!(by_body.body, format!("{{\"n\":{n}}}"));
        assert_eq!(by_body.header("cache-control"), "no-store");
    }
    assert_eq!(f.get(SEARCH).await.body, "{\"n\":1}");
}

#[tokio::test(start_paused = true)]
async fn equal_misses_are_asked_once_and_failures_are_shared() {
    let fails = Arc::new(Mutex::new(false));
    let (gate, failing) = (Arc::new(Notify::new()), Arc::clone(&fails));
    let opened = Arc::clone(&gate);
    let f = Fixture::around(move |_, _| {
        let (gate, fails) = (Arc::clone(&opened), *failing.lock());
        async move {
            gate.notified().await;
            if fails { Err(Error::NoRegion) } else { Ok(json("{}")) }
        }
    });
    gate.notify_one();
    let all = futures::future::join_all((0..200).map(|_| f.get(SEARCH))).await;
    assert_eq!(f.asked(), 1);
    assert_eq!(all.iter().filter(|told| told.cache().ends_with("; collapsed")).count(), 199);
    *fails.lock() = true;
    gate.notify_one();
    let all = futures::future::join_all((0..200).map(|_| f.get(POINT))).await;
    assert!(all.iter().all(|told| told.status == StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!(f.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_takes_no_ones_answer_along() {
    let gate = Arc::new(Notify::new());
    let opened = Arc::clone(&gate);
    let f = Arc::new(Fixture::around(move |_, _| {
        let gate = Arc::clone(&opened);
        async move {
            gate.notified().await;
            Ok(json("{}"))
        }
    }));
    let leader = tokio::spawn({
        let f = Arc::clone(&f);
        async move { f.get(SEARCH).await }
    });
    while f.asked() < 1 {
        tokio::task::yield_now().await;
    }
    let follower = tokio::spawn({
        let f = Arc::clone(&f);
        async move { f.get(SEARCH).await }
    });
    tokio::task::yield_now().await;
    leader.abort();
    gate.notify_one();
    assert_eq!(follower.await.unwrap().status, StatusCode::OK);
    assert_eq!(f.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_old_answer_stands_in_for_a_failing_origin_for_a_while() {
    let f = Fixture::new(|number, _| if number == 1 { Ok(json("{}")) } else { Err(Error::NoRegion) });
    f.get(SEARCH).await;
    pass(35).await;
    let told = f.get(SEARCH).await;
    assert_eq!((told.status, told.body.as_str(), told.header("age")), (StatusCode::OK, "{}", "35"));
    assert_eq!(told.cache(), "nearfield; fwd=stale; fwd-status=503; ttl=-5; detail=stale-if-error");
    pass(290).await;
    assert_eq!(f.get(SEARCH).await.status, StatusCode::OK);
    pass(10).await;
    let over = f.get(SEARCH).await;
    assert_eq!(
        (over.status, over.cache()),
        (StatusCode::SERVICE_UNAVAILABLE, "nearfield; fwd=uri-miss; fwd-status=503")
    );
    assert_eq!(over.header("retry-after"), "1");
}

#[tokio::test(start_paused = true)]
async fn who_waits_longer_than_the_one_that_asked_asks_again() {
    let f = Arc::new(Fixture::around(|number, _| async move {
        if number == 1 {
            let _ = tokio::time::timeout(Duration::from_secs(1), std::future::pending::<()>()).await;
            return Err(Error::DeadlineExceeded);
        }
        Ok(json("{}"))
    }));
    let with_deadline = |seconds: u64| {
        let f = Arc::clone(&f);
        let at = tokio::time::Instant::now() + Duration::from_secs(seconds);
        let mut request = request(Method::GET, SEARCH, "", &[]);
        request.extensions_mut().insert(Deadline(at.into_std()));
        async move { f.send(request).await.status }
    };
    let (hasty, patient) = tokio::join!(with_deadline(1), with_deadline(10));
    assert_eq!((hasty, patient), (StatusCode::GATEWAY_TIMEOUT, StatusCode::OK));
    assert_eq!(f.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn absence_is_remembered_and_told_to_each_in_its_own_name() {
    let f = Fixture::new(|_, _| Err(Error::NotFound("there is no point of this id".to_owned())));
    let first = f.get(POINT).await;
    assert_eq!(
        (first.status, first.cache()),
        (StatusCode::NOT_FOUND, "nearfield; fwd=uri-miss; fwd-status=404; stored")
    );
    pass(59).await;
    let second = f.get(POINT).await;
    assert_eq!(second.header("content-type"), "application/problem+json");
    assert!(
        second.body.contains("there is no point of this id") && second.body.contains("req_mine"),
        "{}",
        second.body
    );
    assert_eq!(second.cache(), "nearfield; hit; ttl=1");
    f.invalidation().collection_changed(None, "shoes");
    f.get(POINT).await;
    assert_eq!(f.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn malformed_requests_reach_nobody() {
    let f = Fixture::counting();
    let bad = f.send(request(Method::POST, "/api/v1/search", "{", &[])).await;
    assert_eq!((bad.status, bad.cache()), (StatusCode::BAD_REQUEST, "nearfield; detail=refused"));
    let media = [("content-type", "text/plain")];
    let bad = f.send(request(Method::POST, "/api/v1/search", r#"{"query_vector_id":"a"}"#, &media)).await;
    assert_eq!(bad.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(f.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_large_answer_is_passed_on() {
    let f = Fixture::new(|_, _| Ok(json(vec![b'x'; MAX_ENTRY_BYTES as usize + 1])));
    for n in 1..3 {
        let told = f.get(SEARCH).await;
        assert_eq!(told.body.len() as u64, MAX_ENTRY_BYTES + 1);
        assert_eq!(
            (told.cache(), told.header("cache-control")),
            ("nearfield; fwd=uri-miss; fwd-status=200", "no-store")
        );
        assert_eq!(f.asked(), n);
    }
}

#[tokio::test(start_paused = true)]
async fn writes_and_other_routes_pass_and_say_so() {
    let f = Fixture::counting();
    for n in 1..3 {
        let told = f.send(request(Method::POST, "/api/v1/insert", "{}", &[])).await;
        assert_eq!(
            (told.body, told.headers["cache-status"].to_str().unwrap()),
            (format!("{{\"n\":{n}}}"), "nearfield; fwd=method")
        );
    }
    assert_eq!(f.get("/api/v1/collections").await.cache(), "nearfield; fwd=bypass");
}

#[tokio::test]
async fn what_the_origin_keeps_to_itself_is_not_kept() {
    for (name, value) in [(header::CACHE_CONTROL, "no-store"), (header::SET_COOKIE, "a=b")] {
        let f = Fixture::new(move |_, _| {
            let mut response = json("{}");
            response.headers_mut().insert(name.clone(), HeaderValue::from_static(value));
            Ok(response)
        });
        f.get(SEARCH).await;
        assert_eq!(f.get(SEARCH).await.cache(), "nearfield; fwd=uri-miss; fwd-status=200");
        assert_eq!(f.send(request(Method::HEAD, SEARCH, "", &[])).await.body, "");
        assert_eq!(f.asked(), 3);
    }
}
