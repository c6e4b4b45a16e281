//! gRPC passed through, by tonic's own client.

use futures::future::BoxFuture;
use http_body_util::BodyExt;
use nearfield_gateway::body::{self, BodyError};
use nearfield_gateway::dispatch::Dispatch;
use nearfield_gateway::request::Caller;
use nearfield_gateway::rescue;
use nearfield_proto::v1::collections_client::CollectionsClient;
use nearfield_proto::v1::vector_search_client::VectorSearchClient;
use nearfield_proto::v1::{
    CollectionSettings, CreateCollectionRequest, InsertRequest, ListCollectionsRequest, Point, SearchRequest,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;
use tower::{Service, ServiceExt};

use crate::support::Inside;

/// Dispatch as tonic's client wants its transport.
#[derive(Clone)]
pub(crate) struct Channel {
    dispatch: Dispatch,
    tenant: Option<&'static str>,
}

impl Service<http::Request<tonic::body::Body>> for Channel {
    type Response = http::Response<tonic::body::Body>;
    type Error = BodyError;
    type Future = BoxFuture<'static, Result<Self::Response, BodyError>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), BodyError>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let mut request = request.map(body::boxed);
        if let Some(tenant) = self.tenant {
            let principal = nearfield_auth::Principal {
                subject: "test".to_owned(),
                tenant: Some(tenant.to_owned()),
                plan: None,
                scopes: nearfield_auth::Scopes::default(),
                expires: None,
                key: None,
            };
            request.extensions_mut().insert(Caller(principal.into()));
        }
        let answered = hyper::service::Service::call(&self.dispatch, request);
        Box::pin(async move {
            let response = answered.await.unwrap_or_else(|error| rescue::grpc_response(&error));
            Ok(response.map(|body| tonic::body::Body::new(body.map_err(|e| tonic::Status::unknown(e.to_string())))))
        })
    }
}

pub(crate) fn channel(inside: &Inside, tenant: Option<&'static str>) -> Channel {
    Channel { dispatch: inside.dispatch.clone(), tenant }
}

async fn create(channel: &Channel) {
    let settings = Some(CollectionSettings { dimension: 2, ..CollectionSettings::default() });
    let request = CreateCollectionRequest { name: "c".to_owned(), settings };
    assert!(CollectionsClient::new(channel.clone()).create(request).await.unwrap().into_inner().created);
}

fn point(i: u16) -> Point {
    Point { id: format!("p{i}"), values: vec![1.0, f32::from(i)], ..Point::default() }
}

fn search(id: &str) -> SearchRequest {
    SearchRequest {
        collection: "c".to_owned(),
        query: vec![1.0, 0.0],
        k: 3,
        request_id: id.to_owned(),
        ..SearchRequest::default()
    }
}

#[tokio::test]
async fn every_kind_of_call_passes() {
    let inside = Inside::start().await;
    let channel = channel(&inside, None);
    create(&channel).await;
    let mut client = VectorSearchClient::new(channel);
    let insert = |i| InsertRequest { collection: "c".to_owned(), vectors: vec![point(i)] };
    let inserted = client.insert_stream(futures::stream::iter((0..10).map(insert))).await.unwrap().into_inner();
    assert_eq!(inserted.inserted, 10);
    assert_eq!(client.search(search("")).await.unwrap().into_inner().total_results, 3);

    let mut hits = client.stream_search(search("")).await.unwrap().into_inner();
    let mut count = 0;
    while let Some(hit) = hits.message().await.unwrap() {
        count += usize::from(!hit.vector_id.is_empty());
    }
    assert_eq!(count, 3);

    // Answers come while the request is still open.
    let (requests, receiver) = tokio::sync::mpsc::channel(1);
    requests.send(search("0")).await.unwrap();
    let mut answers = client.bidirectional_search(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    for round in ["0", "1", "2"] {
        loop {
            let hit = answers.message().await.unwrap().unwrap();
            assert_eq!(hit.request_id, round);
            if hit.last {
                break;
            }
        }
        requests.send(search(&(round.parse::<u8>().unwrap() + 1).to_string())).await.unwrap();
    }
}

#[tokio::test]
async fn a_failure_passes_with_its_details() {
    let inside = Inside::start().await;
    let channel = channel(&inside, None);
    create(&channel).await;
    let bad = SearchRequest { query: vec![1.0], ..search("") };
    let status = VectorSearchClient::new(channel.clone()).search(bad).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "/query");
    let path = http::uri::PathAndQuery::from_static("/nearfield.v1.VectorSearch/Dance");
    let response = channel.clone().oneshot(
        http::Request::post(path.as_str())
            .header("content-type", "application/grpc")
            .body(tonic::body::Body::empty())
            .unwrap(),
    );
    assert_eq!(response.await.unwrap().headers()["grpc-status"], "12");
}

#[tokio::test]
async fn a_tenant_is_its_callers_and_nobody_elses() {
    let inside = Inside::start().await;
    create(&channel(&inside, Some("acme"))).await;
    let count = async |tenant, claimed: Option<&'static str>| {
        let mut request = tonic::Request::new(ListCollectionsRequest::default());
        if let Some(claimed) = claimed {
            request.metadata_mut().insert("nearfield-tenant", claimed.parse().unwrap());
        }
        let mut client = CollectionsClient::new(channel(&inside, tenant));
        client.list(request).await.unwrap().into_inner().collections.len()
    };
    assert_eq!(count(Some("acme"), None).await, 1);
    assert_eq!(count(Some("other"), Some("acme")).await, 0);
    assert_eq!(count(None, Some("acme")).await, 0);
}

#[tokio::test]
async fn health_is_the_gateways() {
    let inside = Inside::start().await;
    let mut client = HealthClient::new(channel(&inside, None));
    let ask = |service: &str| HealthCheckRequest { service: service.to_owned() };
    assert_eq!(client.check(ask("")).await.unwrap().into_inner().status, 1);
    assert_eq!(client.check(ask("nearfield.v1.VectorSearch")).await.unwrap().into_inner().status, 1);
    assert_eq!(client.check(ask("nothing")).await.unwrap_err().code(), Code::NotFound);
    let mut watch = client.watch(ask("")).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 1);
}
