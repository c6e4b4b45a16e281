//! The gRPC API: through the gateway's public port and at searchd's own, the same calls and the same answers.

use anyhow::{Context, Result};
use nearfield_proto::v1::collections_client::CollectionsClient;
use nearfield_proto::v1::vector_search_client::VectorSearchClient;
use nearfield_proto::v1::{self, batch_search_item::Outcome};
use nearfield_testkit::grpc::{self, AuthorizedChannel, Credentials};
use nearfield_testkit::{Claims, Protocol};
use serde_json::json;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_types::StatusExt;

use crate::space::dev;

async fn gateway(credentials: Credentials) -> Result<AuthorizedChannel> {
    grpc::gateway(&dev()?.https()?, &dev()?.ca(), credentials).await
}

/// One tenant's channel through the gateway, and one straight to searchd.
async fn both(tenant: &str) -> Result<[(&'static str, AuthorizedChannel); 2]> {
    let token = dev()?.token(&Claims::of_tenant(tenant))?;
    let direct = grpc::searchd(&dev()?.grpc()?, Credentials::tenant(tenant)?).await?;
    Ok([("gateway", gateway(Credentials::bearer(&token)?).await?), ("searchd", direct)])
}

fn point(i: usize) -> v1::Point {
    let values = nearfield_testkit::vectors::clustered(61, 60, 4, 3).swap_remove(i);
    v1::Point { id: format!("p{i:02}"), values, metadata: json!({"i": i}).to_string().into() }
}

fn search(collection: &str, k: i32) -> v1::SearchRequest {
    let query = vec![0.3, -0.2, 0.9, 0.1];
    v1::SearchRequest { collection: collection.to_owned(), query, k, ..Default::default() }
}

async fn create(channel: &AuthorizedChannel, name: &str) -> Result<()> {
    let settings = v1::CollectionSettings { dimension: 4, ..Default::default() };
    let request = v1::CreateCollectionRequest { name: name.to_owned(), settings: Some(settings) };
    let answer = CollectionsClient::new(channel.clone()).create(request).await?.into_inner();
    anyhow::ensure!(answer.created, "{name} is new");
    Ok(())
}

#[tokio::test]
async fn points_are_written_found_and_deleted() -> Result<()> {
    for (way, channel) in both("grpc-life").await? {
        create(&channel, way).await?;
        let mut client = VectorSearchClient::new(channel.clone());
        let insert = v1::InsertRequest { collection: way.to_owned(), vectors: (0..30).map(point).collect() };
        assert_eq!(client.insert(insert).await?.into_inner().inserted, 30);
        let more = (30..60).map(|i| v1::InsertRequest { collection: way.to_owned(), vectors: vec![point(i)] });
        let stored = client.insert_stream(futures::stream::iter(more)).await?.into_inner();
        assert_eq!(stored.inserted, 30);
        let session = stored.session;

        let request = v1::SearchRequest { session: session.clone(), ..search(way, 100) };
        let found = client.search(request.clone()).await?.into_inner();
        assert_eq!((found.results.len(), found.total_results), (60, 60), "{way}");
        assert!(found.results.windows(2).all(|w| w[0].score >= w[1].score));

        let update = v1::UpdateRequest {
            collection: way.to_owned(),
            id: "p00".to_owned(),
            metadata: r#"{"j":1}"#.into(),
            ..Default::default()
        };
        let updated = client.update(update).await?.into_inner();
        assert_eq!(updated.version, 2);
        let fetch = v1::FetchRequest {
            collection: way.to_owned(),
            ids: vec!["p00".to_owned(), "nobody".to_owned()],
            session: updated.session,
        };
        let records = client.fetch(fetch).await?.into_inner().records;
        assert_eq!(records.len(), 1);
        let metadata: serde_json::Value = serde_json::from_slice(&records[0].metadata)?;
        assert_eq!((metadata, records[0].version), (json!({"i": 0, "j": 1}), 2));

        let delete =
            v1::DeleteRequest { collection: way.to_owned(), ids: vec!["p00".to_owned()], ..Default::default() };
        let deleted = client.delete(delete).await?.into_inner();
        assert_eq!(deleted.deleted, 1);
        let scan = v1::ScanRequest { collection: way.to_owned(), session: deleted.session, ..Default::default() };
        let mut records = client.scan(scan).await?.into_inner();
        let mut count = 0;
        while records.message().await?.is_some() {
            count += 1;
        }
        assert_eq!(count, 59, "{way}");
    }
    Ok(())
}

#[tokio::test]
async fn streams_carry_the_hits_of_the_unary_search() -> Result<()> {
    for (way, channel) in both("grpc-streams").await? {
        create(&channel, way).await?;
        let mut client = VectorSearchClient::new(channel);
        let insert = v1::InsertRequest { collection: way.to_owned(), vectors: (0..60).map(point).collect() };
        let session = client.insert(insert).await?.into_inner().session;
        let request = v1::SearchRequest { session: session.clone(), ..search(way, 25) };
        let expected: Vec<String> =
            client.search(request.clone()).await?.into_inner().results.into_iter().map(|r| r.vector_id).collect();

        let mut stream = client.stream_search(request.clone()).await?.into_inner();
        let mut found = Vec::new();
        let mut last = None;
        while let Some(hit) = stream.message().await? {
            if !hit.vector_id.is_empty() {
                found.push(hit.vector_id);
            }
            last = hit.last.then_some(hit.total_results);
        }
        assert_eq!((found, last), (expected.clone(), Some(25)), "{way}");

        let good = |id: &str| v1::SearchRequest { request_id: id.to_owned(), ..request.clone() };
        let bad = v1::SearchRequest { query: vec![1.0], request_id: "bad".to_owned(), ..request.clone() };
        let requests = futures::stream::iter([good("a"), bad, good("b")]);
        let mut stream = client.bidirectional_search(requests).await?.into_inner();
        let (mut of_a, mut of_b, mut problem) = (Vec::new(), Vec::new(), None);
        while let Some(hit) = stream.message().await? {
            match hit.request_id.as_str() {
                "bad" => problem = hit.problem,
                _ if hit.vector_id.is_empty() => {}
                "a" => of_a.push(hit.vector_id),
                _ => of_b.push(hit.vector_id),
            }
        }
        assert_eq!((of_a, of_b), (expected.clone(), expected), "{way}");
        assert_eq!(problem.context("the bad search is told")?.code, Code::InvalidArgument as i32);
    }
    Ok(())
}

#[tokio::test]
async fn the_bidirectional_stream_answers_before_it_is_closed() -> Result<()> {
    for (way, channel) in both("grpc-bidi").await? {
        create(&channel, way).await?;
        let mut client = VectorSearchClient::new(channel);
        let insert = v1::InsertRequest { collection: way.to_owned(), vectors: (0..5).map(point).collect() };
        let session = client.insert(insert).await?.into_inner().session;
        let (requests, receiver) = tokio::sync::mpsc::channel(1);
        let request = v1::SearchRequest { session, ..search(way, 5) };
        requests.send(v1::SearchRequest { request_id: "0".to_owned(), ..request.clone() }).await?;
        let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let mut answers = client.bidirectional_search(stream).await?.into_inner();
        for round in 0..3 {
            loop {
                let hit = answers.message().await?.context("an answer while the stream is open")?;
                assert_eq!(hit.request_id, round.to_string(), "{way}");
                if hit.last {
                    break;
                }
            }
            let next = v1::SearchRequest { request_id: (round + 1).to_string(), ..request.clone() };
            requests.send(next).await?;
        }
        drop(requests);
        while answers.message().await?.is_some() {}
    }
    Ok(())
}

#[tokio::test]
async fn a_batch_mixes_answers_and_problems() -> Result<()> {
    for (way, channel) in both("grpc-batch").await? {
        create(&channel, way).await?;
        let mut client = VectorSearchClient::new(channel);
        let searches =
            vec![search(way, 3), v1::SearchRequest { query: vec![1.0], ..search(way, 3) }, search("nowhere", 3)];
        let answer = client.batch_search(v1::BatchSearchRequest { searches }).await?.into_inner();
        let codes: Vec<i32> = answer
            .responses
            .iter()
            .map(|item| match &item.outcome {
                Some(Outcome::Problem(problem)) => problem.code,
                _ => 0,
            })
            .collect();
        assert_eq!(codes, [0, Code::InvalidArgument as i32, Code::NotFound as i32], "{way}");
    }
    Ok(())
}

#[tokio::test]
async fn a_bad_request_names_the_field() -> Result<()> {
    for (way, channel) in both("grpc-bad").await? {
        create(&channel, way).await?;
        let mut client = VectorSearchClient::new(channel.clone());
        let short = v1::Point { values: vec![1.0], ..point(0) };
        let insert = v1::InsertRequest { collection: way.to_owned(), vectors: vec![point(1), short] };
        let status = client.insert(insert).await.err().context("refused")?;
        assert_eq!(status.code(), Code::InvalidArgument, "{way}: {status:?}");
        let details = status.get_details_bad_request().context("google.rpc.BadRequest")?;
        assert_eq!(details.field_violations[0].field, "/vectors/1/values", "{way}");
        for (request, code) in [
            (search("nowhere", 3), Code::NotFound),
            (search(way, -1), Code::InvalidArgument),
            (search(way, 10_001), Code::InvalidArgument),
            (v1::SearchRequest { metric: "dot".to_owned(), ..search(way, 3) }, Code::InvalidArgument),
            (v1::SearchRequest { filter: "{".into(), ..search(way, 3) }, Code::InvalidArgument),
            (v1::SearchRequest { session: "nonsense".to_owned(), ..search(way, 3) }, Code::InvalidArgument),
        ] {
            let status = client.search(request).await.err().context("refused")?;
            assert_eq!(status.code(), code, "{way}: {status:?}");
        }
        let differs = v1::CreateCollectionRequest {
            name: way.to_owned(),
            settings: Some(v1::CollectionSettings { dimension: 9, ..Default::default() }),
        };
        let status = CollectionsClient::new(channel).create(differs).await.err().context("refused")?;
        assert!(matches!(status.code(), Code::AlreadyExists | Code::Aborted), "{way}: {status:?}");
    }
    Ok(())
}

#[tokio::test]
async fn health_and_reflection_need_no_credentials() -> Result<()> {
    let direct = grpc::searchd(&dev()?.grpc()?, Credentials::none()).await?;
    for (way, channel) in [("gateway", gateway(Credentials::none()).await?), ("searchd", direct)] {
        let check = HealthCheckRequest { service: String::new() };
        let health = HealthClient::new(channel.clone()).check(check).await?.into_inner();
        assert_eq!(health.status, 1, "{way} serves");
        let watch = HealthCheckRequest { service: String::new() };
        let first = HealthClient::new(channel.clone()).watch(watch).await?.into_inner().message().await?;
        assert_eq!(first.context("a first status")?.status, 1, "{way}");
        let unknown = HealthCheckRequest { service: "no.such.Service".to_owned() };
        let status = HealthClient::new(channel.clone()).check(unknown).await.err().context("refused")?;
        assert_eq!(status.code(), Code::NotFound, "{way}");

        let list = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let requests = futures::stream::iter([list]);
        let mut answers = ServerReflectionClient::new(channel).server_reflection_info(requests).await?.into_inner();
        let answer = answers.message().await?.context("an answer")?.message_response.context("a message")?;
        let MessageResponse::ListServicesResponse(services) = answer else { anyhow::bail!("{way}: {answer:?}") };
        let names: Vec<String> = services.service.into_iter().map(|s| s.name).collect();
        assert!(names.contains(&"nearfield.v1.VectorSearch".to_owned()), "{way}: {names:?}");
        assert!(names.contains(&"nearfield.v1.Collections".to_owned()), "{way}: {names:?}");
    }
    Ok(())
}

#[tokio::test]
async fn the_gateway_asks_for_credentials_and_scopes() -> Result<()> {
    let mut open = VectorSearchClient::new(gateway(Credentials::none()).await?);
    let status = open.search(search("c", 1)).await.err().context("refused")?;
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    let claims = Claims { scope: "vectors:read".to_owned(), ..Claims::of_tenant("grpc-scope") };
    let reader = gateway(Credentials::bearer(&dev()?.token(&claims)?)?).await?;
    let insert = v1::InsertRequest { collection: "c".to_owned(), vectors: vec![point(0)] };
    let status = VectorSearchClient::new(reader).insert(insert).await.err().context("refused")?;
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    Ok(())
}

#[tokio::test]
async fn a_caller_cannot_choose_another_tenant() -> Result<()> {
    let [(_, owner), _] = both("grpc-owner").await?;
    create(&owner, "mine").await?;
    let token = dev()?.token(&Claims::of_tenant("grpc-thief"))?;
    let thief = gateway(Credentials::bearer(&token)?).await?;
    let mut request = tonic::Request::new(search("mine", 1));
    request.metadata_mut().insert(nearfield_proto::TENANT_METADATA, "grpc-owner".parse()?);
    let status = VectorSearchClient::new(thief).search(request).await.err().context("refused")?;
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    // Nor over HTTP, where the metadata would be a header.
    let client =
        dev()?.client(Protocol::Http2)?.with_bearer(&token).with_header(nearfield_proto::TENANT_METADATA, "grpc-owner");
    client.get("/api/v1/collections/mine").send().await?.problem(404)?;
    Ok(())
}
