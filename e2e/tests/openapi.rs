//! The published contract: a sound OpenAPI 3.1 document that the server's own answers obey.

use anyhow::{Context, Result};
use nearfield_testkit::Protocol;
use serde_json::{Value, json};

use crate::space::{API, Space, dev, points};

const METHODS: [&str; 5] = ["get", "put", "post", "delete", "head"];

async fn document() -> Result<Value> {
    let answer = dev()?.client(Protocol::Http2)?.get(&format!("{API}/openapi.json")).send().await?;
    assert!(answer.header("content-type").contains("json"), "{}", answer.header("content-type"));
    answer.expect(200)
}

/// Every operation: its path, its method, itself.
fn operations(document: &Value) -> Vec<(&str, &str, &Value)> {
    let paths = document["paths"].as_object().into_iter().flatten();
    paths
        .flat_map(|(path, item)| METHODS.iter().filter_map(move |m| item.get(m).map(|o| (path.as_str(), *m, o))))
        .collect()
}

#[tokio::test]
async fn the_document_names_every_call_of_the_contract() -> Result<()> {
    let document = document().await?;
    assert!(document["openapi"].as_str().is_some_and(|v| v.starts_with("3.1.")), "{}", document["openapi"]);
    assert!(document["info"]["title"].is_string() && document["info"]["version"].is_string());
    let found: Vec<String> = operations(&document).iter().map(|(path, method, _)| format!("{method} {path}")).collect();
    // Paths stand under /api/v1, by themselves or by the server's address.
    let prefixed = document["paths"].as_object().is_some_and(|p| p.keys().any(|k| k.starts_with(API)));
    for call in [
        "put /collections/{}",
        "get /collections",
        "get /collections/{}",
        "delete /collections/{}",
        "post /insert",
        "post /update",
        "post /delete",
        "get /embed/{}",
        "post /search",
        "get /search",
        "post /search/batch",
        "get /stream/search",
        "post /stream/search",
        "get /ws",
        "post /cache/purge",
        "post /cache/warm",
        "get /regions",
        "get /keys",
        "post /keys",
        "delete /keys/{}",
        "post /keys/{}/rotate",
        "get /audit",
    ] {
        let (method, path) = call.split_once(' ').context("method and path")?;
        let wanted = if prefixed { format!("{method} {API}{path}") } else { format!("{method} {path}") };
        let named = found.iter().any(|f| without_names(f) == wanted);
        assert!(named, "{wanted} is not in {found:#?}");
    }
    Ok(())
}

/// `/embed/{id}` as `/embed/{}`.
fn without_names(path: &str) -> String {
    let mut parts = path.split('{');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push('{');
        out.push_str(part.find('}').map_or(part, |end| &part[end..]));
    }
    out
}

#[tokio::test]
async fn every_part_of_the_document_holds_together() -> Result<()> {
    let document = document().await?;
    let mut ids = std::collections::HashSet::new();
    for (path, method, operation) in operations(&document) {
        let here = format!("{method} {path}");
        let responses = operation["responses"].as_object().with_context(|| format!("{here}: responses"))?;
        assert!(!responses.is_empty(), "{here}");
        for status in responses.keys() {
            let valid = status == "default" || status.len() == 3 && status.starts_with(['1', '2', '3', '4', '5']);
            assert!(valid, "{here}: {status}");
        }
        if let Some(id) = operation["operationId"].as_str() {
            assert!(ids.insert(id.to_owned()), "operationId {id} twice");
        }
        for name in path.split('{').skip(1).filter_map(|p| p.split_once('}').map(|(name, _)| name)) {
            let declared = [&operation["parameters"], &document["paths"][path]["parameters"]];
            let declared = declared.iter().filter_map(|p| p.as_array()).flatten().map(|p| resolve(&document, p));
            let found = declared.into_iter().any(|p| p["name"] == name && p["in"] == "path" && p["required"] == true);
            assert!(found, "{here}: the path parameter {name} is not declared");
        }
    }
    check_references(&document, &document)?;
    for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
        assert!(jsonschema::meta::is_valid(schema), "the schema {name} is no JSON Schema");
    }
    Ok(())
}

fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let target = value["$ref"].as_str().and_then(|r| r.strip_prefix('#')).and_then(|pointer| document.pointer(pointer));
    target.unwrap_or(value)
}

fn check_references(document: &Value, value: &Value) -> Result<()> {
    match value {
        Value::Object(object) => {
            if let Some(Value::String(reference)) = object.get("$ref") {
                let pointer =
                    reference.strip_prefix('#').with_context(|| format!("{reference} leaves the document"))?;
                document.pointer(pointer).with_context(|| format!("{reference} leads nowhere"))?;
            }
            object.values().try_for_each(|v| check_references(document, v))
        }
        Value::Array(array) => array.iter().try_for_each(|v| check_references(document, v)),
        _ => Ok(()),
    }
}

