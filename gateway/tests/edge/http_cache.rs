//! The cache and the listeners in front of a plain HTTP origin, over every transport.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use nearfield_gateway::front::{Config, Front};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::{Answer, Certificate, Client, TRANSPORTS, Transport, tls};

/// An origin that says how often it was asked, and a front before it.
struct Fixture {
    front: Front,
    certificate: Certificate,
    asked: Arc<AtomicUsize>,
}

impl Fixture {
    async fn start() -> Self {
        let asked = Arc::new(AtomicUsize::new(0));
        let counting = Arc::clone(&asked);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string().parse().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let asked = Arc::clone(&counting);
                let service = hyper::service::service_fn(move |request| answer(request, Arc::clone(&asked)));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        let certificate = Certificate::new();
        let mut config = Config { threads: 2, ..Config::default() };
        config.listener.https = vec!["127.0.0.1:0".parse().unwrap()];
        config.tls.certificate = certificate.dir.path().join("leaf.pem");
        config.tls.key = certificate.dir.path().join("leaf-key.pem");
        let front = Front::start(config, authority).await.unwrap();
        Self { front, certificate, asked }
    }

    async fn connect(&self, transport: Transport) -> Client {
        Client::anonymous(self.front.addr(), &self.certificate.der, transport).await
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// What is at a path: by the path's name, so that every test has paths of its own.
async fn answer(
    request: http::Request<Incoming>,
    asked: Arc<AtomicUsize>,
) -> Result<http::Response<Full<Bytes>>, Infallible> {
    let number = asked.fetch_add(1, Ordering::SeqCst) + 1;
    let path = request.uri().path().to_owned();
    let known = request.headers().get(header::IF_NONE_MATCH).is_some_and(|tag| tag == "\"v1\"");
    let question = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let mut response = http::Response::new(Full::new(Bytes::from(format!("{path} {} 0123456789", question.len()))));
    let headers = response.headers_mut();
    let control = if path.starts_with("/asks") { "no-cache" } else { "max-age=100" };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(control));
    headers.insert(header::ETAG, HeaderValue::from_static("\"v1\""));
    headers.insert("number", HeaderValue::from(number));
    if known {
        *response.status_mut() = http::StatusCode::NOT_MODIFIED;
        *response.body_mut() = Full::default();
    }
    Ok(response)
}

fn came(answer: &Answer) -> (u16, &str) {
    (answer.status, answer.header("cache-status"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_transport_is_given_the_same_stored_answers() {
    let f = Fixture::start().await;
    let mut expected = 0;
    for transport in TRANSPORTS {
        let mut client = f.connect(transport).await;
        let path = format!("/{transport:?}");
        expected += 1;
        assert_eq!(came(&client.get(&path).await), (200, "nearfield; fwd=uri-miss; fwd-status=200; stored"));
        for other in TRANSPORTS {
            let hit = f.connect(other).await.get(&path).await;
            assert!(came(&hit).1.starts_with("nearfield; hit; ttl="), "{transport:?} {other:?}: {hit:?}");
            assert_eq!((&hit.body, hit.header("age").len()), (&Bytes::from(format!("{path} 0 0123456789")), 1));
        }
        let known = client.send(http::Request::get(&path).header("if-none-match", "\"v1\""), "").await;
        assert_eq!((known.status, known.body.len()), (304, 0));
        let part = client.send(http::Request::get(&path).header("range", "bytes=-3"), "").await;
        assert_eq!((part.status, &part.body[..], part.header("content-range").is_empty()), (206, &b"789"[..], false));
        let head = client.send(http::Request::head(&path), "").await;
        assert_eq!((head.status, head.header("content-length").is_empty(), head.body.len()), (200, false, 0));
        assert_eq!(f.asked(), expected, "{transport:?}");
        expected += 2;
        client.send(http::Request::put(&path), "x").await;
        assert!(came(&client.get(&path).await).1.contains("fwd=uri-miss"), "{transport:?}");
        expected += 1;
        let query = || http::Request::builder().method("QUERY").uri(&path);
        for (question, hit) in [("abc", false), ("abc", true)] {
            let answered = client.send(query(), question).await;
            assert!(came(&answered).1.contains(if hit { "hit" } else { "stored" }), "{transport:?}: {answered:?}");
            assert_eq!(answered.body, format!("{path} 3 0123456789"));
        }
        assert_eq!(f.asked(), expected, "{transport:?}");
    }
    f.front.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_be_asked_for_is_asked_for_by_condition() {
    let f = Fixture::start().await;
    for transport in TRANSPORTS {
        let mut client = f.connect(transport).await;
        let path = format!("/asks/{transport:?}");
        client.get(&path).await;
        let again = client.get(&path).await;
        assert_eq!(came(&again), (200, "nearfield; fwd=stale; fwd-status=304; stored"));
        assert_eq!(
            (&again.body, again.header("number")),
            (&Bytes::from(format!("{path} 0 0123456789")), &*f.asked().to_string())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_equal_misses_are_one_fetch() {
    let f = Fixture::start().await;
    let mut clients = Vec::new();
    for transport in [Transport::Http2, Transport::Http3].iter().cycle().take(20) {
        clients.push(f.connect(*transport).await);
    }
    let all = clients.iter_mut().map(|client| async move {
        for _ in 0..10 {
            assert_eq!(client.get("/same").await.status, 200);
        }
    });
    futures::future::join_all(all).await;
    assert_eq!(f.asked(), 1);
}

/// An origin that hints before it answers, written by hand: hyper's server cannot.
#[tokio::test(flavor = "multi_thread")]
async fn interim_answers_come_through_and_are_not_stored() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = listener.local_addr().unwrap().to_string().parse().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut read = Vec::new();
            while !read.ends_with(b"\r\n\r\n") && stream.read_buf(&mut read).await.is_ok_and(|n| n > 0) {}
            let said = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncache-control: max-age=100\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx";
            stream.write_all(said.as_bytes()).await.unwrap();
        }
    });
    let certificate = Certificate::new();
    let mut config = Config { threads: 1, ..Config::default() };
    config.listener.https = vec!["127.0.0.1:0".parse().unwrap()];
    config.tls.certificate = certificate.dir.path().join("leaf.pem");
    config.tls.key = certificate.dir.path().join("leaf-key.pem");
    let front = Front::start(config, authority).await.unwrap();
    let mut said = Vec::new();
    for _ in 0..2 {
        let mut stream = tls(front.addr(), &certificate.der, &[b"http/1.1"]).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        said.push(text);
    }
    assert!(said[0].starts_with("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n"), "{}", said[0]);
    assert!(said[1].starts_with("HTTP/1.1 200 OK\r\n") && !said[1].contains("link"), "{}", said[1]);
}
