//! The cache in front of an origin that is told what to answer, request by request, with tokio's clock standing still:
//! what public suites of HTTP caching look at, as a table.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use http_body_util::BodyExt;
use hyper::service::Service as _;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::sync::Notify;
use tower::Layer as _;

use super::*;
use crate::config::Server;
use crate::layers::rescue;
use crate::layers::response_cache::Config;

type Fields = &'static [(&'static str, &'static str)];

/// How an answer came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    FromCache,
    FromOrigin,
    /// The origin was asked by condition.
    Validated,
}
use Came::{FromCache, FromOrigin, Validated};

/// One request, what the origin would answer, and what is expected.
#[derive(Clone, Copy)]
struct Step {
    method: &'static str,
    path: &'static str,
    asks: Fields,
    sends: &'static str,
    status: u16,
    answers: Fields,
    body: &'static str,
    came: Came,
    expects: u16,
    /// Seconds that pass afterwards.
    then: u64,
}

const GET: Step = Step {
    method: "GET",
    path: "/a",
    asks: &[],
    sends: "",
    status: 200,
    answers: &[],
    body: "0123456789",
    came: FromOrigin,
    expects: 200,
    then: 3,
};

struct Origin {
    cache: Cache,
    step: Arc<Mutex<Step>>,
    asked: Arc<Mutex<Vec<HeaderMap>>>,
}

impl Origin {
    fn new() -> Self {
        let cache = Cache::start(&Config::default(), &Server::default().name(), &mut Registry::default()).unwrap();
        Self { cache, step: Arc::new(Mutex::new(GET)), asked: Arc::default() }
    }

    /// The status, head and body of what comes out.
    async fn run(&self, step: Step) -> (StatusCode, HeaderMap, Bytes) {
        *self.step.lock() = step;
        let (told, asked, cache) = (Arc::clone(&self.step), Arc::clone(&self.asked), self.cache.clone());
        let origin = hyper::service::service_fn(move |request: Request| {
            let step = *told.lock();
            asked.lock().push(request.headers().clone());
            let conditional = request.headers().contains_key(header::IF_NONE_MATCH)
                || request.headers().contains_key(header::IF_MODIFIED_SINCE);
            let now = cache.now();
            async move {
                if step.status == 0 {
                    return Err(tonic::Status::unavailable("gone").into());
                }
                let not_modified = conditional && step.came == Validated;
                let body = if not_modified { "" } else { step.body };
                let mut response = Response::new(crate::body::full(body));
                *response.status_mut() =
                    if not_modified { StatusCode::NOT_MODIFIED } else { StatusCode::from_u16(step.status).unwrap() };
                for (name, value) in step.answers {
                    response.headers_mut().append(HeaderName::try_from(*name).unwrap(), dated(value, now));
                }
                Ok::<_, Error>(response)
            }
        });
        let request = http::Request::builder().method(step.method).uri(step.path).header(header::HOST, "example.org");
        let mut request = request.body(crate::body::full(step.sends)).unwrap();
        for (name, value) in step.asks {
            request.headers_mut().append(HeaderName::try_from(*name).unwrap(), dated(value, self.cache.now()));
        }
        let service = rescue::Layer.layer(Layer { cache: self.cache.clone() }.layer(origin));
        let (parts, body) = service.call(request).await.unwrap().into_parts();
        (parts.status, parts.headers, body.collect().await.unwrap().to_bytes())
    }
}

/// `@-60` is a minute ago, as HTTP writes times.
fn dated(text: &str, now: Duration) -> HeaderValue {
    let text = match text.strip_prefix('@') {
        Some(delta) => {
            let seconds = now.as_secs() as i64 + delta.parse::<i64>().unwrap();
            httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_secs(seconds as u64))
        }
        None => text.to_owned(),
    };
    HeaderValue::try_from(text).unwrap()
}

