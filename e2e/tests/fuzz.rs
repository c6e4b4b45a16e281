//! Random input of the right shape, and of nearly the right shape: never a 5xx, always a proper problem.
//!
//! The seeds are fixed, so that a run can be repeated; the parsers have tests of this kind of their own beside them.

use anyhow::Result;
use nearfield_testkit::{Protocol, WebSocket};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::space::{API, Space, dev, points, query_escape};

const CASES: usize = 150;

fn runner(seed: u8) -> TestRunner {
    TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]))
}

/// `count` values of a strategy.
fn samples<S: Strategy>(seed: u8, count: usize, strategy: S) -> Vec<S::Value> {
    let mut runner = runner(seed);
    (0..count)
        .map(|_| strategy.new_tree(&mut runner).expect("a strategy without a filter gives values").current())
        .collect()
}

/// JSON of any shape, its keys and strings those that the contract gives a meaning.
fn json_value() -> impl Strategy<Value = Value> {
    let word = prop::sample::select(vec![
        "",
        "c",
        "id",
        "p0001",
        "metadata",
        "values",
        "$eq",
        "$in",
        "$and",
        "$not",
        "$exists",
        "type",
        "task",
        "cosine",
        "AAAAAA==",
        "nested.depth",
        "..",
        "\u{0}",
        "\u{10ffff}",
        "é",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(|f| json!(f)),
        word.clone().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((word.clone(), inner), 0..5)
                .prop_map(|pairs| pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ]
    })
}

/// A good body of which some fields have been replaced by anything.
fn nearly(body: Value) -> impl Strategy<Value = Value> {
    let keys: Vec<String> = body.as_object().map(|o| o.keys().cloned().collect()).unwrap_or_default();
    let replaced = prop::collection::vec((prop::sample::select(keys), json_value()), 1..3);
    replaced.prop_map(move |replaced| {
        let mut body = body.clone();
        for (key, value) in replaced {
            body[key] = value;
        }
        body
    })
}

fn proper(answer: &nearfield_testkit::Answer, input: &str) -> Result<()> {
    let status = answer.status.as_u16();
    anyhow::ensure!(status < 500, "{status} for {input}: {}", answer.text());
    if status >= 400 {
        answer.problem(status)?;
    } else if !answer.body.is_empty() {
        answer.json()?;
    }
    Ok(())
}

async fn filled(name: &str) -> Result<Space> {
    let space = Space::new(name)?;
    space.fill("c", json!({"dimension": 4}), &points(131, 20, 4)).await?;
    Ok(space)
}

