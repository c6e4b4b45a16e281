//! gRPC-Web from a page in a real browser, over https and across origins: what the page may, and what another may not.

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nearfield_proto::v1;
use nearfield_testkit::{Browser, Claims, Cluster, ClusterOptions, Page, Protocol};
use prost::Message;
use serde_json::{Value, json};

use crate::grpc_web::{BINARY, Called, frame};
use crate::space::{Space, ids, points};

/// Makes each call, reads its answer as it comes, and reports all of it.
const PAGE: &str = r#"<!doctype html><meta charset="utf-8"><title>calls</title><script type="module">
const bytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
const text = bytes => btoa(Array.from(bytes, byte => String.fromCharCode(byte)).join(''));
const answers = [];
for (const call of CALLS) {
  try {
    const answer = await fetch(call.url, {method: 'POST', headers: call.headers, body: bytes(call.body)});
    const pieces = [];
    const reader = answer.body.getReader();
    for (let piece; !(piece = await reader.read()).done;) pieces.push(text(piece.value));
    const {status, headers} = answer;
    answers.push({status, kind: headers.get('content-type'), grpcStatus: headers.get('grpc-status'), pieces});
  } catch (error) {
    answers.push({error: String(error)});
  }
}
await fetch('/report', {method: 'POST', body: JSON.stringify(answers)});
</script>"#;

fn call(url: &str, method: &str, token: Option<&str>, message: &impl Message) -> Value {
    let mut headers = json!({"content-type": BINARY, "x-grpc-web": "1"});
    if let Some(token) = token {
        headers["authorization"] = json!(format!("Bearer {token}"));
    }
    let url = format!("{url}/nearfield.v1.VectorSearch/{method}");
    json!({"url": url, "headers": headers, "body": STANDARD.encode(frame(message))})
}

/// The frames of an answer that the page could read.
fn read(answer: &Value) -> Result<Called> {
    ensure!(
        answer["status"] == 200 && answer["kind"].as_str().is_some_and(|kind| kind.starts_with(BINARY)),
        "{answer}"
    );
    let pieces = answer["pieces"].as_array().context("pieces")?.iter();
    let pieces: Vec<Vec<u8>> =
        pieces.map(|piece| Ok(STANDARD.decode(piece.as_str().context("base64")?)?)).collect::<Result<_>>()?;
    Called::of(&pieces.concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_searches_by_grpc_web_and_a_page_of_another_origin_may_not() -> Result<()> {
    let (mut page, mut stranger) = (Page::bind().await?, Page::bind().await?);
    let allowed = format!("[{:?}]", page.origin()).leak();
    let cluster = Cluster::start(&ClusterOptions {
        searchds: 1,
        gateway: vec![("NEARFIELD_CORS__ALLOWED_ORIGINS", allowed)],
        ..ClusterOptions::default()
    })?;
    let claims = Claims::of_tenant("browser");
    let token = cluster.token(&claims)?;
    let space = Space::with(cluster.client_as(Protocol::Http2, &claims)?, token.clone());
    space.fill("c", json!({"dimension": 4}), &points(82, 60, 4)).await?;
    let expected = ids(&space.search(json!({"collection": "c", "query": [1, 0, 0, 0], "k": 5})).await?);

    let search =
        v1::SearchRequest { collection: "c".to_owned(), query: vec![1.0, 0.0, 0.0, 0.0], k: 5, ..Default::default() };
    let https = cluster.https()?;
    let calls = json!([
        call(&https, "Search", Some(&token), &search),
        call(&https, "StreamSearch", Some(&token), &search),
        call(&https, "Search", None, &search),
    ]);
    let html = PAGE.replace("CALLS", &calls.to_string());
    let (_, key) = cluster.leaf();

    let answers = Browser::open(&mut page, html.clone(), &key)?.report().await?;
    let unary = read(&answers[0]).with_context(|| answers.to_string())?;
    assert_eq!((unary.messages.len(), unary.status()), (1, Some("0")), "{answers}");
    let found = v1::SearchResponse::decode(&unary.messages[0][..])?;
    assert_eq!(found.results.into_iter().map(|hit| hit.vector_id).collect::<Vec<_>>(), expected);
    let streamed = read(&answers[1])?;
    assert_eq!(streamed.status(), Some("0"), "{answers}");
    let hits = streamed.messages.iter().map(|message| v1::SearchResult::decode(&message[..]));
    let hits: Vec<v1::SearchResult> = hits.collect::<Result<_, _>>()?;
    let hits: Vec<String> = hits.into_iter().map(|hit| hit.vector_id).filter(|id| !id.is_empty()).collect();
    assert_eq!(hits, expected);
    assert_eq!(answers[2]["grpcStatus"], "16", "a page may read why it was refused: {answers}");

    let answers = Browser::open(&mut stranger, html, &key)?.report().await?;
    let answers = answers.as_array().context("answers")?;
    assert_eq!(answers.len(), 3);
    for answer in answers {
        assert!(answer["error"].as_str().is_some_and(|error| error.contains("Failed to fetch")), "{answer}");
    }
    Ok(())
}