/// Runs the steps against one cache; every answer has to come about as its step expects.
async fn check(name: &str, steps: &[Step]) -> (HeaderMap, Bytes) {
    let origin = Origin::new();
    let mut last = None;
    for (number, step) in steps.iter().enumerate() {
        let before = origin.asked.lock().len();
        let (status, headers, body) = origin.run(*step).await;
        let asked = origin.asked.lock()[before..].to_vec();
        let conditional = asked.iter().any(|headers| {
            headers.contains_key(header::IF_NONE_MATCH) || headers.contains_key(header::IF_MODIFIED_SINCE)
        });
        let came = match (asked.len(), conditional) {
            (0, _) => FromCache,
            (_, true) if step.came == Validated => Validated,
            _ => FromOrigin,
        };
        assert_eq!((came, status.as_u16()), (step.came, step.expects), "{name}, step {}: {headers:?}", number + 1);
        tokio::time::advance(Duration::from_secs(step.then)).await;
        last = Some((headers, body));
    }
    last.unwrap()
}

const FRESH: Fields = &[("cache-control", "max-age=100")];
const BRIEF: Fields = &[("cache-control", "max-age=2"), ("etag", "\"a\"")];

fn then(came: Came) -> Step {
    Step { came, ..GET }
}

#[tokio::test(start_paused = true)]
async fn answers_are_reused_as_their_origin_says() {
    for (answers, came) in [
        (FRESH, FromCache),
        (&[][..], FromOrigin),
        (&[("cache-control", "max-age=2")][..], FromOrigin),
        (&[("cache-control", "max-age=0")][..], FromOrigin),
        (&[("cache-control", "max-age=1, s-maxage=100")][..], FromCache),
        (&[("cache-control", "max-age=100, s-maxage=1")][..], FromOrigin),
        (&[("cache-control", "max-age=100, no-store")][..], FromOrigin),
        (&[("cache-control", "max-age=100, no-cache")][..], FromOrigin),
        (&[("cache-control", "max-age=100, private")][..], FromOrigin),
        (&[("cache-control", "max-age=100, private=\"x\"")][..], FromCache),
        (&[("cache-control", "max-age=100, must-revalidate")][..], FromCache),
        (&[("cache-control", "max-age=100"), ("age", "200")][..], FromOrigin),
        (&[("cache-control", "max-age=100"), ("age", "90")][..], FromCache),
        (&[("cache-control", "max-age=100"), ("set-cookie", "a=b")][..], FromCache),
        (&[("cache-control", "no-store"), ("cdn-cache-control", "max-age=100")][..], FromCache),
        (&[("cache-control", "max-age=100"), ("cdn-cache-control", "no-store")][..], FromOrigin),
        (&[("cdn-cache-control", "max-age=100"), ("nearfield-cache-control", "no-store")][..], FromOrigin),
        (&[("expires", "@100")][..], FromCache),
        (&[("expires", "@-100")][..], FromOrigin),
        (&[("expires", "@100"), ("date", "@100")][..], FromOrigin),
        (&[("expires", "0")][..], FromOrigin),
        (&[("last-modified", "@-1000")][..], FromCache),
        (&[("last-modified", "@-10")][..], FromOrigin),
        (&[("vary", "*"), ("cache-control", "max-age=100")][..], FromOrigin),
    ] {
        check(&format!("{answers:?}"), &[Step { answers, ..GET }, then(came)]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn statuses_are_kept_by_what_is_said_of_them() {
    for status in [200, 203, 204, 299, 301, 302, 307, 308, 400, 404, 410, 499, 500, 503, 599] {
        let first = Step { status, expects: status, answers: FRESH, ..GET };
        check(&format!("{status} said to be fresh"), &[first, Step { came: FromCache, ..first }]).await;
    }
    for (status, came) in [(404, FromCache), (410, FromCache), (201, FromOrigin), (403, FromOrigin), (503, FromOrigin)]
    {
        let first = Step { status, expects: status, answers: &[("last-modified", "@-1000")], ..GET };
        check(&format!("{status} by guess"), &[first, Step { came, ..first }]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_stale_is_validated_and_its_head_brought_up_to_date() {
    let first = Step { answers: &[("cache-control", "max-age=2"), ("etag", "\"a\""), ("b", "1"), ("c", "1")], ..GET };
    let second =
        Step { answers: &[("cache-control", "max-age=100"), ("b", "2"), ("content-length", "3")], ..then(Validated) };
    let (headers, body) = check("by tag", &[first, second, then(FromCache)]).await;
    assert_eq!(
        (&headers["b"], &headers["c"], &body[..]),
        (&HeaderValue::from_static("2"), &HeaderValue::from_static("1"), &b"0123456789"[..])
    );
    assert_eq!(headers["age"], "3");
    let first =
        Step { answers: &[("cache-control", "max-age=2"), ("last-modified", "Wed, 01 Jan 2020 00:00:00 GMT")], ..GET };
    check("by date", &[first, then(Validated)]).await;
    let always = Step { answers: &[("cache-control", "no-cache"), ("etag", "\"a\"")], ..GET };
    check("each time", &[always, then(Validated), then(Validated)]).await;
    let other = Step { answers: &[("etag", "\"b\"")], ..then(Validated) };
    let origin = Origin::new();
    origin.run(Step { answers: BRIEF, ..GET }).await;
    tokio::time::advance(Duration::from_secs(3)).await;
    assert_eq!(origin.run(Step { came: FromOrigin, ..other }).await.0, StatusCode::OK);
    assert_eq!(origin.asked.lock().len(), 2, "the origin answered with another, whole");
}

#[tokio::test(start_paused = true)]
async fn callers_conditions_are_answered_from_what_is_stored() {
    let stored =
        Step { answers: &[("cache-control", "max-age=100"), ("etag", "\"a\""), ("last-modified", "@-50")], ..GET };
    let asks = |asks, expects| Step { asks, expects, ..then(FromCache) };
    for (condition, expects) in [
        (&[("if-none-match", "\"a\"")][..], 304),
        (&[("if-none-match", "\"x\", W/\"a\"")][..], 304),
        (&[("if-none-match", "\"x\"")][..], 200),
        (&[("if-modified-since", "@-10")][..], 304),
        (&[("if-modified-since", "@-1000")][..], 200),
        (&[("if-none-match", "\"a\""), ("if-modified-since", "@-1000")][..], 304),
    ] {
        let (headers, _) = check(&format!("{condition:?}"), &[stored, asks(condition, expects)]).await;
        assert_eq!(headers["etag"], "\"a\"");
    }
    let head = Step { method: "HEAD", ..then(FromCache) };
    let (headers, body) = check("HEAD", &[stored, head]).await;
    assert_eq!((headers["content-length"].as_bytes(), body.len()), (&b"10"[..], 0));
}

#[tokio::test(start_paused = true)]
async fn parts_are_cut_from_the_whole_and_from_stored_parts() {
    let whole = Step { answers: &[("cache-control", "max-age=100"), ("etag", "\"a\"")], ..GET };
    let part = |asks, expects| Step { asks, expects, ..then(FromCache) };
    for (asks, expects, body, range) in [
        (&[("range", "bytes=0-1")][..], 206, "01", "bytes 0-1/10"),
        (&[("range", "bytes=-1")][..], 206, "9", "bytes 9-9/10"),
        (&[("range", "bytes=10-")][..], 416, "", "bytes */10"),
        (&[("range", "bytes=0-1"), ("if-range", "\"a\"")][..], 206, "01", "bytes 0-1/10"),
        (&[("range", "bytes=0-1"), ("if-range", "\"b\"")][..], 200, "0123456789", ""),
        (&[("range", "bytes=0-1,4-5")][..], 200, "0123456789", ""),
    ] {
        let (headers, read) = check(&format!("{asks:?}"), &[whole, part(asks, expects)]).await;
        let told = headers.get("content-range").map_or("", |value| value.to_str().unwrap());
        assert_eq!((&read[..], told), (body.as_bytes(), range), "{asks:?}");
    }
    let stored = Step {
        asks: &[("range", "bytes=-5")],
        status: 206,
        expects: 206,
        answers: &[("cache-control", "max-age=100"), ("content-range", "bytes 5-9/10")],
        body: "56789",
        ..GET
    };
    let (_, read) = check("of a part", &[stored, part(&[("range", "bytes=6-7")], 206)]).await;
    assert_eq!(read, "67");
    check("not in the part", &[stored, Step { asks: &[("range", "bytes=0-7")], ..GET }]).await;
    check("the whole, of which a part is stored", &[stored, GET]).await;
}

#[tokio::test(start_paused = true)]
async fn variants_are_kept_apart() {
    let vary: Fields = &[("cache-control", "max-age=100"), ("vary", "foo")];
    let of = |asks, came| Step { asks, answers: vary, came, ..GET };
    let (one, two): (Fields, Fields) = (&[("foo", "1")], &[("foo", "2")]);
    check("by a field", &[of(one, FromOrigin), of(two, FromOrigin), of(one, FromCache), of(two, FromCache)]).await;
    check("by its absence", &[of(one, FromOrigin), of(&[], FromOrigin), of(&[], FromCache)]).await;
    check(
        "by what it says alone",
        &[of(&[("foo", "1,2")], FromOrigin), of(&[("foo", "1"), ("foo", " 2 ")], FromCache)],
    )
    .await;
    let languages: Fields = &[("cache-control", "max-age=100"), ("vary", "accept-language")];
    let of = |asks, came| Step { asks, answers: languages, came, ..GET };
    check(
        "by language",
        &[of(&[("accept-language", "en, de")], FromOrigin), of(&[("accept-language", "DE,en")], FromCache)],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn changes_end_what_is_stored() {
    let stored = Step { answers: FRESH, ..GET };
    for method in ["POST", "PUT", "DELETE", "M-SEARCH"] {
        let change = Step { method, sends: "x", ..GET };
        check(method, &[stored, change, then(FromOrigin)]).await;
        let failed = Step { status: 500, expects: 500, ..change };
        check(&format!("{method} failed"), &[stored, failed, then(FromCache)]).await;
        let elsewhere = Step { path: "/b", answers: &[("location", "/a")], ..change };
        check(&format!("{method} names it"), &[stored, elsewhere, then(FromOrigin)]).await;
    }
    check("OPTIONS", &[stored, Step { method: "OPTIONS", ..GET }, then(FromCache)]).await;
    let posted =
        Step { method: "POST", answers: &[("cache-control", "max-age=100"), ("content-location", "/a")], ..GET };
    check("POST that answers as GET would", &[posted, then(FromCache)]).await;
}

#[tokio::test(start_paused = true)]
async fn a_query_is_known_by_its_body() {
    let query = |sends, came| Step { method: "QUERY", sends, answers: FRESH, came, ..GET };
    check("QUERY", &[query("x", FromOrigin), query("y", FromOrigin), query("x", FromCache), then(FromOrigin)]).await;
}

#[tokio::test(start_paused = true)]
async fn answers_to_credentials_need_leave() {
    let with = |answers| Step { asks: &[("authorization", "x")], answers, ..GET };
    check("none", &[with(FRESH), then(FromOrigin)]).await;
    check("public", &[with(&[("cache-control", "max-age=100, public")]), then(FromCache)]).await;
    check("s-maxage", &[with(&[("cache-control", "s-maxage=100")]), then(FromCache)]).await;
}

#[tokio::test(start_paused = true)]
async fn stale_answers_stand_in_as_far_as_they_may() {
    let fails = Step { status: 0, ..then(FromOrigin) };
    let answers_503 = Step { status: 503, ..then(FromOrigin) };
    let brief = |answers| Step { answers, ..GET };
    check("by the cache's leave", &[brief(&[("cache-control", "max-age=2")]), fails, answers_503]).await;
    for strict in [
        "max-age=2, must-revalidate",
        "max-age=2, proxy-revalidate",
        "max-age=2, s-maxage=2",
        "max-age=2, stale-if-error=0",
    ] {
        let answers: Fields = Box::leak(Box::new([("cache-control", strict)]));
        check(strict, &[brief(answers), Step { expects: 503, ..fails }]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stale_answer_is_given_while_the_origin_is_asked_behind_it() {
    let origin = Origin::new();
    let answers: Fields = &[("cache-control", "max-age=1, stale-while-revalidate=4"), ("etag", "\"a\"")];
    origin.run(Step { answers, body: "old", ..GET }).await;
    tokio::time::advance(Duration::from_secs(3)).await;
    let (_, headers, body) = origin.run(Step { answers, body: "new", ..GET }).await;
    assert_eq!((&body[..], headers["cache-status"].to_str().unwrap()), (&b"old"[..], "nearfield; hit; ttl=-2"));
    while origin.asked.lock().len() < 2 {
        tokio::task::yield_now().await;
    }
    let read = async || origin.run(Step { answers, body: "newer", ..GET }).await.2;
    while read().await != "new" {
        tokio::task::yield_now().await;
    }
    assert_eq!(origin.asked.lock().len(), 2);
    tokio::time::advance(Duration::from_secs(6)).await;
    assert_eq!(read().await, "newer", "past the time in which it may be given");
}

#[tokio::test(start_paused = true)]
async fn directives_of_requests_are_obeyed() {
    let stored = Step { answers: FRESH, ..GET };
    let asks = |asks, came, expects| Step { asks, came, expects, ..GET };
    for (control, came, expects) in [
        (&[("cache-control", "no-cache")][..], FromOrigin, 200),
        (&[("cache-control", "no-store")][..], FromOrigin, 200),
        (&[("cache-control", "max-age=2")][..], FromOrigin, 200),
        (&[("cache-control", "max-age=3")][..], FromCache, 200),
        (&[("cache-control", "min-fresh=98")][..], FromOrigin, 200),
        (&[("cache-control", "only-if-cached")][..], FromCache, 200),
        (&[("pragma", "no-cache")][..], FromOrigin, 200),
    ] {
        check(&format!("{control:?}"), &[stored, asks(control, came, expects)]).await;
    }
    check("only-if-cached", &[asks(&[("cache-control", "only-if-cached")], FromCache, 504)]).await;
    let brief = Step { answers: BRIEF, ..GET };
    check("max-stale", &[brief, asks(&[("cache-control", "max-stale=10")], FromCache, 200)]).await;
}

/// Sends `count` requests at once, each with a field of its own, to an origin that answers when `gate` opens. Gives the
/// number of times that the origin was asked.
async fn at_once(count: usize, answers: Fields, status: u16, vary_over: usize) -> usize {
    let cache = Cache::start(&Config::default(), &Server::default().name(), &mut Registry::default()).unwrap();
    let (asked, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (counting, opened) = (Arc::clone(&asked), Arc::clone(&gate));
    let origin = hyper::service::service_fn(move |_request: Request| {
        let (asked, gate) = (Arc::clone(&counting), Arc::clone(&opened));
        async move {
            asked.fetch_add(1, Ordering::SeqCst);
            gate.notified().await;
            gate.notify_one();
            let mut response = Response::new(crate::body::full("x"));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            for (name, value) in answers {
                response.headers_mut().append(*name, HeaderValue::from_static(value));
            }
            Ok::<_, Error>(response)
        }
    });
    let one = |i: usize| {
        let service = Layer { cache: cache.clone() }.layer(origin.clone());
        let request = http::Request::get("/a").header("host", "h").header("foo", i % vary_over);
        let request = request.body(crate::body::empty()).unwrap();
        async move { service.call(request).await.unwrap().status() }
    };
    gate.notify_one();
    let statuses = futures::future::join_all((0..count).map(one)).await;
    assert!(statuses.iter().all(|answered| *answered == status));
    asked.load(Ordering::SeqCst)
}

#[tokio::test(start_paused = true)]
async fn equal_misses_are_one_fetch_and_variants_one_each() {
    assert_eq!(at_once(200, FRESH, 200, 1).await, 1);
    assert_eq!(at_once(200, &[("cache-control", "max-age=100"), ("vary", "foo")], 200, 4).await, 4);
    assert_eq!(at_once(200, &[], 503, 1).await, 1, "a failure is shared too");
    assert_eq!(at_once(200, &[("cache-control", "private")], 200, 1).await, 200, "what is one caller's is not");
}