/// Checks an answer's body with the schema that the document gives for it.
fn check(document: &Value, path: &str, method: &str, status: u16, answer: &nearfield_testkit::Answer) -> Result<()> {
    let here = format!("{method} {path} {}", answer.status);
    anyhow::ensure!(answer.status == status, "{here} where {status} was expected: {}", answer.text());
    let item = document["paths"].get(format!("{API}{path}")).or_else(|| document["paths"].get(path));
    let responses = &item.with_context(|| here.clone())?[method]["responses"];
    let response = responses.get(answer.status.as_str()).or_else(|| responses.get("default"));
    let response = resolve(document, response.with_context(|| format!("{here} is not documented"))?);
    let kind = answer.header("content-type").split(';').next().unwrap_or_default().trim();
    let schema = response["content"][kind]["schema"].clone();
    anyhow::ensure!(schema.is_object(), "{here}: no schema for {kind}");
    // References are resolved in the document: the schema is laid over it.
    let mut root = document.clone();
    root.as_object_mut().context("a document is an object")?.insert("allOf".to_owned(), json!([schema]));
    let validator = jsonschema::validator_for(&root).map_err(|e| anyhow::anyhow!("{here}: {e}"))?;
    let body = answer.json()?;
    let errors: Vec<String> = validator.iter_errors(&body).map(|e| format!("{}: {e}", e.instance_path())).collect();
    anyhow::ensure!(errors.is_empty(), "{here}: {errors:?} in {body}");
    Ok(())
}

#[tokio::test]
async fn the_answers_are_what_the_document_says() -> Result<()> {
    let document = document().await?;
    let space = Space::new("openapi")?;
    let client = &space.client;
    let api = |path: &str| format!("{API}{path}");
    let name = document["paths"].as_object().into_iter().flatten().map(|(k, _)| k.trim_start_matches(API));
    let by_name: Vec<&str> = name.filter(|k| k.starts_with("/collections/{") || k.starts_with("/embed/{")).collect();
    let collection = *by_name.iter().find(|k| k.starts_with("/coll")).context("/collections/{…}")?;
    let embed = *by_name.iter().find(|k| k.starts_with("/embed")).context("/embed/{…}")?;

    check(
        &document,
        collection,
        "put",
        201,
        &client.put(&api("/collections/c")).json(&json!({"dimension": 4})).send().await?,
    )?;
    check(
        &document,
        collection,
        "put",
        409,
        &client.put(&api("/collections/c")).json(&json!({"dimension": 5})).send().await?,
    )?;
    let insert = json!({"collection": "c", "vectors": points(91, 20, 4)});
    let inserted = client.post(&api("/insert")).json(&insert).send().await?;
    let session = inserted.header("nearfield-session").to_owned();
    check(&document, "/insert", "post", 200, &inserted)?;
    let reading = client.clone().with_header("nearfield-session", &session);
    check(&document, collection, "get", 200, &reading.get(&api("/collections/c")).send().await?)?;
    check(&document, "/collections", "get", 200, &reading.get(&api("/collections")).send().await?)?;
    check(&document, embed, "get", 200, &reading.get(&api("/embed/p0001?collection=c")).send().await?)?;
    check(&document, embed, "get", 404, &reading.get(&api("/embed/nobody?collection=c")).send().await?)?;
    let search = json!({"collection": "c", "query": [1, 2, 3, 4], "include": ["metadata", "values"]});
    check(&document, "/search", "post", 200, &reading.post(&api("/search")).json(&search).send().await?)?;
    check(&document, "/search", "post", 400, &reading.post(&api("/search")).json(&json!({"query": []})).send().await?)?;
    check(
        &document,
        "/search",
        "get",
        200,
        &reading.get(&api("/search?collection=c&query_vector_id=p0001")).send().await?,
    )?;
    let batch = json!({"searches": [search, {"collection": "none", "query": [1]}]});
    check(&document, "/search/batch", "post", 200, &reading.post(&api("/search/batch")).json(&batch).send().await?)?;
    let update = json!({"collection": "c", "id": "p0001", "metadata": {"x": 1}});
    check(&document, "/update", "post", 200, &client.post(&api("/update")).json(&update).send().await?)?;
    let delete = json!({"collection": "c", "ids": ["p0001"]});
    check(&document, "/delete", "post", 200, &client.post(&api("/delete")).json(&delete).send().await?)?;
    check(&document, "/regions", "get", 200, &client.get(&api("/regions")).send().await?)?;
    let key = json!({"subject": "ci", "scope": "vectors:read", "expires_in_seconds": 60});
    let made = client.post(&api("/keys")).json(&key).send().await?;
    check(&document, "/keys", "post", 201, &made)?;
    let id = made.json()?["id"].as_str().context("an id")?.to_owned();
    let rotated = client.post(&api(&format!("/keys/{id}/rotate"))).json(&json!({})).send().await?;
    check(&document, "/keys/{id}/rotate", "post", 201, &rotated)?;
    check(&document, "/keys/{id}", "get", 200, &client.get(&api(&format!("/keys/{id}"))).send().await?)?;
    check(&document, "/keys", "get", 200, &client.get(&api("/keys")).send().await?)?;
    check(&document, "/audit", "get", 200, &client.get(&api("/audit")).send().await?)?;
    check(
        &document,
        "/cache/purge",
        "post",
        200,
        &client.post(&api("/cache/purge")).json(&json!({"collection": "c"})).send().await?,
    )?;
    Ok(())
}
