//! SIGTERM under load: what was admitted is answered, what was acknowledged is stored, and the process leaves with 0.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nearfield_testkit::{Claims, Client, Dev, DevOptions, Protocol, WebSocket, eventually};
use serde_json::json;

use crate::space::{API, Space, points};

const LEAVING: Duration = Duration::from_secs(45);

/// How many requests were answered.
#[derive(Default)]
struct Record {
    answered: AtomicUsize,
}

/// A request may be so long on its way to a server on a busy machine, and is not admitted before it is there.
const ON_ITS_WAY: Duration = Duration::from_millis(500);

/// Searches in a loop until a request fails; when the failed one was sent, and how it failed.
async fn read_until_failure(client: Client, record: Arc<Record>) -> Result<(Instant, String)> {
    for i in 0.. {
        let sent = Instant::now();
        let body = json!({"collection": "c", "query": [i, 1, 2, 3], "k": 10, "exact": true});
        match client.post(&format!("{API}/search")).json(&body).send().await {
            // A draining server may refuse what it has not admitted.
            Ok(answer) if answer.status == 503 => return Ok((sent, answer.text())),
            Ok(answer) => drop(answer.expect(200)?),
            Err(error) => return Ok((sent, format!("{error:#}"))),
        }
        record.answered.fetch_add(1, Ordering::Relaxed);
    }
    unreachable!("the numbers do not end")
}

/// Inserts in a loop until a request fails; the ids that were acknowledged.
async fn write_until_failure(client: Client, prefix: String, record: Arc<Record>) -> Result<Vec<String>> {
    let mut acknowledged = Vec::new();
    for i in 0.. {
        let id = format!("{prefix}-{i}");
        let body = json!({"collection": "c", "vectors": [{"id": id, "values": [i, 1, 2, 3]}]});
        match client.post(&format!("{API}/insert")).json(&body).send().await {
            Ok(answer) if answer.status == 200 => acknowledged.push(id),
            _ => break,
        }
        record.answered.fetch_add(1, Ordering::Relaxed);
    }
    Ok(acknowledged)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminated_server_loses_nothing() -> Result<()> {
    let data = tempfile::tempdir()?;
    let dev = Dev::start_over(data.path(), &DevOptions::default())?;
    let claims = Claims::of_tenant("shutdown");
    let space = Space::with(dev.client_as(Protocol::Http2, &claims)?, dev.token(&claims)?);
    space.fill("c", json!({"dimension": 4}), &points(101, 500, 4)).await?;

    let record = Arc::new(Record::default());
    let mut readers = Vec::new();
    let mut writers = Vec::new();
    for (i, protocol) in Protocol::ALL.into_iter().enumerate() {
        let client = dev.client_as(protocol, &claims)?;
        readers.push((protocol, tokio::spawn(read_until_failure(client.separate(), record.clone()))));
        writers.push(tokio::spawn(write_until_failure(client, format!("w{i}"), record.clone())));
    }
    let mut socket = WebSocket::connect(&dev.client_as(Protocol::Http1, &claims)?).await?;
    let failed = || readers.iter().any(|(_, reader)| reader.is_finished());
    let busy = || async { (record.answered.load(Ordering::Relaxed) > 300 || failed()).then_some(()) };
    eventually("the load is on", Duration::from_secs(60), busy).await?;

    let terminated = Instant::now();
    dev.process().terminate();
    let close = socket.closed().await?.context("a close frame")?;
    assert_eq!(u16::from(close.code), 1001, "{close:?}");
    assert!(!close.reason.is_empty(), "the close says why");
    for (protocol, reader) in readers {
        let (sent, how) = reader.await??;
        assert!(sent + ON_ITS_WAY >= terminated, "{protocol:?}: a request failed that was sent before SIGTERM: {how}");
    }
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await??);
    }
    let exit = dev.process().wait_exit(LEAVING)?;
    assert!(exit.success(), "{exit}:\n{}", dev.process().tail(40));
    drop(dev);

    let dev = Dev::start_over(data.path(), &DevOptions::default())?;
    let client = dev.client_as(Protocol::Http2, &claims)?;
    for id in &acknowledged {
        let path = format!("{API}/embed/{id}?collection=c");
        client.get(&path).send().await?.expect(200).with_context(|| format!("{id} was acknowledged"))?;
    }
    assert!(!acknowledged.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_second_server_over_the_same_data_is_refused() -> Result<()> {
    let data = tempfile::tempdir()?;
    let _first = Dev::start_over(data.path(), &DevOptions::default())?;
    assert!(Dev::start_over(data.path(), &DevOptions::default()).is_err(), "two writers of one log");
    Ok(())
}

#[tokio::test]
async fn a_killed_server_keeps_what_it_acknowledged() -> Result<()> {
    let data = tempfile::tempdir()?;
    let claims = Claims::of_tenant("killed");
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let dev = Dev::start_over(data.path(), &DevOptions::default())?;
        let client = dev.client_as(Protocol::Http2, &claims)?;
        let made = client.put(&format!("{API}/collections/c")).json(&json!({"dimension": 4})).send().await?;
        assert_eq!(made.status, if round == 0 { 201 } else { 200 });
        for id in &acknowledged {
            let answer = client.get(&format!("{API}/embed/{id}?collection=c")).send().await?;
            answer.expect(200).with_context(|| format!("{id} was acknowledged before kill -9"))?;
        }
        let record = Arc::new(Record::default());
        let writers: Vec<_> = (0..4)
            .map(|w| tokio::spawn(write_until_failure(client.separate(), format!("r{round}w{w}"), record.clone())))
            .collect();
        let busy = || async { (record.answered.load(Ordering::Relaxed) > 100).then_some(()) };
        eventually("the load is on", Duration::from_secs(60), busy).await?;
        dev.process().kill()?;
        for writer in writers {
            acknowledged.extend(writer.await??);
        }
    }
    let dev = Dev::start_over(data.path(), &DevOptions::default())?;
    let client = dev.client_as(Protocol::Http2, &claims)?;
    let search = json!({"collection": "c", "query": [1, 1, 2, 3], "k": 10_000, "exact": true});
    let found = client.post(&format!("{API}/search")).json(&search).send().await?.expect(200)?;
    let found: std::collections::HashSet<String> = crate::space::ids(&found).into_iter().collect();
    let missing: Vec<&String> = acknowledged.iter().filter(|id| !found.contains(*id)).collect();
    assert!(missing.is_empty(), "{} of {} acknowledged are gone: {missing:?}", missing.len(), acknowledged.len());
    Ok(())
}
