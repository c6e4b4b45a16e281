//! REST ⇄ gRPC, call by call.

use bytes::Bytes;
use http::Method;
use http_body::Frame;
use http_body_util::StreamBody;
use nearfield_gateway::body;
use serde_json::{Value, json};

use crate::support::{Inside, request};

#[tokio::test]
async fn collections_live_and_die() {
    let inside = Inside::start().await;
    let settings = json!({"dimension": 3, "metric": "dot", "hnsw": {"m": 8}});
    let created = inside.call(Method::PUT, "/collections/shoes", &settings).await;
    assert_eq!((created.status.as_u16(), &created.json()["metric"]), (201, &json!("dot")), "{}", created.text());
    assert_eq!(created.headers["location"], "/api/v1/collections/shoes");
    assert!(created.headers.contains_key("nearfield-session"));
    assert_eq!(inside.call(Method::PUT, "/collections/shoes", &settings).await.status, 200);
    assert_eq!(inside.call(Method::PUT, "/collections/shoes", &json!({"dimension": 4})).await.status, 409);
    let described = inside.get("/collections/shoes").await.json();
    assert_eq!((&described["count"], &described["hnsw"]["m"]), (&json!(0), &json!(8)), "{described}");
    assert!(described["bytes"]["memory"].is_u64(), "{described}");
    assert_eq!(inside.get("/collections").await.json()["collections"][0]["name"], "shoes");
    assert_eq!(inside.call(Method::DELETE, "/collections/shoes", &Value::Null).await.status, 204);
    assert_eq!(inside.get("/collections/shoes").await.status, 404);
    assert_eq!(inside.get("/collections/Shoes").await.status, 400);
}

#[tokio::test]
async fn points_are_written_and_read() {
    let inside = Inside::start().await;
    inside.fill(3).await;
    let odd = json!({"collection": "c", "vectors": [{"id": "ä/b c", "values": "AACAPwAAAEA="}]});
    assert_eq!(inside.post("/insert", odd).await.json()["inserted"], 1);
    let read = inside.get("/embed/%C3%A4%2Fb%20c?collection=c").await;
    assert_eq!(read.json(), json!({"id": "ä/b c", "values": [1.0, 2.0], "metadata": {}, "version": 1}));
    assert_eq!(read.headers["cache-control"], "max-age=300");
    assert_eq!(read.headers["cache-tag"], "collection:c,point:c/%C3%A4%2Fb%20c");
    let update = json!({"collection": "c", "id": "p1", "metadata": {"i": null, "j": 2}, "if_version": 1});
    assert_eq!(inside.post("/update", update.clone()).await.json()["version"], 2);
    assert_eq!(inside.post("/update", update).await.status, 409);
    assert_eq!(inside.get("/embed/p1?collection=c").await.json()["metadata"], json!({"j": 2}));
    let deleted = inside.post("/delete", json!({"collection": "c", "filter": {"i": 2}})).await;
    assert_eq!(deleted.json()["deleted"], 1, "{}", deleted.text());
    assert_eq!(inside.get("/embed/p2?collection=c").await.status, 404);
}

#[tokio::test]
async fn a_search_by_body_and_by_query_is_the_same() {
    let inside = Inside::start().await;
    let session = inside.fill(20).await;
    let body = json!({"collection": "c", "query_vector_id": "p3", "k": 5, "session": session});
    let posted = inside.post("/search", body).await;
    let path = format!("/search?collection=c&query_vector_id=p3&k=5&session={session}");
    let got = inside.get(&path).await;
    assert_eq!((posted.status.as_u16(), posted.text()), (200, got.text()));
    assert_eq!(got.json()["total_results"], 5);
    assert_eq!(got.headers["cache-control"], "max-age=30");
    assert_eq!(got.headers["cache-tag"], "collection:c,point:c/p3");
    assert_eq!(got.headers["nearfield-region"], "local");
}

#[tokio::test]
async fn what_is_wrong_is_told_all_at_once() {
    let inside = Inside::start().await;
    let check = async |path: &str, body: Value, expected: &[&str]| {
        let answer = inside.post(path, body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.pointers()),
            (400, expected.iter().map(|p| (*p).to_owned()).collect())
        );
    };
    check(
        "/search",
        json!({"query": [1, "x", null], "k": 0, "metric": "far", "kk": 1}),
        &["/query/1", "/query/2", "/k", "/metric", "/kk"],
    )
    .await;
    check("/search", json!({"k": 1}), &["/query"]).await;
    check(
        "/insert",
        json!({"vectors": [{"id": "a"}, {"values": [1e39]}, 7]}),
        &["/vectors/0/values", "/vectors/1/values/0", "/vectors/1/id", "/vectors/2"],
    )
    .await;
    check("/update", json!({"id": "a", "metadata": [1]}), &["/metadata"]).await;
    check("/delete", json!({"ids": ["", 1]}), &["/ids/1", "/ids/0"]).await;
}

