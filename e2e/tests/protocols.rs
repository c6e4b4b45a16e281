//! One pipeline, three transports: whatever works over one works over all, with the same answers.

use anyhow::{Context, Result};
use nearfield_testkit::{Claims, Client, Dev, DevOptions, Protocol};
use serde_json::{Value, json};

use crate::space::{API, Space, dev, points};

/// Takes out what two answers to one question may differ in.
fn forget_what_changes(value: &mut Value) {
    match value {
        Value::Object(object) => {
            for changing in ["session", "request_id", "collection_version", "version", "bytes"] {
                object.remove(changing);
            }
            object.values_mut().for_each(forget_what_changes);
        }
        Value::Array(array) => array.iter_mut().for_each(forget_what_changes),
        _ => {}
    }
}

/// The life of a collection over one protocol; what it answers, without what may differ.
async fn life(client: &Client) -> Result<Vec<Value>> {
    let api = |path: &str| format!("{API}/{path}");
    let mut answers = Vec::new();
    let mut keep = |answer: nearfield_testkit::Answer| -> Result<()> {
        let mut body = if answer.body.is_empty() { Value::Null } else { answer.json()? };
        forget_what_changes(&mut body);
        answers.push(json!({"status": answer.status.as_u16(), "type": answer.header("content-type"), "body": body}));
        Ok(())
    };
    keep(client.put(&api("collections/life")).json(&json!({"dimension": 4, "metric": "euclidean"})).send().await?)?;
    let inserted =
        client.post(&api("insert")).json(&json!({"collection": "life", "vectors": points(71, 40, 4)})).send().await?;
    let session = inserted.header("nearfield-session").to_owned();
    keep(inserted)?;
    let search = json!({"collection": "life", "query": [1, 2, 3, 4], "k": 7, "session": session, "include": ["metadata", "values"]});
    keep(client.post(&api("search")).json(&search).send().await?)?;
    keep(
        client
            .get(&api("search?collection=life&query_vector_id=p0001&k=3"))
            .header("nearfield-session", &session)
            .send()
            .await?,
    )?;
    keep(
        client
            .post(&api("search/batch"))
            .json(&json!({"searches": [search, {"collection": "no", "query": [1]}]}))
            .send()
            .await?,
    )?;
    keep(client.get(&api("embed/p0002?collection=life")).header("nearfield-session", &session).send().await?)?;
    keep(
        client
            .post(&api("update"))
            .json(&json!({"collection": "life", "id": "p0002", "metadata": {"x": 1}}))
            .send()
            .await?,
    )?;
    keep(client.post(&api("delete")).json(&json!({"collection": "life", "ids": ["p0002"]})).send().await?)?;
    keep(client.get(&api("nothing")).send().await?)?;
    keep(client.post(&api("search")).json(&json!({"collection": "life", "query": [1]})).send().await?)?;
    keep(client.post(&api("search")).body("{").header("content-type", "application/json").send().await?)?;
    keep(client.delete(&api("collections/life")).send().await?)?;
    keep(client.clone().without_credentials().get(&api("collections")).send().await?)?;
    Ok(answers)
}

#[tokio::test]
async fn the_same_calls_give_the_same_answers() -> Result<()> {
    let mut all = Vec::new();
    for protocol in Protocol::ALL {
        let space = Space::over(protocol, &format!("protocols-{protocol:?}").to_lowercase())?;
        all.push(life(&space.client).await.with_context(|| format!("{protocol:?}"))?);
    }
    assert_eq!(
        all[0].iter().map(|a| a["status"].as_u64().unwrap_or(0)).collect::<Vec<_>>(),
        [201, 200, 200, 200, 200, 200, 200, 200, 404, 400, 400, 204, 401]
    );
    assert_eq!(all[0], all[1], "h1 and h2");
    assert_eq!(all[1], all[2], "h2 and h3");
    Ok(())
}

#[tokio::test]
async fn http3_is_announced_on_the_same_port() -> Result<()> {
    let port = dev()?.client(Protocol::Http2)?.addr().port();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let answer = dev()?.client(protocol)?.get("/health/ready").send().await?;
        let announced = answer.header("alt-svc");
        assert!(announced.contains(&format!("h3=\":{port}\"")), "{protocol:?}: Alt-Svc: {announced:?}");
    }
    Ok(())
}

