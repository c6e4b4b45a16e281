//! The caller's deadline, carried to the index.

use std::time::Duration;

use anyhow::{Context, Result};
use nearfield_proto::v1;
use nearfield_proto::v1::vector_search_client::VectorSearchClient;
use nearfield_testkit::grpc::{self, Credentials};
use nearfield_testkit::{Claims, Dev, DevOptions, Protocol};
use prost::Message;
use serde_json::json;
use tonic::Code;

use crate::space::{API, Space, dev, points};

/// A session of another server: a write that this one will never see.
async fn foreign_session() -> Result<String> {
    let other = Dev::start(&DevOptions::default())?;
    let claims = Claims::of_tenant("deadlines");
    let space = Space::with(other.client_as(Protocol::Http2, &claims)?, other.token(&claims)?);
    space.fill("c", json!({"dimension": 2}), &points(81, 1, 2)).await?;
    space.session().context("a session")
}

#[tokio::test]
async fn a_read_of_a_write_that_never_comes_is_504() -> Result<()> {
    let session = foreign_session().await?;
    let space = Space::new("deadlines")?;
    space.create("c", json!({"dimension": 2})).await?;
    let body = json!({"collection": "c", "query": [1, 0], "session": session});
    for protocol in Protocol::ALL {
        let request = space.client(protocol)?.post(&format!("{API}/search")).json(&body);
        request
            .header("x-request-timeout", "200ms")
            .send()
            .await?
            .problem(504)
            .with_context(|| format!("{protocol:?}"))?;
    }
    let embed = space.client.get(&format!("{API}/embed/a?collection=c")).header("nearfield-session", &session);
    embed.header("x-request-timeout", "200ms").send().await?.problem(504)?;

    // tonic's channel would end the call itself: the gateway is asked by hand, and searchd's own answer may lose the race.
    let search = v1::SearchRequest {
        collection: "c".to_owned(),
        query: vec![1.0, 0.0],
        session: session.clone(),
        ..Default::default()
    };
    let message = search.encode_to_vec();
    let framed = [&[0][..], &u32::try_from(message.len())?.to_be_bytes(), &message].concat();
    let call = space.client.post("/nearfield.v1.VectorSearch/Search").header("content-type", "application/grpc");
    let answer = call.header("te", "trailers").header("grpc-timeout", "200m").body(framed).send().await?;
    let status = answer.trailers.get("grpc-status").or_else(|| answer.headers.get("grpc-status"));
    assert_eq!(status.map(|s| s.as_bytes()), Some(&b"4"[..]), "{answer:?}");
    let direct = grpc::searchd(&dev()?.grpc()?, Credentials::tenant("deadlines")?).await?;
    let mut request = tonic::Request::new(search);
    request.set_timeout(Duration::from_millis(200));
    let status = VectorSearchClient::new(direct).search(request).await.err().context("refused")?;
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
    Ok(())
}

#[tokio::test]
async fn a_deadline_with_time_to_spare_changes_nothing() -> Result<()> {
    let space = Space::new("deadlines-spare")?;
    space.fill("c", json!({"dimension": 2}), &points(82, 5, 2)).await?;
    for timeout in ["20s", "20000ms", "1m"] {
        let body = json!({"collection": "c", "query": [1, 0]});
        let request = space.client.post(&format!("{API}/search")).json(&body).header("x-request-timeout", timeout);
        request.send().await?.expect(200).context(timeout)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_deadline_that_is_none_is_400() -> Result<()> {
    let space = Space::new("deadlines-bad")?;
    for timeout in ["soon", "-1s", "1", "ms", "99999999999999999999s"] {
        let request = space.client.get(&format!("{API}/collections")).header("x-request-timeout", timeout);
        request.send().await?.problem(400).context(timeout)?;
    }
    Ok(())
}

#[tokio::test]
async fn waiting_readers_do_not_hold_up_others() -> Result<()> {
    let session = foreign_session().await?;
    let space = Space::new("deadlines-waiting")?;
    space.fill("c", json!({"dimension": 2}), &points(83, 5, 2)).await?;
    let waiting = (0..50).map(|i| {
        let body = json!({"collection": "c", "query": [1, i], "session": session});
        space.client.post(&format!("{API}/search")).json(&body).header("x-request-timeout", "3s").send()
    });
    let others = async {
        for i in 0..20 {
            let body = json!({"collection": "c", "query": [2, i]});
            let request = space.client.post(&format!("{API}/search")).json(&body);
            request.header("x-request-timeout", "2500ms").send().await?.expect(200)?;
        }
        anyhow::Ok(())
    };
    let (waited, others) =
        tokio::join!(futures::future::join_all(waiting), tokio::time::timeout(Duration::from_secs(20), others));
    others??;
    for answer in waited {
        answer?.problem(504)?;
    }
    Ok(())
}
