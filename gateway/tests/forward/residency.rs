//! Where data is confined to: two regions with a real searchd each, seen from a gateway in America.

use http::{Method, StatusCode};
use nearfield_gateway::region::Config;
use nearfield_gateway::websocket;
use nearfield_proto::AREAS_METADATA;
use nearfield_proto::v1::collections_client::CollectionsClient;
use nearfield_proto::v1::vector_search_client::VectorSearchClient;
use nearfield_proto::v1::{
    CollectionSettings, CreateCollectionRequest, DeleteCollectionRequest, DeleteRequest, DescribeCollectionRequest,
    FetchRequest, InsertRequest, Point, SearchRequest,
};
use nearfield_searchd::Searchd;
use serde_json::{Value, json};
use tonic::Code;

use crate::grpc::channel;
use crate::support::{Inside, region, searchd};

struct World {
    inside: Inside,
    /// The searchd in Europe.
    europe: Option<Searchd>,
    /// The one in America, as those reach it who go past the gateway.
    america: String,
    _data: [tempfile::TempDir; 2],
}

impl World {
    async fn start() -> Self {
        let (america, here, data) = searchd().await;
        let (europe, there, more_data) = searchd().await;
        let regions =
            [region("us-east1", "americas", -80.0, &[]), region("europe-west1", "europe", 4.0, &[there.as_str()])];
        let file = data.path().join("topology.toml");
        fs_err::write(&file, regions.concat()).unwrap();
        let topology = Config { file: Some(file), ..Config::default() };
        let upstream = Inside::config(vec![here.clone()]);
        let mut inside = Inside::placed(&topology, "us-east1", upstream, websocket::Config::default()).await;
        inside.searchd = Some(america);
        let world = Self { inside, europe: Some(europe), america: here, _data: [data, more_data] };
        world.create("eu", &["europe"], StatusCode::CREATED).await;
        world.create("any", &[], StatusCode::CREATED).await;
        for collection in ["eu", "any"] {
            let stored = json!({"collection": collection, "vectors": [{"id": collection, "values": [1, 0]}]});
            assert_eq!(world.inside.post("/insert", stored).await.status, 200);
        }
        world
    }

    async fn create(&self, name: &str, areas: &[&str], expected: StatusCode) -> Value {
        let settings = json!({"dimension": 2, "residency": areas});
        let answer = self.inside.call(Method::PUT, &format!("/collections/{name}"), &settings).await;
        assert_eq!(answer.status, expected, "{}", answer.text());
        answer.json()
    }

    /// Ends Europe's searchd, and waits until that is known.
    async fn lose_europe(&mut self) {
        self.europe.take().unwrap().shutdown().await;
        let lost = async {
            while self.inside.get("/regions").await.json()["regions"][1]["health"] == "healthy" {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), lost).await.unwrap();
    }
}

