//! WebSockets over an HTTP/1.1 upgrade and over an HTTP/2 stream, in memory.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use http::Method;
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo};
use nearfield_auth::{Principal, Scope, Scopes};
use nearfield_gateway::body::{self, Request};
use nearfield_gateway::request::Caller;
use nearfield_gateway::{rescue, websocket};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::support::Inside;

/// A connection to the gateway's inside, served as the edge would serve it.
fn connect(inside: &Inside, scopes: Scopes) -> tokio::io::DuplexStream {
    let (near, far) = tokio::io::duplex(1 << 16);
    let dispatch = inside.dispatch.clone();
    let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let mut request = request.map(body::boxed);
        let principal =
            Principal { subject: "test".to_owned(), tenant: None, plan: None, scopes, expires: None, key: None };
        request.extensions_mut().insert(Caller(principal.into()));
        let answered = hyper::service::Service::call(&dispatch, request);
        async { Ok::<_, std::convert::Infallible>(answered.await.unwrap_or_else(|e| rescue::response(&e, None))) }
    });
    tokio::spawn(async move {
        let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        builder.http2().enable_connect_protocol();
        let _ = builder.serve_connection_with_upgrades(TokioIo::new(far), service).await;
    });
    near
}

fn all() -> Scopes {
    Scopes::default().with(Scope::VectorsRead).with(Scope::VectorsWrite)
}

