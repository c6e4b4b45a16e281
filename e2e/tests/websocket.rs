//! WebSocket, over an HTTP/1.1 upgrade, an HTTP/2 stream and an HTTP/3 stream.

use anyhow::{Context, Result};
use nearfield_testkit::{Claims, Protocol, WebSocket};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::space::{Space, dev, ids, points};

const OVER: [Protocol; 3] = Protocol::ALL;

async fn filled(name: &str) -> Result<Space> {
    let space = Space::new(name)?;
    space.fill("c", json!({"dimension": 4}), &points(51, 200, 4)).await?;
    Ok(space)
}

#[tokio::test]
async fn a_streamed_search_is_the_search() -> Result<()> {
    let space = filled("ws-stream").await?;
    let search = json!({"collection": "c", "query": [1, 0, 0.5, 0], "k": 50, "session": space.session()});
    let expected = space.search(search.clone()).await?;
    for protocol in OVER {
        let mut socket = WebSocket::connect(&space.client(protocol)?).await?;
        let mut message = search.clone();
        message["type"] = json!("search");
        message["id"] = json!("q1");
        message["stream"] = json!(true);
        socket.send(&message).await?;
        let messages = socket.until("q1", &["search_complete", "error"]).await?;
        let (last, hits) = messages.split_last().context("messages")?;
        assert_eq!((&last["type"], &last["total_results"]), (&json!("search_complete"), &json!(50)), "{last}");
        let found: Vec<String> = hits.iter().map(|h| h["vector_id"].as_str().unwrap_or_default().to_owned()).collect();
        assert_eq!(found, ids(&expected), "{protocol:?}");
        assert!(hits.iter().all(|h| h["type"] == "result" && h["score"].is_number()), "{hits:?}");

        message["stream"] = json!(false);
        message["id"] = json!("q2");
        socket.send(&message).await?;
        let messages = socket.until("q2", &["results", "error"]).await?;
        assert_eq!(ids(&messages[0]), ids(&expected), "{protocol:?}");
        socket.close().await?;
    }
    Ok(())
}

#[tokio::test]
async fn writes_are_acknowledged() -> Result<()> {
    let space = filled("ws-writes").await?;
    for protocol in OVER {
        let mut socket = WebSocket::connect(&space.client(protocol)?).await?;
        let point = json!({"id": "new", "values": [0, 0, 0, 1], "metadata": {"a": 1}});
        socket.send(&json!({"type": "insert", "id": "w1", "collection": "c", "vectors": [point]})).await?;
        let ack = socket.until("w1", &["ack", "error"]).await?.pop().context("an answer")?;
        assert_eq!((&ack["type"], &ack["inserted"]), (&json!("ack"), &json!(1)), "{ack}");
        let session = ack["session"].as_str().context("a session")?.to_owned();
        let search = json!({"type": "search", "id": "s1", "collection": "c", "query": [0, 0, 0, 1], "k": 300, "stream": false, "session": session});
        socket.send(&search).await?;
        let found = socket.until("s1", &["results", "error"]).await?.pop().context("an answer")?;
        assert!(ids(&found).contains(&"new".to_owned()), "{protocol:?}");
        socket.send(&json!({"type": "delete", "id": "w3", "collection": "c", "ids": ["new"]})).await?;
        let ack = socket.until("w3", &["ack", "error"]).await?.pop().context("an answer")?;
        assert_eq!((&ack["type"], &ack["deleted"]), (&json!("ack"), &json!(1)), "{ack}");
    }
    Ok(())
}

#[tokio::test]
async fn ping_is_answered_and_control_frames_too() -> Result<()> {
    let space = filled("ws-ping").await?;
    for protocol in OVER {
        let mut socket = WebSocket::connect(&space.client(protocol)?).await?;
        socket.send(&json!({"type": "ping", "id": "p"})).await?;
        assert_eq!(socket.until("p", &["pong"]).await?.len(), 1);
        socket.send_message(Message::Ping("echo".into())).await?;
        assert_eq!(socket.message().await?, Some(Message::Pong("echo".into())));
    }
    Ok(())
}

#[tokio::test]
async fn a_bad_message_is_told_and_the_connection_stays() -> Result<()> {
    let space = filled("ws-bad").await?;
    for protocol in OVER {
        let mut socket = WebSocket::connect(&space.client(protocol)?).await?;
        let check = async |socket: &mut WebSocket, message: Value, status: u16| -> Result<()> {
            socket.send(&message).await?;
            let answer = socket.json().await?;
            assert_eq!(
                (&answer["type"], &answer["problem"]["status"]),
                (&json!("error"), &json!(status)),
                "{message}: {answer}"
            );
            assert_eq!(answer["id"], message["id"], "{answer}");
            Ok(())
        };
        check(&mut socket, json!({"type": "search", "id": "a", "collection": "c", "query": [1]}), 400).await?;
        check(&mut socket, json!({"type": "search", "id": "b", "collection": "nowhere", "query": [1]}), 404).await?;
        check(&mut socket, json!({"type": "dance", "id": "c"}), 400).await?;
        check(&mut socket, json!({"id": "d"}), 400).await?;
        check(
            &mut socket,
            json!({"type": "insert", "id": "e", "collection": "c", "vectors": [{"id": "x", "values": [1]}]}),
            400,
        )
        .await?;
        for garbage in ["", "{", "null", "[]", "\"text\""] {
            socket.send_message(Message::text(garbage)).await?;
            let answer = socket.json().await?;
            assert_eq!((&answer["type"], &answer["problem"]["status"]), (&json!("error"), &json!(400)), "{garbage:?}");
        }
        socket
            .send(&json!({"type": "search", "id": "z", "collection": "c", "query_vector_id": "p0001", "stream": false}))
            .await?;
        assert_eq!(socket.until("z", &["results"]).await?.len(), 1);
    }
    Ok(())
}

