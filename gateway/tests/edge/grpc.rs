//! gRPC through the edge: trailers survive, refusals are gRPC's, compression stays off.

use http_body_util::BodyExt;
use nearfield_gateway::body::{self, Request, Response};
use nearfield_gateway::error::Error;
use tower::ServiceExt;

use crate::support::{Answer, Edge, Transport};

/// An empty `HealthCheckRequest`, framed.
const EMPTY: [u8; 5] = [0; 5];

async fn call(edge: &Edge, path: &str) -> Answer {
    let mut client = edge.connect(Transport::Http2).await;
    let request = http::Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("accept-encoding", "br, gzip");
    client.send(request, EMPTY.to_vec()).await
}

/// A tonic server, called not from an async block: its future is not general enough there.
fn health(request: Request) -> futures::future::BoxFuture<'static, Result<Response, Error>> {
    let (_, service) = tonic_health::server::health_reporter();
    let answer = service.oneshot(request.map(tonic::body::Body::new));
    Box::pin(async move {
        let response = answer.await.unwrap_or_else(|never| match never {});
        Ok(response.map(|b| body::boxed(b.map_err(body::BodyError::from))))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tonic_server_answers_through_the_edge_with_its_trailers() {
    let edge = Edge::start(|_| {}, hyper::service::service_fn(health)).await;
    let answer = call(&edge, "/grpc.health.v1.Health/Check").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/grpc"));
    assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
    // One message: { status: SERVING }.
    assert_eq!(&answer.body[..], [0, 0, 0, 0, 2, 8, 1]);
    assert!(!answer.headers.contains_key("content-encoding"));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_told_in_grpcs_way() {
    let edge = Edge::start(|_| {}, hyper::service::service_fn(health)).await;
    let answer = call(&edge, "/nearfield.v1.VectorSearch/Guess").await;
    assert_eq!((answer.status, answer.header("grpc-status")), (200, "12"));
    assert!(answer.body.is_empty());
}