#[tokio::test]
async fn head_is_get_without_the_body() -> Result<()> {
    let space = Space::new("protocols-head")?;
    space.fill("c", json!({"dimension": 4}), &points(72, 20, 4)).await?;
    for protocol in Protocol::ALL {
        let client = space.client(protocol)?;
        for path in [
            "/health/ready",
            "/api/v1/openapi.json",
            "/api/v1/search?collection=c&query_vector_id=p0001",
            "/api/v1/collections/none",
        ] {
            let (get, head) = (client.get(path).send().await?, client.request(http::Method::HEAD, path).send().await?);
            assert_eq!((head.status, head.body.len()), (get.status, 0), "{protocol:?} {path}");
            assert_eq!(head.header("content-type"), get.header("content-type"), "{protocol:?} {path}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn many_requests_share_a_connection() -> Result<()> {
    let space = Space::new("protocols-many")?;
    space.fill("c", json!({"dimension": 4}), &points(73, 100, 4)).await?;
    for protocol in [Protocol::Http2, Protocol::Http3] {
        let client = space.client(protocol)?;
        let requests = (0..200).map(|i| {
            let body = json!({"collection": "c", "query": [i, 1, 2, 3], "k": 5});
            client.post(&format!("{API}/search")).json(&body).send()
        });
        for answer in futures::future::try_join_all(requests).await? {
            answer.expect(200)?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn ipv6_serves_like_ipv4() -> Result<()> {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("this machine has no IPv6 loopback: nothing to see");
        return Ok(());
    }
    let dev = Dev::start(&DevOptions { listen: Some("[::1]:0".to_owned()), ..DevOptions::default() })?;
    assert!(dev.https()?.starts_with("https://[::1]:"), "{}", dev.https()?);
    for protocol in Protocol::ALL {
        let client = dev.client_as(protocol, &Claims::all())?;
        client.get(&format!("{API}/collections")).send().await?.expect(200).with_context(|| format!("{protocol:?}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn a_query_asks_what_a_post_asks() -> Result<()> {
    let space = Space::new("protocols-query")?;
    space.fill("c", json!({"dimension": 4}), &points(74, 60, 4)).await?;
    let search = json!({"collection": "c", "query": [1, 2, 3, 4], "k": 7, "session": space.session()});
    let batch = json!({"searches": [search]});
    let query = || http::Method::QUERY;
    for protocol in Protocol::ALL {
        let client = space.client(protocol)?;
        for (path, body) in [("search", &search), ("search/batch", &batch), ("stream/search", &search)] {
            let path = format!("{API}/{path}");
            let posted = client.post(&path).json(body).send().await?;
            let queried = client.request(query(), &path).json(body).send().await?;
            assert_eq!((queried.status.as_u16(), posted.status.as_u16()), (200, 200), "{protocol:?} {path}");
            // All but the name of the request.
            let known = |answer: &nearfield_testkit::Answer| answer.text().lines().skip(1).collect::<String>();
            assert_eq!(known(&queried), known(&posted), "{protocol:?} {path}");
        }
        let path = format!("{API}/search");
        let undeclared = client.request(query(), &path).body(search.to_string()).send().await?;
        assert_eq!(undeclared.problem(400)?["errors"][0]["pointer"], "Content-Type", "{protocol:?}");
        let other = client.request(query(), &path).header("content-type", "text/plain").body("x").send().await?;
        other.problem(415)?;
        assert_eq!(other.header("accept-query"), "application/json", "{protocol:?}");
        let refused = client.request(query(), &format!("{API}/insert")).json(&search).send().await?;
        refused.problem(405)?;
        assert_eq!(refused.header("allow"), "POST, OPTIONS", "{protocol:?}");

        let options = client.without_credentials().request(http::Method::OPTIONS, &path).send().await?;
        assert_eq!(options.status, 204, "{protocol:?}");
        assert_eq!(options.header("allow"), "GET, HEAD, POST, QUERY, OPTIONS", "{protocol:?}");
        assert_eq!(options.header("accept-query"), "application/json", "{protocol:?}");
    }
    Ok(())
}
