//! The same answers over HTTP/1.1, HTTP/2 and HTTP/3.

use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use nearfield_gateway::body::{self, Request, Response};
use nearfield_gateway::error::Error;
use nearfield_gateway::request::{ClientAddr, RequestId};

use crate::support::{Edge, READ, TRANSPORTS, Transport, WRITE};

/// Answers with what it was sent and how, with a trailer that counts the bytes.
async fn echo(request: Request) -> Result<Response, Error> {
    let transport = request.extensions().get::<Transport>().copied();
    let client = request.extensions().get::<ClientAddr>().copied().map(|c| c.0.ip());
    let id = request.extensions().get::<RequestId>().cloned().map(|id| id.as_str().to_owned()).unwrap_or_default();
    let bytes = request.into_body().collect().await.map_err(Error::of_body)?.to_bytes();
    let mut trailers = http::HeaderMap::new();
    trailers.insert("bytes", bytes.len().into());
    // Of unknown length, or HTTP/1.1 would send a length instead of chunks, which alone have trailers.
    let frames = [Ok::<_, Error>(Frame::data(bytes)), Ok(Frame::trailers(trailers))];
    let body = StreamBody::new(futures::stream::iter(frames));
    let mut response = Response::new(body::boxed(body));
    // HTTP/1.1 has trailers only for those who announce them.
    response.headers_mut().insert("trailer", "bytes".parse().unwrap());
    response.headers_mut().insert("seen", format!("{transport:?} {client:?} {id}").parse().unwrap());
    Ok(response)
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_and_trailers_go_both_ways_on_every_transport() {
    let edge = Edge::start(|_| {}, hyper::service::service_fn(echo)).await;
    for transport in TRANSPORTS {
        let mut client = edge.connect(transport).await;
        let body = vec![7_u8; 300_000];
        let answer = client.send(http::Request::post(WRITE).header("te", "trailers"), body.clone()).await;
        assert_eq!(answer.status, 200, "{transport:?} {answer:?}");
        assert_eq!(answer.body, body);
        assert_eq!(answer.trailers.unwrap()["bytes"], "300000", "{transport:?}");
        let id = answer.headers["x-request-id"].to_str().unwrap().to_owned();
        assert_eq!(answer.headers["seen"], format!("Some({transport:?}) Some(127.0.0.1) {id}"));
        assert_eq!(answer.headers["nearfield-region"], "local");
        assert!(answer.headers.contains_key("date"));
    }
    assert!(edge.gateway.shutdown().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_the_same_problem_on_every_transport() {
    let edge = Edge::start(|_| {}, hyper::service::service_fn(echo)).await;
    for transport in TRANSPORTS {
        let mut client = edge.connect(transport).await;
        let answer = client.get("/nothing").await;
        assert_eq!((answer.status, answer.header("content-type")), (404, "application/problem+json"), "{transport:?}");
        assert_eq!(answer.json()["request_id"], answer.header("x-request-id"));
        let answer = client.send(http::Request::put("/api/v1/search"), "").await;
        assert_eq!((answer.status, answer.header("allow")), (405, "GET, HEAD, POST, QUERY, OPTIONS"), "{transport:?}");
        let answer = client.get("/health/ready").await;
        assert_eq!((answer.status, &answer.body[..]), (200, &b"{\"status\":\"ready\"}\n"[..]), "{transport:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http3_is_advertised_on_the_number_that_serves_it() {
    let edge = Edge::start(|_| {}, hyper::service::service_fn(echo)).await;
    let expected = format!("h3=\":{}\"; ma=86400", edge.gateway.https_addr().port());
    assert_eq!(edge.connect(Transport::Http1).await.get("/").await.header("alt-svc"), expected);
    assert_eq!(edge.connect(Transport::Http2).await.get("/").await.header("alt-svc"), expected);
    assert_eq!(edge.connect(Transport::Http3).await.get("/").await.header("alt-svc"), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn ipv6_is_served_beside_ipv4() {
    let listen = |config: &mut nearfield_gateway::config::Config| {
        config.listener.https = vec!["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()];
    };
    let edge = Edge::start(listen, hyper::service::service_fn(echo)).await;
    let addrs = edge.gateway.https_addrs().to_vec();
    assert_eq!(addrs[0].port(), addrs[1].port());
    for transport in TRANSPORTS {
        let mut client = edge.connect_to(addrs[1], transport).await;
        let answer = client.get(READ).await;
        assert!(answer.header("seen").contains("Some(::1)"), "{answer:?}");
    }
}