struct Socket<S>(WebSocketStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    async fn send(&mut self, message: Value) {
        self.0.send(Message::text(message.to_string())).await.unwrap();
    }

    async fn next(&mut self) -> Value {
        loop {
            match self.0.next().await.unwrap().unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn close_code(&mut self) -> u16 {
        loop {
            match self.0.next().await.unwrap().unwrap() {
                Message::Close(frame) => return frame.unwrap().code.into(),
                Message::Binary(_) | Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }
}

async fn over_http1(inside: &Inside, scopes: Scopes) -> Socket<tokio::io::DuplexStream> {
    let (socket, _) =
        tokio_tungstenite::client_async("ws://localhost/api/v1/ws", connect(inside, scopes)).await.unwrap();
    Socket(socket)
}

async fn over_http2(inside: &Inside) -> Socket<TokioIo<hyper::upgrade::Upgraded>> {
    let io = TokioIo::new(connect(inside, all()));
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let mut request: Request = http::Request::builder()
        .method(Method::CONNECT)
        .uri("https://localhost/api/v1/ws")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "nearfield.v1, bearer.x")
        .body(body::empty())
        .unwrap();
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    let mut response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["sec-websocket-protocol"], "nearfield.v1");
    let upgraded = hyper::upgrade::on(&mut response).await.unwrap();
    Socket(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await)
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(mut socket: Socket<S>) {
    let search = json!({"type": "search", "id": "q1", "collection": "c", "query": [1, 0], "k": 30});
    socket.send(search.clone()).await;
    for _ in 0..30 {
        let hit = socket.next().await;
        assert_eq!((&hit["type"], &hit["id"]), (&json!("result"), &json!("q1")), "{hit}");
        assert!(hit["vector_id"].is_string() && hit["score"].is_number() && hit["metadata"].is_object(), "{hit}");
    }
    assert_eq!(socket.next().await, json!({"type": "search_complete", "id": "q1", "total_results": 30}));
    let mut whole = search;
    whole["stream"] = json!(false);
    socket.send(whole).await;
    let results = socket.next().await;
    assert_eq!((&results["type"], results["results"].as_array().unwrap().len()), (&json!("results"), 30));

    let point = json!({"id": "new", "values": [0, 1]});
    socket.send(json!({"type": "insert", "id": "w1", "collection": "c", "vectors": [point]})).await;
    let ack = socket.next().await;
    assert_eq!((&ack["type"], &ack["id"], &ack["inserted"]), (&json!("ack"), &json!("w1"), &json!(1)), "{ack}");
    socket
        .send(json!({"type": "update", "id": "w2", "vector_id": "new", "collection": "c", "metadata": {"x": 1}}))
        .await;
    assert_eq!(socket.next().await["version"], 2);
    socket.send(json!({"type": "delete", "id": "w3", "collection": "c", "ids": ["new"]})).await;
    assert_eq!(socket.next().await["deleted"], 1);
    socket.send(json!({"type": "ping", "id": "p"})).await;
    assert_eq!(socket.next().await, json!({"type": "pong", "id": "p"}));

    socket.0.send(Message::text("{")).await.unwrap();
    assert_eq!(socket.next().await["problem"]["status"], 400);
    socket.send(json!({"type": "search", "id": "bad", "collection": "none", "query": [1]})).await;
    let error = socket.next().await;
    assert_eq!((&error["id"], &error["problem"]["status"]), (&json!("bad"), &json!(404)), "{error}");
    socket.0.close(None).await.unwrap();
}

#[tokio::test]
async fn a_conversation_over_http1() {
    let inside = Inside::start().await;
    inside.fill(40).await;
    converse(over_http1(&inside, all()).await).await;
}

#[tokio::test]
async fn a_conversation_over_http2() {
    let inside = Inside::start().await;
    inside.fill(40).await;
    converse(over_http2(&inside).await).await;
}

#[tokio::test]
async fn many_requests_run_at_once() {
    let inside = Inside::start().await;
    inside.fill(40).await;
    let mut socket = over_http1(&inside, all()).await;
    for i in 0..200 {
        socket.send(json!({"type": "search", "id": format!("q{i}"), "collection": "c", "query": [1, 0], "k": 3, "stream": i % 2 == 0})).await;
    }
    let mut open: std::collections::HashSet<String> = (0..200).map(|i| format!("q{i}")).collect();
    while !open.is_empty() {
        let message = socket.next().await;
        assert_ne!(message["type"], "error", "{message}");
        if message["type"] != "result" {
            assert!(open.remove(message["id"].as_str().unwrap()), "{message}");
        }
    }
}

#[tokio::test]
async fn a_write_needs_its_scope() {
    let inside = Inside::start().await;
    inside.fill(1).await;
    let mut socket = over_http1(&inside, Scopes::default().with(Scope::VectorsRead)).await;
    socket.send(json!({"type": "delete", "id": "w", "collection": "c", "ids": ["p0"]})).await;
    assert_eq!(socket.next().await["problem"]["status"], 403);
    socket.send(json!({"type": "search", "id": "q", "collection": "c", "query": [1, 0], "stream": false})).await;
    assert_eq!(socket.next().await["results"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_drain_closes_with_1001() {
    let inside = Inside::start().await;
    let mut socket = over_http1(&inside, all()).await;
    socket.send(json!({"type": "ping"})).await;
    socket.next().await;
    let (finished, code) = tokio::join!(inside.drain.finish(Duration::from_secs(10)), socket.close_code());
    assert_eq!((finished, code), (true, 1001));
}

#[tokio::test]
async fn a_message_too_large_closes_with_1009() {
    let inside = Inside::start().await;
    let small = websocket::Config { message_bytes_max: 1000, ..websocket::Config::default() };
    let url = format!("http://{}", inside.searchd.as_ref().unwrap().grpc_addr());
    let inside = Inside::around(vec![url], small).await;
    let mut socket = over_http1(&inside, all()).await;
    socket.0.send(Message::text(" ".repeat(2000))).await.unwrap();
    assert_eq!(socket.close_code().await, 1009);
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_pinged_and_then_closed() {
    let inside = Inside::around(Vec::new(), websocket::Config::default()).await;
    let (mut client, started) = (over_http1(&inside, all()).await, tokio::time::Instant::now());
    // Reading answers the pings by itself, so only whole silence counts: the raw stream is read, nothing is written.
    let ping = client.0.get_mut();
    let mut frame = [0; 2];
    tokio::io::AsyncReadExt::read_exact(ping, &mut frame).await.unwrap();
    assert_eq!((frame[0], started.elapsed().as_secs()), (0x89, 60));
    tokio::io::AsyncReadExt::read_exact(ping, &mut frame).await.unwrap();
    assert_eq!((frame[0], started.elapsed().as_secs()), (0x88, 90));
}
