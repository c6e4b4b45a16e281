//! A tenant of its own in the shared server: what most tests run in.

use std::sync::{LazyLock, Mutex};

use anyhow::{Context, Result};
use nearfield_testkit::{Claims, Client, Dev, DevOptions, Protocol};
use serde_json::{Value, json};

pub(crate) const API: &str = "/api/v1";

/// The server that tests share, without rate limits.
pub(crate) fn dev() -> Result<&'static Dev> {
    static DEV: LazyLock<Result<Dev, String>> =
        LazyLock::new(|| Dev::start(&DevOptions::default()).map_err(|e| format!("{e:#}")));
    DEV.as_ref().map_err(|e| anyhow::anyhow!("the shared server: {e}"))
}

/// One tenant, its credentials, and the session of its last write.
pub(crate) struct Space {
    pub(crate) client: Client,
    pub(crate) token: String,
    session: Mutex<Option<String>>,
    since: usize,
}

impl Space {
    /// `tenant` must be one test's own.
    pub(crate) fn new(tenant: &str) -> Result<Self> {
        Self::over(Protocol::Http2, tenant)
    }

    pub(crate) fn over(protocol: Protocol, tenant: &str) -> Result<Self> {
        let dev = dev()?;
        let token = dev.token(&Claims::of_tenant(tenant))?;
        let client = dev.client(protocol)?.with_bearer(&token);
        Ok(Self::with(client, token))
    }

    /// Over any client, of a server that need not be the shared one.
    pub(crate) fn with(client: Client, token: String) -> Self {
        let since = dev_log_length();
        Self { client, token, session: Mutex::default(), since }
    }

    /// The same tenant with another protocol.
    pub(crate) fn client(&self, protocol: Protocol) -> Result<Client> {
        Ok(dev()?.client(protocol)?.with_bearer(&self.token))
    }

    pub(crate) async fn create(&self, collection: &str, settings: Value) -> Result<()> {
        let answer = self.client.put(&format!("{API}/collections/{collection}")).json(&settings).send().await?;
        answer.expect(201).map(drop)
    }

    /// Creates a collection and fills it.
    pub(crate) async fn fill(&self, collection: &str, settings: Value, points: &[Value]) -> Result<()> {
        self.create(collection, settings).await?;
        for batch in points.chunks(500) {
            self.insert(collection, batch).await?;
        }
        Ok(())
    }

    pub(crate) async fn insert(&self, collection: &str, points: &[Value]) -> Result<Value> {
        let answer = self.write("insert", json!({"collection": collection, "vectors": points})).await?;
        anyhow::ensure!(answer["inserted"] == points.len(), "{answer}");
        Ok(answer)
    }

    /// `POST /{call}`, whose 200 must carry a session, in the body and in the header.
    pub(crate) async fn write(&self, call: &str, body: Value) -> Result<Value> {
        let answer = self.client.post(&format!("{API}/{call}")).json(&body).send().await?;
        let json = answer.expect(200)?;
        let session = json["session"].as_str().context("a write answers with a session")?;
        anyhow::ensure!(!session.is_empty() && answer.header("nearfield-session") == session, "{json}");
        *self.session.lock().expect("no test panics while it holds this") = Some(session.to_owned());
        Ok(json)
    }

    pub(crate) fn session(&self) -> Option<String> {
        self.session.lock().expect("no test panics while it holds this").clone()
    }

    /// `POST /search` that sees the last write.
    pub(crate) async fn search(&self, mut body: Value) -> Result<Value> {
        if let Some(session) = self.session() {
            body["session"] = json!(session);
        }
        self.client.post(&format!("{API}/search")).json(&body).send().await?.expect(200)
    }

    /// `GET` that sees the last write.
    pub(crate) async fn get(&self, path: &str) -> Result<nearfield_testkit::Answer> {
        let mut request = self.client.get(&format!("{API}{path}"));
        if let Some(session) = self.session() {
            request = request.header("nearfield-session", &session);
        }
        request.send().await
    }

    /// The ids that a search found, in order.
    pub(crate) async fn found(&self, body: Value) -> Result<Vec<String>> {
        Ok(ids(&self.search(body).await?))
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Ok(dev) = dev()
        {
            let log = dev.process().log();
            let lines = &log[self.since.min(log.len())..];
            eprintln!(
                "--- the server's log meanwhile ---\n{}\n---",
                lines[lines.len().saturating_sub(60)..].join("\n")
            );
        }
    }
}

fn dev_log_length() -> usize {
    dev().map(|dev| dev.process().log().len()).unwrap_or(0)
}

/// The ids of an answer's results, in order.
pub(crate) fn ids(answer: &Value) -> Vec<String> {
    let results = answer["results"].as_array().map(Vec::as_slice).unwrap_or_default();
    results.iter().map(|hit| hit["id"].as_str().unwrap_or_default().to_owned()).collect()
}

/// `count` points p0000, p0001, … around four centres, with metadata of every shape that a filter can meet.
pub(crate) fn points(seed: u64, count: usize, dimension: usize) -> Vec<Value> {
    let vectors = nearfield_testkit::vectors::clustered(seed, count, dimension, 4);
    let point =
        |(i, values): (usize, Vec<f32>)| json!({"id": format!("p{i:04}"), "values": values, "metadata": metadata(i)});
    vectors.into_iter().enumerate().map(point).collect()
}

fn metadata(i: usize) -> Value {
    let kind = ["task", "note", "image"][i % 3];
    let mut metadata =
        json!({"type": kind, "year": 2000 + i % 25, "nested": {"depth": i % 5}, "done": i.is_multiple_of(2)});
    if !i.is_multiple_of(4) {
        metadata["score"] = json!(i as f64 / 8.0);
    }
    if !i.is_multiple_of(5) {
        metadata["tags"] = json!([format!("t{}", i % 7), format!("t{}", i % 11)]);
    }
    if i.is_multiple_of(6) {
        metadata["year"] = json!(format!("{}", 2000 + i % 25));
    }
    if i.is_multiple_of(9) {
        metadata["parent"] = Value::Null;
    }
    metadata
}

/// The numbers of a point as the generator made them.
pub(crate) fn values(point: &Value) -> Vec<f32> {
    let numbers = point["values"].as_array().map(Vec::as_slice).unwrap_or_default();
    numbers.iter().map(|v| v.as_f64().unwrap_or(f64::NAN) as f32).collect()
}

/// `value` as it stands in a query string.
pub(crate) fn query_escape(value: &str) -> String {
    let mut escaped = String::new();
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => escaped.push(byte as char),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}
