//! Compressed bodies, both ways: taken in, bounded, and given when asked for.

use anyhow::Result;
use async_compression::tokio::bufread;
use nearfield_testkit::Answer;
use serde_json::json;
use tokio::io::AsyncReadExt;

use crate::space::{API, Space, ids, points};

const ENCODINGS: [&str; 3] = ["br", "gzip", "zstd"];

async fn compress(encoding: &str, bytes: &[u8]) -> Result<Vec<u8>> {
    let level = async_compression::Level::Fastest;
    let mut out = Vec::new();
    match encoding {
        "br" => bufread::BrotliEncoder::with_quality(bytes, level).read_to_end(&mut out).await?,
        "gzip" => bufread::GzipEncoder::with_quality(bytes, level).read_to_end(&mut out).await?,
        "zstd" => bufread::ZstdEncoder::with_quality(bytes, level).read_to_end(&mut out).await?,
        other => anyhow::bail!("no encoder for {other}"),
    };
    Ok(out)
}

async fn decompress(answer: &Answer) -> Result<Vec<u8>> {
    let bytes = &answer.body[..];
    let mut out = Vec::new();
    match answer.header("content-encoding") {
        "br" => bufread::BrotliDecoder::new(bytes).read_to_end(&mut out).await?,
        "gzip" => bufread::GzipDecoder::new(bytes).read_to_end(&mut out).await?,
        "zstd" => bufread::ZstdDecoder::new(bytes).read_to_end(&mut out).await?,
        other => anyhow::bail!("Content-Encoding {other:?}"),
    };
    Ok(out)
}

#[tokio::test]
async fn a_compressed_body_is_read() -> Result<()> {
    let space = Space::new("bodies-in")?;
    space.create("c", json!({"dimension": 8})).await?;
    for (i, encoding) in ENCODINGS.iter().enumerate() {
        let points = points(i as u64, 50, 8);
        let body = serde_json::to_vec(&json!({"collection": "c", "vectors": points}))?;
        let request = space.client.post(&format!("{API}/insert")).header("content-type", "application/json");
        let request = request.header("content-encoding", encoding).body(compress(encoding, &body).await?);
        assert_eq!(request.send().await?.expect(200)?["inserted"], 50, "{encoding}");
        let lines: String = points.iter().map(|p| format!("{p}\n")).collect();
        let request = space.client.post(&format!("{API}/insert?collection=c"));
        let request = request.header("content-type", "application/x-ndjson").header("content-encoding", encoding);
        let answer = request.body(compress(encoding, lines.as_bytes()).await?).send().await?;
        assert_eq!(answer.expect(200)?["inserted"], 50, "{encoding}");
    }
    Ok(())
}

#[tokio::test]
async fn a_small_body_that_grows_huge_is_413() -> Result<()> {
    let space = Space::new("bodies-bomb")?;
    let zeros = vec![b' '; 96 << 20];
    for encoding in ENCODINGS {
        let bomb = compress(encoding, &zeros).await?;
        assert!(bomb.len() < 2 << 20, "{encoding}: {} bytes", bomb.len());
        let request = space.client.post(&format!("{API}/search")).header("content-type", "application/json");
        request.header("content-encoding", encoding).body(bomb).send().await?.problem(413)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_body_that_is_not_what_its_encoding_says_is_400() -> Result<()> {
    let space = Space::new("bodies-broken")?;
    let body = serde_json::to_vec(&json!({"collection": "c", "query": vec![0.5; 1000]}))?;
    for encoding in ENCODINGS {
        let whole = compress(encoding, &body).await?;
        for broken in [&whole[..whole.len() / 2], b"this is not compressed at all", b""] {
            let request = space.client.post(&format!("{API}/search")).header("content-type", "application/json");
            request.header("content-encoding", encoding).body(broken.to_vec()).send().await?.problem(400)?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_encoding_that_we_do_not_know_is_415() -> Result<()> {
    let space = Space::new("bodies-unknown")?;
    for encoding in ["compress", "snappy", "gzip, gzip, gzip, gzip"] {
        let request = space.client.post(&format!("{API}/search")).header("content-type", "application/json");
        request.header("content-encoding", encoding).body("{}").send().await?.problem(415)?;
    }
    Ok(())
}

#[tokio::test]
async fn an_answer_is_compressed_when_asked() -> Result<()> {
    let space = Space::new("bodies-out")?;
    space.fill("c", json!({"dimension": 8}), &points(3, 200, 8)).await?;
    let body = json!({"collection": "c", "query": [1, 0, 0, 0, 0, 0, 0, 0], "k": 200, "session": space.session()});
    let search =
        |accept: &str| space.client.post(&format!("{API}/search")).header("accept-encoding", accept).json(&body).send();
    let plain = search("identity").await?;
    assert_eq!(plain.header("content-encoding"), "");
    for encoding in ENCODINGS {
        let answer = search(encoding).await?;
        assert_eq!(answer.header("content-encoding"), encoding);
        assert!(
            answer.header("vary").to_ascii_lowercase().contains("accept-encoding"),
            "Vary: {}",
            answer.header("vary")
        );
        assert!(answer.body.len() < plain.body.len(), "{encoding}");
        let json: serde_json::Value = serde_json::from_slice(&decompress(&answer).await?)?;
        assert_eq!(ids(&json), ids(&plain.json()?), "{encoding}");
    }
    Ok(())
}
