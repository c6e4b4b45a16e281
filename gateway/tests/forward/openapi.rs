//! The published document: valid by the OpenAPI Initiative's own schema (`openapi/schema-3.1.json`, Apache-2.0, from
//! <https://spec.openapis.org/oas/3.1/schema/2026-08-03>), and obeyed by real answers.

use http::Method;
use nearfield_gateway::openapi::DOCUMENT;
use serde_json::{Value, json};

use crate::support::{Answer, Inside};

fn document() -> Value {
    serde_json::from_str(DOCUMENT).unwrap()
}

#[test]
fn the_document_is_openapi() {
    let schema: Value = serde_json::from_str(include_str!("openapi/schema-3.1.json")).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> =
        validator.iter_errors(&document()).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    for (name, schema) in document()["components"]["schemas"].as_object().unwrap() {
        assert!(jsonschema::meta::is_valid(schema), "{name} is no JSON Schema");
    }
}

#[test]
fn every_reference_leads_somewhere() {
    fn walk(document: &Value, value: &Value) {
        if let Some(reference) = value["$ref"].as_str() {
            assert!(document.pointer(reference.strip_prefix('#').unwrap()).is_some(), "{reference}");
        }
        match value {
            Value::Object(fields) => fields.values().for_each(|v| walk(document, v)),
            Value::Array(items) => items.iter().for_each(|v| walk(document, v)),
            _ => {}
        }
    }
    walk(&document(), &document());
}

/// Errors of `value` by a schema of the document.
fn errors(schema: &Value, value: &Value) -> Vec<String> {
    let mut root = document();
    root.as_object_mut().unwrap().insert("allOf".to_owned(), json!([schema]));
    let validator = jsonschema::validator_for(&root).unwrap();
    validator.iter_errors(value).map(|e| format!("{}: {e}", e.instance_path())).collect()
}

#[test]
fn the_examples_obey_their_schemas() {
    let document = document();
    for (path, item) in document["paths"].as_object().unwrap() {
        for operation in item.as_object().unwrap().values() {
            for media in operation["requestBody"]["content"].as_object().into_iter().flat_map(|c| c.values()) {
                let Some(example) = media.get("example") else { continue };
                assert_eq!(errors(&media["schema"], example), Vec::<String>::new(), "{path}");
            }
        }
    }
}

/// Checks an answer by what the document says of its path, method and status.
fn check(path: &str, method: &str, answer: &Answer) {
    let document = document();
    let responses = &document["paths"][format!("/api/v1{path}")][method]["responses"];
    let response = responses.get(answer.status.as_str()).unwrap_or_else(|| &responses["default"]);
    let response = match response["$ref"].as_str() {
        Some(reference) => document.pointer(reference.strip_prefix('#').unwrap()).unwrap(),
        None => response,
    };
    let kind = answer.headers["content-type"].to_str().unwrap();
    let schema = &response["content"][kind]["schema"];
    assert!(schema.is_object(), "{method} {path} {}: {kind} is not documented", answer.status);
    assert_eq!(errors(schema, &answer.json()), Vec::<String>::new(), "{method} {path}: {}", answer.text());
}

#[tokio::test]
async fn real_answers_obey_the_document() {
    let inside = Inside::start().await;
    let create = inside.call(Method::PUT, "/collections/c", &json!({"dimension": 2})).await;
    check("/collections/{collection}", "put", &create);
    let bad = inside.call(Method::PUT, "/collections/c", &json!({"dimension": 0})).await;
    check("/collections/{collection}", "put", &bad);
    let points = json!([{"id": "a", "values": [1, 0], "metadata": {"x": [1]}}, {"id": "b", "values": [0, 1]}]);
    check("/insert", "post", &inside.post("/insert", json!({"collection": "c", "vectors": points})).await);
    check("/collections", "get", &inside.get("/collections").await);
    check("/collections/{collection}", "get", &inside.get("/collections/c").await);
    check("/collections/{collection}", "get", &inside.get("/collections/none").await);
    check("/embed/{id}", "get", &inside.get("/embed/a?collection=c").await);
    check("/embed/{id}", "get", &inside.get("/embed/z?collection=c").await);
    let search = json!({"collection": "c", "query": [1, 0], "include": ["metadata", "values"]});
    check("/search", "post", &inside.post("/search", search.clone()).await);
    check("/search", "post", &inside.post("/search", json!({"query": []})).await);
    check("/search", "get", &inside.get("/search?collection=c&query_vector_id=a").await);
    let searches = json!({"searches": [search, {"collection": "none", "query": [1]}, {"k": 0}]});
    check("/search/batch", "post", &inside.post("/search/batch", searches).await);
    let update = json!({"collection": "c", "id": "a", "metadata": {"x": null}});
    check("/update", "post", &inside.post("/update", update).await);
    check("/delete", "post", &inside.post("/delete", json!({"collection": "c", "ids": ["a"]})).await);
    check("/regions", "get", &inside.get("/regions").await);
    check("/cache/purge", "post", &inside.post("/cache/purge", json!({"collection": "c", "ids": ["a"]})).await);
    check("/cache/purge", "post", &inside.post("/cache/purge", json!({})).await);
    check("/openapi.json", "get", &inside.get("/openapi.json").await);
}
