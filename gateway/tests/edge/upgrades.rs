//! WebSockets leave HTTP on HTTP/1.1 (Upgrade) and on HTTP/2 (extended CONNECT, RFC 8441): the innermost service finds
//! hyper's `OnUpgrade` in the extensions, through all layers.

use http::{Method, StatusCode, header};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use nearfield_gateway::body::{self, Request, Response};
use nearfield_gateway::error::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Connection, Edge, Transport};

/// Takes the connection over and echoes bytes.
async fn echo(mut request: Request) -> Result<Response, Error> {
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
        tokio::io::copy(&mut read, &mut write).await.unwrap();
    });
    let mut response = Response::new(body::empty());
    if request.method() == Method::CONNECT {
        assert_eq!(request.extensions().get::<hyper::ext::Protocol>().unwrap().as_str(), "websocket");
        return Ok(response);
    }
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::UPGRADE, "websocket".parse().unwrap());
    response.headers_mut().insert(header::CONNECTION, "upgrade".parse().unwrap());
    Ok(response)
}

async fn check(upgraded: hyper::upgrade::Upgraded) {
    let mut io = TokioIo::new(upgraded);
    for message in [&b"first"[..], &[7; 100_000]] {
        io.write_all(message).await.unwrap();
        let mut back = vec![0; message.len()];
        io.read_exact(&mut back).await.unwrap();
        assert_eq!(back, message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http1_upgrades() {
    let edge = Edge::start(|_| {}, hyper::service::service_fn(echo)).await;
    let Connection::Http1(mut sender) = edge.connect(Transport::Http1).await.connection else { panic!("HTTP/1.1") };
    let request = http::Request::get("/api/v1/ws")
        .header("host", "localhost")
        .header("authorization", edge.authorization.clone())
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("accept-encoding", "br")
        .body(Full::default())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    check(hyper::upgrade::on(response).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_connects() {
    let edge = Edge::start(|_| {}, hyper::service::service_fn(echo)).await;
    let mut client = edge.connect(Transport::Http2).await;
    // Its answer comes behind the settings that allow extended CONNECT.
    assert_eq!(client.get("/health/ready").await.status, 200);
    let Connection::Http2(mut sender) = client.connection else { panic!("HTTP/2") };
    let request = http::Request::builder()
        .method(Method::CONNECT)
        .uri("https://localhost/api/v1/ws")
        .header("authorization", edge.authorization.clone())
        .extension(hyper::ext::Protocol::from_static("websocket"))
        .body(Full::default())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    check(hyper::upgrade::on(response).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_connect_is_no_route() {
    let edge = Edge::start(|_| {}, hyper::service::service_fn(echo)).await;
    let Connection::Http2(mut sender) = edge.connect(Transport::Http2).await.connection else { panic!("HTTP/2") };
    let request = http::Request::builder()
        .method(Method::CONNECT)
        .uri("example.com:443")
        .body(Full::<bytes::Bytes>::default())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
}
