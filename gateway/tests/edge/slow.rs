//! Clients that send or take too slowly: cut off, whatever the protocol.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use nearfield_gateway::body::{self, BodyError, Request, Response};
use nearfield_gateway::config::Config;
use nearfield_gateway::error::Error;
use quinn::crypto::rustls::QuicClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::support::{Connection, Edge, READ, TRANSPORTS, Transport, WRITE, tls, tls_config};

const SHORT: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(20);

/// Reads the body, as everything inside does.
async fn count(request: Request) -> Result<Response, Error> {
    let bytes = request.into_body().collect().await.map_err(Error::of_body)?.to_bytes();
    Ok(Response::new(body::full(bytes.len().to_string())))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_is_408() {
    let edge = Edge::start(|config: &mut Config| config.pace.grace = SHORT, hyper::service::service_fn(count)).await;
    let mut stream = tls(edge.gateway.https_addr(), &edge.certificate.der, &[b"http/1.1"]).await.unwrap();
    let authorization = edge.authorization.to_str().unwrap();
    let head = format!(
        "POST {WRITE} HTTP/1.1\r\nhost: x\r\nauthorization: {authorization}\r\ncontent-length: 100\r\n\r\nsome of it"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("body-timeout"), "{answer}");

    let Connection::Http3(mut sender, _endpoint) = edge.connect(Transport::Http3).await.connection else { panic!() };
    let request = http::Request::post(format!("https://localhost{WRITE}"))
        .header("authorization", edge.authorization.clone())
        .body(())
        .unwrap();
    let mut stream = sender.send_request(request).await.unwrap();
    stream.send_data(Bytes::from_static(b"some of it")).await.unwrap();
    let response = tokio::time::timeout(PATIENCE, stream.recv_response()).await.unwrap().unwrap();
    assert_eq!(response.status(), 408);
}

/// Answers without end, each of which tells when it is dropped.
fn endless(told: mpsc::UnboundedSender<()>) -> Response {
    struct Told(mpsc::UnboundedSender<()>);
    impl Drop for Told {
        fn drop(&mut self) {
            let _nobody = self.0.send(());
        }
    }
    let told = Told(told);
    let chunks = futures::stream::repeat(Bytes::from(vec![0; 64 << 10])).map(move |chunk| {
        let _kept = &told;
        Ok::<_, BodyError>(Frame::data(chunk))
    });
    Response::new(body::boxed(StreamBody::new(chunks)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_is_cut_off() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let answer = move |_request: Request| {
        let tell = tell.clone();
        async move { Ok::<_, Error>(endless(tell)) }
    };
    let edge =
        Edge::start(|config: &mut Config| config.listener.send_timeout = SHORT, hyper::service::service_fn(answer))
            .await;
    for transport in TRANSPORTS {
        let mut client = edge.connect(transport).await;
        // Not encoded, so that the answer is as large as it says.
        let request = http::Request::get(format!("https://localhost{READ}"))
            .header("host", "localhost")
            .header("authorization", edge.authorization.clone());
        // Their answers are held and never read.
        let _held: Box<dyn std::any::Any> = match &mut client.connection {
            Connection::Http1(sender) => {
                Box::new(sender.send_request(request.uri(READ).body(Full::default()).unwrap()).await.unwrap())
            }
            Connection::Http2(sender) => {
                Box::new(sender.send_request(request.body(Full::default()).unwrap()).await.unwrap())
            }
            Connection::Http3(sender, _) => {
                let mut stream = sender.send_request(request.body(()).unwrap()).await.unwrap();
                stream.finish().await.unwrap();
                assert_eq!(stream.recv_response().await.unwrap().status(), 200);
                Box::new(stream)
            }
        };
        tokio::time::timeout(PATIENCE, told.recv()).await.unwrap_or_else(|_| panic!("{transport:?}")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_http3_that_lets_nothing_be_sent_is_cut_off() {
    let set = |config: &mut Config| config.listener.http3.header_timeout = SHORT;
    let edge = Edge::start(set, hyper::service::service_fn(count)).await;
    let mut transport = quinn::TransportConfig::default();
    // No room on any stream, SETTINGS neither; and it stays.
    transport.stream_receive_window(0_u32.into()).keep_alive_interval(Some(SHORT / 3));
    let tls = QuicClientConfig::try_from(tls_config(&edge.certificate.der, &[b"h3"])).unwrap();
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport));
    let endpoint = quinn::Endpoint::client((std::net::Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let quic = endpoint.connect_with(config, edge.gateway.https_addr(), "localhost").unwrap().await.unwrap();
    tokio::time::timeout(PATIENCE, quic.closed()).await.unwrap();
}
