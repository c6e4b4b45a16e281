//! gRPC-Web over every HTTP version, by a client of a few lines: frames as a browser's library writes and reads them.

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nearfield_proto::v1;
use nearfield_testkit::{Answer, Client, Protocol};
use prost::Message;
use serde_json::json;

use crate::space::{Space, ids, points};

pub(crate) const BINARY: &str = "application/grpc-web+proto";
const TEXT: &str = "application/grpc-web-text";
/// The flag of the frame that stands for the trailers.
const TRAILERS: u8 = 0x80;

/// What a call gave: messages, and the trailers' lines.
pub(crate) struct Called {
    pub(crate) messages: Vec<Vec<u8>>,
    trailers: String,
}

impl Called {
    /// From the bytes of an answer's body.
    pub(crate) fn of(body: &[u8]) -> Result<Self> {
        let mut called = Self { messages: Vec::new(), trailers: String::new() };
        let mut rest = body;
        while !rest.is_empty() {
            let (head, tail) = rest.split_at_checked(5).context("a frame's head")?;
            let length = u32::from_be_bytes(head[1..].try_into()?) as usize;
            let (payload, tail) = tail.split_at_checked(length).context("a frame")?;
            match head[0] {
                0 => called.messages.push(payload.to_vec()),
                TRAILERS => called.trailers = String::from_utf8(payload.to_vec())?,
                other => anyhow::bail!("a frame with the flags {other:#x}"),
            }
            rest = tail;
        }
        Ok(called)
    }

    pub(crate) fn status(&self) -> Option<&str> {
        self.trailers.lines().find_map(|line| line.strip_prefix("grpc-status:")).map(str::trim)
    }
}

/// A message as it goes out.
pub(crate) fn frame(message: &impl Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    let length = u32::try_from(bytes.len()).expect("tests send short messages");
    [&[0][..], &length.to_be_bytes(), &bytes].concat()
}

async fn call(client: &Client, kind: &str, method: &str, message: &impl Message) -> Result<Called> {
    let mut body = frame(message);
    if kind == TEXT {
        body = STANDARD.encode(body).into_bytes();
    }
    let request = client.post(&format!("/nearfield.v1.VectorSearch/{method}"));
    let answer = request.header("content-type", kind).header("x-grpc-web", "1").body(body).send().await?;
    ensure!(answer.status == 200 && answer.trailers.is_empty(), "{} {:?}", answer.status, answer.trailers);
    ensure!(answer.header("content-type").starts_with(kind.split('+').next().unwrap_or(kind)), "{:?}", answer.headers);
    called(kind, &answer)
}

fn called(kind: &str, answer: &Answer) -> Result<Called> {
    let body = if kind == TEXT { decode_pieces(&answer.body)? } else { answer.body.to_vec() };
    let mut called = Called::of(&body)?;
    // Refused before it began: the head says it all.
    if let Some(status) = answer.headers.get("grpc-status") {
        called.trailers = format!("grpc-status:{}", status.to_str()?);
    }
    Ok(called)
}

/// Pieces of base64, each with padding of its own.
fn decode_pieces(text: &[u8]) -> Result<Vec<u8>> {
    let quads: Result<Vec<Vec<u8>>, _> = text.chunks(4).map(|quad| STANDARD.decode(quad)).collect();
    Ok(quads?.concat())
}

#[tokio::test]
async fn browsers_call_as_others_do() -> Result<()> {
    let space = Space::new("grpc-web")?;
    space.fill("c", json!({"dimension": 4}), &points(81, 60, 4)).await?;
    let expected = ids(&space.search(json!({"collection": "c", "query": [1, 0, 0, 0], "k": 5})).await?);
    let search =
        v1::SearchRequest { collection: "c".to_owned(), query: vec![1.0, 0.0, 0.0, 0.0], k: 5, ..Default::default() };
    for protocol in Protocol::ALL {
        let client = space.client(protocol)?;
        for kind in [BINARY, TEXT, "application/grpc-web"] {
            let found = call(&client, kind, "Search", &search).await.with_context(|| format!("{protocol:?} {kind}"))?;
            assert_eq!((found.messages.len(), found.status()), (1, Some("0")), "{protocol:?} {kind}");
            let response = v1::SearchResponse::decode(&found.messages[0][..])?;
            let hits: Vec<String> = response.results.into_iter().map(|hit| hit.vector_id).collect();
            assert_eq!(hits, expected, "{protocol:?} {kind}");

            let streamed = call(&client, kind, "StreamSearch", &search).await?;
            assert_eq!(streamed.status(), Some("0"), "{protocol:?} {kind}");
            let hits: Vec<v1::SearchResult> =
                streamed.messages.iter().map(|m| v1::SearchResult::decode(&m[..])).collect::<Result<_, _>>()?;
            let hits: Vec<String> = hits.into_iter().map(|h| h.vector_id).filter(|id| !id.is_empty()).collect();
            assert_eq!(hits, expected, "{protocol:?} {kind}");

            let unknown = v1::SearchRequest { collection: "none".to_owned(), ..search.clone() };
            let refused = call(&client, kind, "Search", &unknown).await?;
            assert_eq!((refused.messages.len(), refused.status()), (0, Some("5")), "{protocol:?} {kind}");
        }
        let refused = call(&client.without_credentials(), TEXT, "Search", &search).await?;
        assert_eq!(refused.status(), Some("16"), "{protocol:?}");
    }
    Ok(())
}
