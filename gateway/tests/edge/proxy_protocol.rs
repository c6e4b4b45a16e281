//! A proxy in front that says by the PROXY protocol whom it speaks for.

use nearfield_gateway::body::{self, Request, Response};
use nearfield_gateway::config::Config;
use nearfield_gateway::error::Error;
use nearfield_gateway::request::ClientAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Edge, READ, Transport, tls_over};

/// Says who called.
async fn caller(request: Request) -> Result<Response, Error> {
    let ClientAddr(addr) = request.extensions().get().copied().unwrap();
    Ok(Response::new(body::full(addr.ip().to_string())))
}

async fn start(trusted: &str) -> Edge {
    let trusted = trusted.parse().unwrap();
    let set = move |config: &mut Config| config.listener.proxy_protocol.trusted = vec![trusted];
    Edge::start(set, hyper::service::service_fn(caller)).await
}

/// What is answered behind `header`; nothing when the connection is closed.
async fn ask(edge: &Edge, header: &[u8]) -> Option<String> {
    let mut tcp = TcpStream::connect(edge.gateway.https_addr()).await.unwrap();
    tcp.write_all(header).await.unwrap();
    let mut stream = tls_over(tcp, &edge.certificate.der, &[b"http/1.1"]).await.ok()?;
    let authorization = edge.authorization.to_str().unwrap();
    let request = format!(
        "GET {READ} HTTP/1.1\r\nhost: localhost\r\nauthorization: {authorization}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _closed = stream.read_to_string(&mut answer).await;
    answer.split("\r\n\r\n").nth(1).map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_says_who_calls_and_has_to() {
    let edge = start("127.0.0.0/8").await;
    let first = b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 443\r\n";
    assert_eq!(ask(&edge, first).await.as_deref(), Some("192.0.2.7"));
    let second =
        [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".as_slice(), &[198, 51, 100, 9, 192, 0, 2, 1, 0x13, 0x88, 0x01, 0xbb]];
    assert_eq!(ask(&edge, &second.concat()).await.as_deref(), Some("198.51.100.9"));
    assert_eq!(ask(&edge, b"PROXY UNKNOWN\r\n").await.as_deref(), Some("127.0.0.1"));
    assert_eq!(ask(&edge, b"").await, None);
    assert_eq!(ask(&edge, b"PROXY TCP4 nonsense\r\n").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_may() {
    let edge = start("10.0.0.0/8").await;
    assert_eq!(ask(&edge, b"").await.as_deref(), Some("127.0.0.1"));
    assert_eq!(ask(&edge, b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 443\r\n").await, None);
    // QUIC has no such header, and goes on.
    let mut client = edge.connect(Transport::Http3).await;
    assert_eq!(client.get(READ).await.status, 200);
}
