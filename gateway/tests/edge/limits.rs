//! Requests that are too large, too slow or no requests at all: the right answer, and the gateway goes on.

use std::time::Duration;

use http_body_util::BodyExt;
use nearfield_gateway::body::{self, Request, Response};
use nearfield_gateway::config::Config;
use nearfield_gateway::error::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Connection, Edge, READ, TRANSPORTS, Transport, WRITE, tls};

/// Reads the body, as everything inside does.
async fn count(request: Request) -> Result<Response, Error> {
    let bytes = request.into_body().collect().await.map_err(Error::of_body)?.to_bytes();
    Ok(Response::new(body::full(bytes.len().to_string())))
}

async fn start(set: impl FnOnce(&mut Config)) -> Edge {
    Edge::start(set, hyper::service::service_fn(count)).await
}

/// Sends raw bytes as HTTP/1.1 and reads until the gateway closes.
async fn raw(edge: &Edge, bytes: &[u8]) -> String {
    let mut stream = tls(edge.gateway.https_addr(), &edge.certificate.der, &[b"http/1.1"]).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A close without TLS's goodbye is an error here, and no matter.
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

fn check(answer: &str, status: &str) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    assert!(answer.contains("application/problem+json"), "{answer}");
    assert!(answer.contains(&format!("\"status\":{status}")), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_http_is_answered_with_a_problem() {
    let edge = start(|_| {}).await;
    check(&raw(&edge, b"this is not HTTP\r\n\r\n").await, "400");
    check(&raw(&edge, b"GET / HTTP/1.1\r\nbad header\r\n\r\n").await, "400");
    check(&raw(&edge, b"GET /api/v1/search HTTP/1.1\r\nconnection: close\r\n\r\n").await, "400");
    let smuggle = b"POST /api/v1/search HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\n";
    check(&raw(&edge, smuggle).await, "400");
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(70_000));
    check(&raw(&edge, long.as_bytes()).await, "431");
    let many: String = (0..101).map(|n| format!("x-{n}: 1\r\n")).collect();
    check(&raw(&edge, format!("GET / HTTP/1.1\r\nhost: x\r\n{many}\r\n").as_bytes()).await, "431");
    assert_eq!(edge.connect(Transport::Http1).await.get("/health/ready").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_drips_in_is_timed_out_and_an_idle_connection_is_not() {
    let limit = |config: &mut Config| config.listener.http1.header_timeout = Duration::from_millis(300);
    let edge = start(limit).await;
    let mut idle = edge.connect(Transport::Http1).await;
    assert_eq!(idle.get("/health/ready").await.status, 200);
    check(&raw(&edge, b"GET /api/v1/search HTTP/1.1\r\nhost: x\r\nx-slow: ").await, "408");
    // That took longer than the header timeout, and the idle connection is still good.
    assert_eq!(idle.get("/health/ready").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_are_closed() {
    let edge = start(|config| config.listener.idle_timeout = Duration::from_millis(200)).await;
    assert_eq!(raw(&edge, b"").await, "", "nothing was asked");
    let mut client = edge.connect(Transport::Http2).await;
    assert_eq!(client.get("/health/ready").await.status, 200);
    let Connection::Http2(sender) = client.connection else { panic!("HTTP/2") };
    let closed = async {
        while !sender.is_closed() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), closed).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_past_their_limit_are_413_on_every_transport() {
    let edge = start(|config| config.body.max_bytes = 1000).await;
    for transport in TRANSPORTS {
        let mut client = edge.connect(transport).await;
        let fits = client.send(http::Request::post(WRITE), vec![b'x'; 1000]).await;
        assert_eq!((fits.status, &fits.body[..]), (200, &b"1000"[..]), "{transport:?}");
        let mut client = edge.connect(transport).await;
        let refused = client.send(http::Request::post(WRITE), vec![b'x'; 1001]).await;
        assert_eq!(
            (refused.status, refused.header("content-type")),
            (413, "application/problem+json"),
            "{transport:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_or_too_large_header_fields_are_431_on_every_transport() {
    let edge = start(|_| {}).await;
    for transport in TRANSPORTS {
        let mut client = edge.connect(transport).await;
        let many = (0..101).fold(http::Request::get(READ), |r, n| r.header(format!("x-{n}"), "1"));
        assert_eq!(client.send(many, "").await.status, 431, "{transport:?}");
        let mut client = edge.connect(transport).await;
        let large = (0..9).fold(http::Request::get(READ), |r, n| r.header(format!("x-{n}"), "v".repeat(8_000)));
        // HTTP/2 and HTTP/3 clients know the limit and may refuse to send by themselves.
        if let Ok(answer) = client.try_send(large, "").await {
            assert_eq!(answer.status, 431, "{transport:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_past_the_limit_are_refused_and_the_others_go_on() {
    let edge = start(|config| config.listener.max_connections = 2).await;
    let mut first = edge.connect(Transport::Http1).await;
    let mut second = edge.connect(Transport::Http2).await;
    assert!(tls(edge.gateway.https_addr(), &edge.certificate.der, &[b"h2"]).await.is_err());
    assert_eq!(first.get("/health/ready").await.status, 200);
    assert_eq!(second.get("/health/ready").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_all_before_it_reads_still_learns_why_it_was_refused() {
    let edge = start(|_| {}).await;
    let length = 20 << 20;
    let mut stream = tls(edge.gateway.https_addr(), &edge.certificate.der, &[b"http/1.1"]).await.unwrap();
    // Without credentials: refused before anyone looks at the body.
    let head = format!("POST {WRITE} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b'x'; length]).await.unwrap();
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 401");
}
