//! Collections: created, found alike or different, listed by tenant, deleted.

use nearfield_proto::v1;
use tonic::{Code, Request};

use crate::running::{Running, fields, point};

fn create(name: &str, dimension: u32) -> v1::CreateCollectionRequest {
    let settings = Some(v1::CollectionSettings { dimension, ..Default::default() });
    v1::CreateCollectionRequest { name: name.into(), settings }
}

#[tokio::test]
async fn creating_again_finds_it_alike_or_refuses() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = Running::start(directory.path()).await;
    assert!(running.collections.create(create("a", 3)).await.unwrap().into_inner().created);
    let again = running.collections.create(create("a", 3)).await.unwrap().into_inner();
    assert!(!again.created);
    let settings = again.collection.unwrap().settings.unwrap();
    assert_eq!((settings.metric.as_str(), settings.quantization.as_str(), settings.ef_search), ("cosine", "pq", 64));
    assert_eq!(running.collections.create(create("a", 4)).await.unwrap_err().code(), Code::AlreadyExists);
    let error = running.collections.create(create("No!", 0)).await.unwrap_err();
    assert_eq!((error.code(), fields(&error)), (Code::InvalidArgument, vec!["/name".into(), "/dimension".into()]));
    running.stop().await;
}

#[tokio::test]
async fn tenants_see_their_own() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = Running::start(directory.path()).await;
    let of = |tenant: &'static str, message| {
        let mut request = Request::new(message);
        request.metadata_mut().insert("nearfield-tenant", tenant.parse().unwrap());
        request
    };
    running.collections.create(of("t", create("a", 3))).await.unwrap();
    running.collections.create(of("u", create("a", 5))).await.unwrap();
    running.collections.create(create("b", 3)).await.unwrap();
    let mut request = Request::new(v1::ListCollectionsRequest::default());
    request.metadata_mut().insert("nearfield-tenant", "t".parse().unwrap());
    let listed = running.collections.list(request).await.unwrap().into_inner().collections;
    let names: Vec<_> = listed.iter().map(|c| (c.name.as_str(), c.settings.as_ref().unwrap().dimension)).collect();
    assert_eq!(names, [("a", 3)]);
    let error = running.collections.describe(v1::DescribeCollectionRequest { name: "a".into(), ..Default::default() });
    assert_eq!(error.await.unwrap_err().code(), Code::NotFound);
    running.stop().await;
}

#[tokio::test]
async fn a_deleted_collection_is_gone_and_its_name_starts_anew() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = Running::start(directory.path()).await;
    running.create("a", 2, "cosine").await;
    running.insert("a", vec![point("p", &[1.0, 0.0], "")]).await;
    running.collections.delete(v1::DeleteCollectionRequest { name: "a".into() }).await.unwrap();
    let describe = v1::DescribeCollectionRequest { name: "a".into(), ..Default::default() };
    let error = running.collections.describe(describe.clone()).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    assert!(error.message().contains("create it with PUT /api/v1/collections/a"), "{}", error.message());
    let missing = running.collections.delete(v1::DeleteCollectionRequest { name: "a".into() }).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    running.create("a", 3, "euclidean").await;
    let collection = running.collections.describe(describe).await.unwrap().into_inner();
    assert_eq!((collection.count, collection.status.as_str()), (0, "ready"));
    running.stop().await;
}