#[tokio::test]
async fn the_list_of_violations_is_bounded() {
    let inside = Inside::start().await;
    let answer = inside.post("/insert", json!({"vectors": vec![json!({}); 50]})).await;
    assert_eq!(answer.pointers().len(), 16);
    assert!(answer.json()["detail"].as_str().unwrap().contains("84 more"), "{}", answer.text());
}

#[tokio::test]
async fn query_strings_are_read_strictly() {
    let inside = Inside::start().await;
    inside.fill(3).await;
    for (query, pointer) in [
        ("collection=c", "query_vector_id"),
        ("collection=c&query_vector_id=p0&query_vector_id=p1", "query_vector_id"),
        ("collection=c&query_vector_id=p0&k=zero", "k"),
        ("collection=c&query_vector_id=%ff", "query_vector_id"),
        ("collection=c&query_vector_id=p0&filter=%5B%5D", "filter"),
        ("collection=c&query_vector_id=p0&exact=yes", "exact"),
        ("collection=c&query_vector_id=p0&include=all", "include"),
    ] {
        let answer = inside.get(&format!("/search?{query}")).await;
        assert_eq!((answer.status.as_u16(), answer.pointers()[0].as_str()), (400, pointer), "{query}");
    }
    let bare = inside.get("/search?collection=c&query_vector_id=p0&k=1&include=").await.json();
    assert_eq!(bare["results"][0].as_object().unwrap().keys().collect::<Vec<_>>(), ["id", "score"]);
    let good = "/search?collection=c&query_vector_id=p0&filter=%7B%22i%22:+1%7D&include=values,metadata&exact=true&utm_source=x";
    let found = inside.get(good).await.json();
    assert_eq!((&found["results"][0]["id"], &found["results"][0]["values"]), (&json!("p1"), &json!([1.0, 1.0])));
}

#[tokio::test]
async fn refusals_have_their_status() {
    let inside = Inside::start().await;
    inside.fill(1).await;
    let send = async |method, path: &str, kind: &str, body: &str| {
        inside.send(request(method, path, kind, body::full(body.to_owned()))).await
    };
    assert_eq!(send(Method::POST, "/search", "text/plain", "{}").await.status, 415);
    for body in ["", "{", "[]", "null", "{} {}", "{\"k\":1,}", "\u{feff}{}"] {
        assert_eq!(send(Method::POST, "/search", "application/json", body).await.status, 400, "{body:?}");
    }
    let malformed = send(Method::POST, "/search", "application/json", "{\"k\":\n x}").await;
    assert!(malformed.json()["detail"].as_str().unwrap().contains("line 2 column"), "{}", malformed.text());
    let get = send(Method::GET, "/insert", "application/json", "").await;
    assert_eq!((get.status.as_u16(), &get.headers["allow"]), (405, &"POST, OPTIONS".parse().unwrap()));
    assert_eq!(send(Method::GET, "/nothing", "application/json", "").await.status, 404);
    let large =
        json!({"collection": "c", "vectors": [{"id": "a", "values": [1, 2], "metadata": {"x": "y".repeat(70_000)}}]});
    let large = inside.post("/insert", large).await;
    assert_eq!(
        (large.status.as_u16(), large.pointers()),
        (413, vec!["/vectors/0/metadata".to_owned()]),
        "{}",
        large.text()
    );
    let session = inside.post("/search", json!({"collection": "c", "query": [1, 2], "session": "nonsense"})).await;
    assert_eq!(session.status, 400, "{}", session.text());
}

#[tokio::test]
async fn a_batch_holds_results_and_problems() {
    let inside = Inside::start().await;
    inside.fill(3).await;
    let searches = json!([
        {"collection": "c", "query": [1, 0], "k": 2},
        {"collection": "c", "query": [1, 0], "k": 0},
        {"collection": "c", "query": [1]},
        {"collection": "none", "query": [1]},
        {"collection": "c", "query": [1, 0], "k": 1, "include": ["values"]},
    ]);
    let answer = inside.post("/search/batch", json!({"searches": searches})).await;
    let answer = answer.json();
    let responses = answer["responses"].as_array().unwrap();
    let statuses: Vec<Option<u64>> = responses.iter().map(|r| r["status"].as_u64()).collect();
    assert_eq!(statuses, [None, Some(400), Some(400), Some(404), None], "{answer}");
    assert_eq!(responses[0]["results"].as_array().unwrap().len(), 2);
    assert_eq!(responses[1]["errors"][0]["pointer"], "/k");
    assert!(responses[4]["results"][0]["metadata"].is_null() && responses[4]["results"][0]["values"].is_array());
}

