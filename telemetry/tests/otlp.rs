//! Spans reach a collector over gRPC, as parts of the caller's trace, the last of them by the flush at the end.

use std::convert::Infallible;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use nearfield_telemetry::otlp::{self, Identity};
use nearfield_telemetry::trace_context::TraceContext;
use nearfield_telemetry::{logging, settings};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// Takes exports and passes on their bodies.
async fn collector() -> Result<(SocketAddr, mpsc::UnboundedReceiver<(String, Bytes)>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (exports, received) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let exports = exports.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let exports = exports.clone();
                async move {
                    let path = request.uri().path().to_owned();
                    if let Ok(body) = request.into_body().collect().await {
                        let _ = exports.send((path, body.to_bytes()));
                    }
                    Ok::<_, Infallible>(accepted())
                }
            });
            tokio::spawn(async move {
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                builder.serve_connection(TokioIo::new(stream), service).await
            });
        }
    });
    Ok((address, received))
}

/// An empty message, and the status in the trailers.
fn accepted() -> Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [Ok(Frame::data(Bytes::from_static(&[0; 5]))), Ok(Frame::trailers(trailers))];
    let mut response = Response::new(StreamBody::new(futures::stream::iter(frames)));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

fn contains(body: &[u8], needle: &[u8]) -> bool {
    body.windows(needle.len()).any(|window| window == needle)
}

async fn export() -> Result<(String, Bytes, TraceContext)> {
    let (address, mut received) = collector().await?;
    let otlp: otlp::Config = settings::compose(&json!({ "endpoint": format!("http://{address}") }))?;
    let identity = Identity { service: "searchd", region: "europe-west1".to_owned(), instance: "searchd-7".to_owned() };
    let guard = logging::start(&logging::Config::default(), &otlp, &identity)?;

    let mut headers = HeaderMap::new();
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    headers.insert("traceparent", HeaderValue::from_static(parent));
    let span = tracing::info_span!("hnsw search", k = 10);
    let context = TraceContext::begin(&headers, &span);
    drop(span);
    guard.finish().await;
    let (path, body) = received.recv().await.context("an export")?;
    Ok((path, body, context))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_are_exported_as_parts_of_the_callers_trace() {
    let (path, body, context) = export().await.unwrap();
    assert_eq!(path, "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
    for text in ["hnsw search", "searchd-7", "europe-west1"] {
        assert!(contains(&body, text.as_bytes()), "{text} is missing");
    }
    let trace = 0x4bf92f3577b34da6a3ce929d0e0e4736_u128.to_be_bytes();
    let parent = 0x00f067aa0ba902b7_u64.to_be_bytes();
    assert!(contains(&body, &trace) && contains(&body, &parent), "the trace or its parent is missing");
    assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
    // What is passed on names the exported span, so that the next tier's spans hang below it.
    let passed_on = context.to_string();
    let span = passed_on.split('-').nth(2).unwrap();
    assert!(contains(&body, &u64::from_str_radix(span, 16).unwrap().to_be_bytes()), "{passed_on}");
}