#[tokio::test]
async fn many_searches_run_at_once() -> Result<()> {
    let space = filled("ws-many").await?;
    for protocol in OVER {
        let mut socket = WebSocket::connect(&space.client(protocol)?).await?;
        for i in 0..40 {
            let id = format!("q{i}");
            let search = json!({"type": "search", "id": id, "collection": "c", "query_vector_id": format!("p{i:04}"), "k": 5, "stream": i % 2 == 0});
            socket.send(&search).await?;
        }
        let mut open: std::collections::HashSet<String> = (0..40).map(|i| format!("q{i}")).collect();
        while !open.is_empty() {
            let message = socket.json().await?;
            assert_ne!(message["type"], "error", "{message}");
            if message["type"] != "result" {
                let id = message["id"].as_str().unwrap_or_default();
                assert!(open.remove(id), "answered twice, or never asked: {message}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_browser_brings_its_token_as_a_subprotocol() -> Result<()> {
    let space = filled("ws-browser").await?;
    for protocol in OVER {
        let client = dev()?.client(protocol)?;
        let bearer = format!("bearer.{}", space.token);
        let mut socket = match WebSocket::open(&client, &["nearfield.v1", &bearer]).await? {
            Ok(socket) => socket,
            Err(refusal) => anyhow::bail!("{protocol:?}: {} {}", refusal.status, refusal.text()),
        };
        if protocol != Protocol::Http3 {
            assert_eq!(socket.subprotocol.as_deref(), Some("nearfield.v1"), "{protocol:?}");
        }
        socket
            .send(&json!({"type": "search", "id": "q", "collection": "c", "query": [1, 0, 0, 0], "stream": false}))
            .await?;
        assert_eq!(socket.until("q", &["results", "error"]).await?[0]["type"], "results");
    }
    Ok(())
}

#[tokio::test]
async fn without_credentials_the_upgrade_is_refused() -> Result<()> {
    let refused = WebSocket::connect(&dev()?.client(Protocol::Http3)?).await.err().context("accepted")?;
    assert_eq!(refused.to_string(), "refused with 401");
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let client = dev()?.client(protocol)?;
        for subprotocols in [&[][..], &["nearfield.v1"], &["nearfield.v1", "bearer.nonsense"]] {
            let Err(refusal) = WebSocket::open(&client, subprotocols).await? else { anyhow::bail!("accepted") };
            refusal.problem(401)?;
        }
    }
    let plain = dev()?.client_as(Protocol::Http1, &Claims::all())?.get(WebSocket::PATH).send().await?;
    assert!(plain.status.is_client_error(), "a GET that is no upgrade: {}", plain.status);
    Ok(())
}

#[tokio::test]
async fn a_write_needs_its_scope_message_by_message() -> Result<()> {
    let space = filled("ws-scope").await?;
    let claims = Claims { scope: "vectors:read".to_owned(), ..Claims::of_tenant("ws-scope") };
    let mut socket = WebSocket::connect(&dev()?.client_as(Protocol::Http1, &claims)?).await?;
    let insert =
        json!({"type": "insert", "id": "w", "collection": "c", "vectors": [{"id": "x", "values": [1, 0, 0, 0]}]});
    socket.send(&insert).await?;
    let answer = socket.until("w", &["ack", "error"]).await?.pop().context("an answer")?;
    assert_eq!(answer["problem"]["status"], 403, "{answer}");
    drop(space);
    Ok(())
}

#[tokio::test]
async fn a_connection_ends_with_its_token() -> Result<()> {
    for protocol in OVER {
        let claims = Claims { expires_in: 3, ..Claims::all() };
        let mut socket = WebSocket::connect(&dev()?.client_as(protocol, &claims)?).await?;
        socket.send(&json!({"type": "ping", "id": "p"})).await?;
        assert_eq!(socket.until("p", &["pong"]).await?.len(), 1);
        let closed = socket.closed().await?.context("a close frame")?;
        assert_eq!((u16::from(closed.code), closed.reason.as_str()), (1008, "the token has expired"), "{protocol:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_message_past_the_limit_closes_the_connection_and_nothing_else() -> Result<()> {
    let space = filled("ws-large").await?;
    for protocol in OVER {
        let mut socket = WebSocket::connect(&space.client(protocol)?).await?;
        let mut other = WebSocket::connect(&space.client(protocol)?).await?;
        let large = " ".repeat(70 << 20);
        // The server may close before it has taken it all.
        let _ = socket.send_message(Message::text(large)).await;
        let ended = async { while let Ok(Some(_)) = socket.message().await {} };
        tokio::time::timeout(std::time::Duration::from_secs(30), ended).await.context("the socket is closed")?;
        other.send(&json!({"type": "ping", "id": "p"})).await?;
        assert_eq!(other.until("p", &["pong"]).await?.len(), 1);
    }
    Ok(())
}