fn lines(pieces: Vec<String>) -> body::Body {
    let frames = pieces.into_iter().map(|p| Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from(p))));
    body::boxed(StreamBody::new(futures::stream::iter(frames)))
}

#[tokio::test]
async fn lines_are_stored_as_they_come() {
    let inside = Inside::start().await;
    inside.fill(0).await;
    let text: String = (0..1500).map(|i| format!("{{\"id\":\"n{i}\",\"values\":[{i},1]}}\n\n")).collect();
    let pieces = text.as_bytes().chunks(777).map(|c| String::from_utf8(c.to_vec()).unwrap()).collect();
    let answer =
        inside.send(request(Method::POST, "/insert?collection=c", "application/x-ndjson", lines(pieces))).await;
    assert_eq!(answer.json()["inserted"], 1500, "{}", answer.text());
    assert_eq!(answer.headers["nearfield-session"].to_str().unwrap(), answer.json()["session"].as_str().unwrap());
    assert_eq!(inside.get("/collections/c").await.json()["count"], 1500);
}

#[tokio::test]
async fn a_bad_line_ends_the_insert_behind_all_good_ones() {
    let inside = Inside::start().await;
    inside.fill(0).await;
    let mut stored = 0;
    for bad in ["{\"id\":\"x\",\"values\":[1]}", "{\"id\":", "null", "{\"id\":\"x\",\"values\":[1,2],\"z\":1}"] {
        let good: String = (0..600).map(|i| format!("{{\"id\":\"n{stored}-{i}\",\"values\":[{i},1]}}\n")).collect();
        let body = lines(vec![format!("{good}\n{bad}\n{good}")]);
        let answer = inside.send(request(Method::POST, "/insert?collection=c", "application/x-ndjson", body)).await;
        let problem = answer.json();
        assert_eq!(
            (answer.status.as_u16(), &problem["line"], &problem["inserted"]),
            (400, &json!(602), &json!(600)),
            "{problem}"
        );
        assert!(problem["detail"].as_str().unwrap().contains("line 602"), "{problem}");
        stored += 600;
        assert_eq!(inside.get("/collections/c").await.json()["count"], stored);
    }
    let nowhere = lines(vec!["{\"id\":\"a\",\"values\":[1]}".to_owned()]);
    let answer = inside.send(request(Method::POST, "/insert?collection=no", "application/x-ndjson", nowhere)).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["inserted"]), (404, &json!(0)), "{}", answer.text());
}

#[tokio::test]
async fn an_export_is_every_point_a_line() {
    let inside = Inside::start().await;
    inside.fill(30).await;
    let answer = inside.get("/export?collection=c&filter=%7B%22i%22%3A%7B%22%24lt%22%3A10%7D%7D").await;
    assert_eq!(answer.headers["content-type"], "application/x-ndjson");
    let mut ids: Vec<String> = answer
        .text()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned())
        .collect();
    ids.sort();
    assert_eq!(ids, (0..10).map(|i| format!("p{i}")).collect::<Vec<_>>());
    assert_eq!(inside.get("/export?collection=none").await.status, 404);
}

#[tokio::test]
async fn regions_are_told_with_their_distance() {
    use nearfield_gateway::region::geo::{ClientLocation, Coordinates};
    let inside = Inside::start().await;
    let mut asked = request(Method::GET, "/regions", "application/json", body::empty());
    let paris = Coordinates { latitude: 48.86, longitude: 2.35 };
    asked.extensions_mut().insert(ClientLocation(paris));
    let answer = inside.send(asked).await.json();
    let regions = answer["regions"].as_array().unwrap();
    assert_eq!(regions.len(), 16, "the fifteen, and this one");
    let of = |name: &str| regions.iter().find(|r| r["region"] == name).unwrap();
    assert_eq!((&of("local")["health"], &of("local")["here"]), (&json!("healthy"), &json!(true)));
    assert_eq!(of("europe-west1")["health"], "absent");
    assert!((200.0..300.0).contains(&of("europe-west1")["distance_km"].as_f64().unwrap()));
}