#[tokio::test]
async fn bodies() -> Result<()> {
    let space = filled("fuzz-bodies").await?;
    let search = json!({"collection": "c", "query": [1, 2, 3, 4], "k": 3, "filter": {"type": "task"}, "include": ["values"], "ef_search": 10, "exact": true, "metric": "cosine", "session": space.session()});
    let insert = json!({"collection": "c", "vectors": [{"id": "x", "values": [1, 2, 3, 4], "metadata": {}}]});
    let update = json!({"collection": "c", "id": "p0001", "values": [1, 2, 3, 4], "metadata": {}, "if_version": 1});
    let delete = json!({"collection": "c", "ids": ["p0002"]});
    let batch = json!({"searches": [search]});
    let collection = json!({"dimension": 4, "metric": "dot", "quantization": "f16", "hnsw": {"m": 8}, "ef_search": 9, "residency": []});
    for (seed, (call, body)) in [
        ("search", search),
        ("insert", insert),
        ("update", update),
        ("delete", delete),
        ("search/batch", batch),
        ("collections/fuzzed", collection),
    ]
    .into_iter()
    .enumerate()
    {
        for case in samples(seed as u8, CASES / 2, nearly(body)) {
            let method = if call.starts_with("collections") { http::Method::PUT } else { http::Method::POST };
            let answer = space.client.request(method, &format!("{API}/{call}")).json(&case).send().await?;
            proper(&answer, &format!("{call} {case}"))?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn bodies_with_a_byte_changed() -> Result<()> {
    let space = filled("fuzz-bytes").await?;
    let body = json!({"collection": "c", "query": [1, 2, 3, 4], "k": 3, "filter": {"$or": [{"type": "task"}, {"year": {"$gte": 2001}}]}});
    let body = body.to_string().into_bytes();
    let changes = (0..body.len(), any::<u8>(), prop::bool::weighted(0.3));
    for (at, byte, cut) in samples(40, CASES, changes) {
        let mut bytes = body.clone();
        bytes[at] = byte;
        if cut {
            bytes.truncate(at);
        }
        let request = space.client.post(&format!("{API}/search")).header("content-type", "application/json");
        proper(&request.body(bytes.clone()).send().await?, &String::from_utf8_lossy(&bytes))?;
    }
    Ok(())
}

#[tokio::test]
async fn filters() -> Result<()> {
    let space = filled("fuzz-filters").await?;
    for filter in samples(50, CASES, json_value()) {
        let body = json!({"collection": "c", "query": [1, 2, 3, 4], "filter": filter});
        let posted = space.client.post(&format!("{API}/search")).json(&body).send().await?;
        proper(&posted, &filter.to_string())?;
        let path =
            format!("{API}/search?collection=c&query_vector_id=p0001&filter={}", query_escape(&filter.to_string()));
        let got = space.client.get(&path).send().await?;
        proper(&got, &filter.to_string())?;
        // An absent filter may be said as null in a body, and not in a query string.
        if !filter.is_null() {
            assert_eq!(got.status, posted.status, "{filter}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn query_strings() -> Result<()> {
    let space = filled("fuzz-queries").await?;
    let name =
        prop::sample::select(vec!["collection", "query_vector_id", "k", "metric", "filter", "include", "session", "x"]);
    let value = prop_oneof![
        prop::sample::select(vec![
            "c", "p0001", "3", "cosine", "{}", "%", "%zz", "%ff%fe", "%00", "&", "=", "+", "a%20b", "%C3%28"
        ])
        .prop_map(str::to_owned),
        ".{0,8}".prop_map(|s: String| query_escape(&s)),
    ];
    for pairs in samples(60, CASES, prop::collection::vec((name, value), 0..6)) {
        let query: Vec<String> = pairs.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let path = format!("{API}/search?{}", query.join("&"));
        proper(&space.client.get(&path).send().await?, &path)?;
    }
    Ok(())
}

#[tokio::test]
async fn paths() -> Result<()> {
    let space = filled("fuzz-paths").await?;
    let part = prop::sample::select(vec![
        "api",
        "v1",
        "embed",
        "collections",
        "search",
        "..",
        ".",
        "%2e%2e",
        "%2F",
        "%00",
        "%ff",
        "c",
        "ws",
        "",
    ]);
    for parts in samples(70, CASES, prop::collection::vec(part, 1..7)) {
        let path = format!("/{}", parts.join("/"));
        let answer = space.client.get(&path).send().await?;
        proper(&answer, &path)?;
    }
    Ok(())
}

#[tokio::test]
async fn tokens() -> Result<()> {
    let space = filled("fuzz-tokens").await?;
    let client = dev()?.client(Protocol::Http2)?;
    let token = space.token.clone();
    let change = (0..token.len(), prop::sample::select("ABab01-_.=".chars().collect::<Vec<_>>()), 0..3_u8);
    for (at, with, how) in samples(80, CASES, change) {
        let mut changed: Vec<char> = token.chars().collect();
        match how {
            0 => changed[at] = with,
            1 => changed.insert(at, with),
            _ => drop(changed.remove(at)),
        }
        let changed: String = changed.into_iter().collect();
        if changed == token {
            continue;
        }
        let answer = client.get(&format!("{API}/collections")).bearer(&changed).send().await?;
        answer.problem(401)?;
    }
    for noise in samples(81, CASES, "[!-~]{0,60}") {
        client.get(&format!("{API}/collections")).bearer(&noise).send().await?.problem(401)?;
        client.get(&format!("{API}/collections")).header("x-api-key", &noise).send().await?.problem(401)?;
    }
    Ok(())
}

#[tokio::test]
async fn websocket_messages() -> Result<()> {
    let space = filled("fuzz-ws").await?;
    let mut socket = WebSocket::connect(&space.client(Protocol::Http1)?).await?;
    let search = json!({"type": "search", "id": "q", "collection": "c", "query": [1, 2, 3, 4], "k": 2, "stream": false, "filter": {}});
    let insert =
        json!({"type": "insert", "id": "q", "collection": "c", "vectors": [{"id": "x", "values": [1, 2, 3, 4]}]});
    let any_shape = json_value().boxed();
    let cases = samples(90, CASES, prop_oneof![nearly(search), nearly(insert), any_shape]);
    for (i, case) in cases.into_iter().enumerate() {
        socket.send(&case).await?;
        // Whatever it was, the connection answers the next message.
        let id = format!("ping-{i}");
        socket.send(&json!({"type": "ping", "id": id})).await?;
        let mut answers = 0;
        loop {
            let message = socket.json().await?;
            if message["type"] == "error" {
                let status = message["problem"]["status"].as_u64().unwrap_or(0);
                anyhow::ensure!((400..500).contains(&status), "{case}: {message}");
            }
            if message["id"] == id.as_str() {
                break;
            }
            answers += 1;
            anyhow::ensure!(answers < 50, "{case} is answered without end");
        }
    }
    for binary in samples(91, 20, prop::collection::vec(any::<u8>(), 0..40)) {
        socket.send_message(Message::binary(binary)).await?;
        if socket.json().await.is_err() {
            // A binary message may be refused by closing; then a new connection is taken.
            socket = WebSocket::connect(&space.client(Protocol::Http1)?).await?;
        }
    }
    Ok(())
}
