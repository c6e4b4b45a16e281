//! Streams that end before their time: with their caller's key, or because they are idle and the process must shed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use http_body_util::StreamBody;
use nearfield_auth::api_key::{ApiKeys, Location, NewKey};
use nearfield_auth::{Scope, Scopes};
use nearfield_gateway::body::{self, BodyError, Request, Response};
use nearfield_gateway::config::Config;
use nearfield_gateway::error::Error;
use tokio::sync::Semaphore;

use crate::support::{Answer, Client, Edge, TRANSPORTS, Transport};

const EVENTS: &str = "/api/v1/stream/search?query_vector_id=a";
const GRPC: &str = "/nearfield.v1.VectorSearch/StreamSearch";

/// An edge around streams that say one thing and then nothing for ever; a permit tells of each that has begun.
async fn silent(set: impl FnOnce(&mut Config)) -> (Edge, Arc<Semaphore>) {
    let begun = Arc::new(Semaphore::new(0));
    let begins = begun.clone();
    let inner = hyper::service::service_fn(move |_: Request| {
        let begins = begins.clone();
        async move {
            let first = futures::stream::once(async move {
                begins.add_permits(1);
                Ok::<_, BodyError>(Frame::data(Bytes::from_static(b": first\n\n")))
            });
            let frames = futures::StreamExt::chain(first, futures::stream::pending());
            Ok::<_, Error>(Response::new(body::boxed(StreamBody::new(frames))))
        }
    });
    (Edge::start(set, inner).await, begun)
}

async fn asked(client: &mut Client, path: &'static str, key: Option<&str>) -> Answer {
    let mut request = if path == GRPC { http::Request::post(path) } else { http::Request::get(path) };
    if path == GRPC {
        request = request.header("content-type", "application/grpc").header("te", "trailers");
    }
    if let Some(key) = key {
        request = request.header("x-api-key", key);
    }
    tokio::time::timeout(Duration::from_secs(60), client.send(request, "")).await.expect("the stream never ended")
}

fn told(answer: &Answer, path: &str, code: &str, reason: &str) {
    if path == GRPC {
        let trailers = answer.trailers.as_ref().unwrap();
        assert_eq!(trailers["grpc-status"], code, "{trailers:?}");
    } else {
        let text = std::str::from_utf8(&answer.body).unwrap();
        assert!(text.starts_with(": first\n\ndata: {\"event\":\"error\"") && text.contains(reason), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_the_key_of_its_caller_is_revoked() {
    let directory = tempfile::tempdir().unwrap();
    let location = Location::from(directory.path().join("keys.db"));
    let keys = ApiKeys::open(location.clone()).await.unwrap();
    let (edge, begun) = silent(|config| config.auth.api_keys = Some(location)).await;
    for (transport, path) in TRANSPORTS.map(|t| (t, EVENTS)).into_iter().chain([(Transport::Http2, GRPC)]) {
        let scopes = Scopes::default().with(Scope::VectorsRead);
        let new = NewKey { subject: "ci".to_owned(), scopes, tenant: None, plan: None, ttl: None };
        let (key, record) = keys.create(new).await.unwrap();
        let mut client = Client { authorization: None, ..edge.connect(transport).await };
        let streaming = asked(&mut client, path, Some(&key));
        let revoking = async {
            begun.acquire().await.unwrap().forget();
            assert!(keys.revoke(&record.id).await.unwrap());
        };
        let (answer, ()) = tokio::join!(streaming, revoking);
        told(&answer, path, "16", "the API key has been revoked");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_streams_end_with_a_reason_when_the_process_must_shed() {
    let (edge, _begun) = silent(|config| {
        let pressure = &mut config.shed.pressure;
        (pressure.enabled, pressure.interval) = (true, Duration::from_millis(20));
        // Any memory in use is too much.
        (pressure.throttle_at, pressure.close_idle_at, pressure.refuse_at) = (1.0, 1e-9, 1.0);
        (pressure.idle, pressure.p99) = (Duration::from_millis(1), Duration::from_secs(3_600));
    })
    .await;
    for (transport, path) in [(Transport::Http1, EVENTS), (Transport::Http2, GRPC), (Transport::Http3, EVENTS)] {
        let answer = asked(&mut edge.connect(transport).await, path, None).await;
        told(&answer, path, "14", "short of memory");
    }
}