fn search(collection: &str) -> Value {
    json!({"collection": collection, "query": [1, 0]})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_is_written_and_read_where_it_may_be_and_kept_nowhere_else() {
    let world = World::start().await;
    let check = async |path: &str, body: Value, region: &str, control: &str| {
        let answer = match &body {
            Value::Null => world.inside.get(path).await,
            body => world.inside.post(path, body.clone()).await,
        };
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert_eq!(answer.headers["nearfield-region"], region, "{path}");
        assert_eq!(answer.headers["cache-control"], control, "{path}");
        assert_eq!(answer.headers.contains_key("cache-tag"), control.starts_with("max-age"), "{path}");
    };
    check("/search", search("any"), "us-east1", "max-age=30").await;
    check("/search", search("eu"), "europe-west1", "no-store").await;
    check("/embed/any?collection=any", Value::Null, "us-east1", "max-age=300").await;
    check("/embed/eu?collection=eu", Value::Null, "europe-west1", "no-store").await;
    check("/collections/eu", Value::Null, "europe-west1", "no-store").await;
    check("/export?collection=eu", Value::Null, "europe-west1", "no-store").await;
    check("/stream/search", search("eu"), "europe-west1", "no-cache").await;
    check("/update", json!({"collection": "eu", "id": "eu", "metadata": {"a": 1}}), "europe-west1", "no-store").await;
    let here = world.inside.get("/collections").await.json();
    assert_eq!(here["collections"].as_array().unwrap().len(), 1, "{here}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_answered_by_the_region_of_each_search() {
    let mut world = World::start().await;
    let searches = json!({"searches": [search("eu"), search("any"), search("nothing"), search("eu")]});
    let hits = |answer: &Value| -> Vec<String> {
        let responses = answer["responses"].as_array().unwrap();
        let told = |response: &Value| match response["results"][0]["id"].as_str() {
            Some(id) => id.to_owned(),
            None => response["title"].as_str().unwrap().to_owned(),
        };
        responses.iter().map(told).collect()
    };
    let answer = world.inside.post("/search/batch", searches.clone()).await.json();
    assert_eq!(hits(&answer), ["eu", "any", "not-found", "eu"]);
    world.lose_europe().await;
    let answer = world.inside.post("/search/batch", searches).await.json();
    assert_eq!(hits(&answer), ["residency", "any", "not-found", "residency"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_spills_over_to_where_it_may_not_be() {
    let mut world = World::start().await;
    let nowhere = world.create("jp", &["asia-pacific"], StatusCode::FORBIDDEN).await;
    assert_eq!(nowhere["title"], "residency");
    // Where it is it is told that it differs; it is not made a second time.
    world.create("eu", &[], StatusCode::CONFLICT).await;
    world.lose_europe().await;
    for (path, body) in [
        ("/search", search("eu")),
        ("/stream/search", search("eu")),
        ("/insert", json!({"collection": "eu", "vectors": [{"id": "x", "values": [1, 0]}]})),
        ("/delete", json!({"collection": "eu", "ids": ["eu"]})),
    ] {
        let answer = world.inside.post(path, body).await;
        assert_eq!((answer.status, &answer.json()["title"]), (StatusCode::FORBIDDEN, &json!("residency")), "{path}");
        assert_eq!(answer.headers["retry-after"], "1", "{path}");
    }
    assert_eq!(world.inside.post("/search", search("any")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_knows_an_older_answer_gets_none_and_asks_anew() {
    let world = World::start().await;
    assert_eq!(world.inside.post("/search", search("any")).await.status, 200, "now it is known to be anywhere");
    // By another gateway's mistake.
    let mut past = CollectionsClient::connect(world.america.clone()).await.unwrap();
    let name = "any".to_owned();
    past.delete(DeleteCollectionRequest { name: name.clone() }).await.unwrap();
    let settings =
        CollectionSettings { dimension: 2, residency: vec!["europe".to_owned()], ..CollectionSettings::default() };
    past.create(CreateCollectionRequest { name, settings: Some(settings) }).await.unwrap();

    let body = json!({"collection": "any", "vectors": [{"id": "x", "values": [1, 0]}]});
    let refused = world.inside.post("/insert", body.clone()).await;
    assert_eq!((refused.status, &refused.json()["title"]), (StatusCode::FORBIDDEN, &json!("residency")));
    let elsewhere = world.inside.post("/insert", body).await;
    assert_eq!(elsewhere.status, StatusCode::NOT_FOUND, "Europe has none of that name: {}", elsewhere.text());
}

/// `message` to a searchd that the gateway takes for one of `areas`.
fn within<T>(areas: &str, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert(AREAS_METADATA, areas.parse().unwrap());
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_searchd_neither_takes_nor_gives_what_may_not_be_with_it() {
    let (searchd, url, _data) = searchd().await;
    let mut collections = CollectionsClient::connect(url.clone()).await.unwrap();
    let mut points = VectorSearchClient::connect(url).await.unwrap();
    let collection = || "eu".to_owned();
    let settings =
        CollectionSettings { dimension: 2, residency: vec!["europe".to_owned()], ..CollectionSettings::default() };
    let create = CreateCollectionRequest { name: collection(), settings: Some(settings) };
    let refused = collections.create(within("americas", create.clone())).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    collections.create(within("africa,europe", create)).await.unwrap();

    let search = SearchRequest { collection: collection(), query: vec![1.0, 0.0], k: 1, ..SearchRequest::default() };
    let insert = InsertRequest {
        collection: collection(),
        vectors: vec![Point { id: "a".to_owned(), values: vec![1.0, 0.0], ..Point::default() }],
    };
    let fetch = FetchRequest { collection: collection(), ids: vec!["a".to_owned()], ..FetchRequest::default() };
    let delete = DeleteRequest { collection: collection(), ids: vec!["a".to_owned()], ..DeleteRequest::default() };
    for (areas, expected) in [("americas", Code::PermissionDenied), ("europe", Code::Ok), ("*", Code::Ok)] {
        let codes = [
            code(points.insert(within(areas, insert.clone())).await),
            code(points.search(within(areas, search.clone())).await),
            code(points.stream_search(within(areas, search.clone())).await),
            code(points.fetch(within(areas, fetch.clone())).await),
            code(points.delete(within(areas, delete.clone())).await),
        ];
        assert_eq!(codes, [expected; 5], "{areas}");
    }
    let describe = DescribeCollectionRequest { name: collection(), session: String::new() };
    let described = collections.describe(within("americas", describe)).await.unwrap();
    assert_eq!(described.into_inner().settings.unwrap().residency, ["europe"], "that is how gateways know");
    searchd.shutdown().await;
}

fn code<T>(answer: Result<T, tonic::Status>) -> Code {
    answer.err().map_or(Code::Ok, |status| status.code())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_goes_where_its_messages_may_be() {
    let world = World::start().await;
    let mut client = VectorSearchClient::new(channel(&world.inside, None));
    for collection in ["any", "eu"] {
        let request = SearchRequest {
            collection: collection.to_owned(),
            query: vec![1.0, 0.0],
            k: 1,
            ..SearchRequest::default()
        };
        let answer = client.search(request).await.unwrap();
        let region = if collection == "eu" { "europe-west1" } else { "us-east1" };
        assert_eq!(answer.metadata().get("nearfield-region").unwrap(), region);
        assert_eq!(answer.get_ref().results[0].vector_id, collection);
    }
    let insert = |collection: &str, id: &str| {
        let vectors = vec![Point { id: id.to_owned(), values: vec![1.0, 0.0], ..Point::default() }];
        InsertRequest { collection: collection.to_owned(), vectors }
    };
    let bound_to_america = tokio_stream::iter([insert("any", "a"), insert("eu", "b")]);
    let refused = client.insert_stream(bound_to_america).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let bound_to_europe = tokio_stream::iter([insert("eu", "c"), insert("eu", "d")]);
    assert_eq!(client.insert_stream(bound_to_europe).await.unwrap().into_inner().inserted, 2);
    let listed = world.inside.get("/export?collection=eu").await;
    assert_eq!(listed.text().lines().count(), 3, "{}", listed.text());
}
