//! API keys by the API: made, seen, rotated, revoked; by whom; and the audit log of it all.

use anyhow::{Context, Result};
use nearfield_testkit::{Answer, Claims, Client, Protocol, WebSocket};
use serde_json::{Value, json};

use crate::space::{API, dev};

fn keys(rest: &str) -> String {
    format!("{API}/keys{rest}")
}

async fn create(client: &Client, body: Value) -> Result<Answer> {
    client.post(&keys("")).json(&body).send().await
}

/// A key for reading, with its id.
async fn made(client: &Client) -> Result<(String, String)> {
    let made = create(client, json!({"subject": "ci", "scope": "vectors:read"})).await?.expect(201)?;
    let text = |field: &str| made[field].as_str().map(str::to_owned).with_context(|| format!("{field}: {made}"));
    Ok((text("id")?, text("key")?))
}

async fn read_with(key: &str) -> Result<Answer> {
    let client = dev()?.client(Protocol::Http2)?;
    client.get(&format!("{API}/collections")).header("x-api-key", key).send().await
}

fn admin(tenant: &str) -> Result<Client> {
    dev()?.client_as(Protocol::Http2, &Claims::of_tenant(tenant))
}

#[tokio::test]
async fn a_key_is_made_used_rotated_and_revoked_at_once() -> Result<()> {
    let admin = admin("keys-life")?;
    let (id, key) = made(&admin).await?;
    read_with(&key).await?.expect(200)?;
    let told = admin.get(&keys(&format!("/{id}"))).send().await?.expect(200)?;
    assert_eq!(
        (&told["subject"], &told["tenant"], &told["scope"]),
        (&json!("ci"), &json!("keys-life"), &json!("vectors:read"))
    );
    assert!(told.get("key").is_none() && !told.to_string().contains(&key), "{told}");

    let rotated = admin.post(&keys(&format!("/{id}/rotate"))).json(&json!({"overlap_seconds": 3600})).send().await?;
    assert!(rotated.header("location").starts_with(&keys("/")), "{}", rotated.header("location"));
    let rotated = rotated.expect(201)?;
    assert_eq!(rotated["replaces"], json!(id));
    let successor = rotated["key"].as_str().context("the new key")?;
    read_with(&key).await?.expect(200)?;
    read_with(successor).await?.expect(200)?;
    assert!(admin.get(&keys(&format!("/{id}"))).send().await?.expect(200)?["expires"].is_string());

    for _ in 0..2 {
        assert_eq!(admin.delete(&keys(&format!("/{id}"))).send().await?.status, 204);
    }
    read_with(&key).await?.problem(401)?;
    read_with(successor).await?.expect(200)?;
    admin.post(&keys(&format!("/{id}/rotate"))).json(&json!({})).send().await?.problem(409)?;
    Ok(())
}

#[tokio::test]
async fn a_websocket_ends_with_its_key() -> Result<()> {
    let admin = admin("keys-websocket")?;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let ((id, key), (_, other)) = (made(&admin).await?, made(&admin).await?);
        let open = async |key: &str| WebSocket::connect(&dev()?.client(protocol)?.with_header("x-api-key", key)).await;
        let (mut ending, mut staying) = (open(&key).await?, open(&other).await?);
        admin.delete(&keys(&format!("/{id}"))).send().await?;
        let closed = ending.closed().await?.context("a close frame")?;
        let reason = "the API key has been revoked or has expired";
        assert_eq!((u16::from(closed.code), closed.reason.as_str()), (1008, reason), "{protocol:?}");
        staying.send(&json!({"type": "ping", "id": "p"})).await?;
        assert_eq!(staying.until("p", &["pong"]).await?.len(), 1);
    }
    Ok(())
}

#[tokio::test]
async fn an_administrator_gives_away_no_more_than_they_have() -> Result<()> {
    let dev = dev()?;
    let narrow = Claims { scope: "keys:admin vectors:read".to_owned(), ..Claims::of_tenant("keys-narrow") };
    let narrow = dev.client_as(Protocol::Http2, &narrow)?;
    create(&narrow, json!({"subject": "a", "scope": "vectors:read"})).await?.expect(201)?;
    create(&narrow, json!({"subject": "a", "scope": "vectors:read vectors:write"})).await?.problem(403)?;
    // Not by rotation either.
    let wide = create(&admin("keys-narrow")?, json!({"subject": "a", "scope": "vectors:write"})).await?.expect(201)?;
    let id = wide["id"].as_str().context("an id")?;
    narrow.post(&keys(&format!("/{id}/rotate"))).json(&json!({})).send().await?.problem(403)?;
    // Nor to another tenant, nor on another plan.
    for (field, value) in [("tenant", "keys-other"), ("plan", "premium")] {
        let mut body = json!({"subject": "a", "scope": "vectors:read"});
        body[field] = json!(value);
        let problem = create(&narrow, body).await?.problem(400)?;
        assert_eq!(problem["errors"][0]["pointer"], format!("/{field}"));
    }
    let plain = Claims { scope: "vectors:read vectors:write".to_owned(), ..Claims::of_tenant("keys-narrow") };
    let plain = dev.client_as(Protocol::Http2, &plain)?;
    create(&plain, json!({"subject": "a", "scope": "vectors:read"})).await?.problem(403)?;
    plain.get(&keys("")).send().await?.problem(403)?;
    plain.get(&format!("{API}/audit")).send().await?.problem(403)?;
    Ok(())
}

#[tokio::test]
async fn keys_and_acts_of_other_tenants_are_not_there() -> Result<()> {
    let (ours, theirs) = (admin("keys-ours")?, admin("keys-theirs")?);
    let (id, key) = made(&ours).await?;
    let path = keys(&format!("/{id}"));
    theirs.get(&path).send().await?.problem(404)?;
    theirs.delete(&path).send().await?.problem(404)?;
    theirs.post(&format!("{path}/rotate")).json(&json!({})).send().await?.problem(404)?;
    read_with(&key).await?.expect(200)?;
    assert!(!theirs.get(&keys("")).send().await?.text().contains(&id));
    // Of acts, they are told of what they tried themselves.
    let acts = theirs.get(&format!("{API}/audit")).send().await?.expect(200)?;
    let acts = acts["acts"].as_array().context("acts")?;
    assert!(acts.iter().all(|act| act["tenant"] == "keys-theirs" && act["status"] == 404), "{acts:?}");
    assert_eq!(acts.len(), 2);
    // Pages follow one another.
    for _ in 0..4 {
        made(&ours).await?;
    }
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let page = ours.get(&keys(&format!("?limit=2{after}"))).send().await?.expect(200)?;
        let listed = page["keys"].as_array().context("keys")?;
        assert!(listed.len() <= 2);
        found.extend(listed.iter().map(|key| key["id"].to_string()));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    found.sort();
    found.dedup();
    assert_eq!(found.len(), 5);
    Ok(())
}

#[tokio::test]
async fn every_act_is_written_down_with_who_did_it_and_what_came_of_it() -> Result<()> {
    let admin = admin("keys-audit")?;
    let (id, _) = made(&admin).await?;
    admin.put(&format!("{API}/collections/c")).json(&json!({"dimension": 2})).send().await?.expect(201)?;
    admin.put(&format!("{API}/collections/c")).json(&json!({"dimension": 3})).send().await?.problem(409)?;
    admin.post(&format!("{API}/cache/purge")).json(&json!({"collection": "c"})).send().await?.expect(200)?;
    let deleted = admin.delete(&format!("{API}/collections/c")).send().await?;
    admin.delete(&keys(&format!("/{id}"))).send().await?;
    let (mut acts, mut before) = (Vec::new(), String::new());
    loop {
        let page = admin.get(&format!("{API}/audit?limit=4{before}")).send().await?.expect(200)?;
        acts.extend(page["acts"].as_array().context("acts")?.iter().cloned());
        let Some(next) = page["next"].as_u64() else { break };
        before = format!("&before={next}");
    }
    let told: Vec<String> =
        acts.iter().rev().map(|act| format!("{} {} {}", act["action"], act["target"], act["status"])).collect();
    assert_eq!(
        told,
        [
            format!("\"keys.create\" \"{id}\" 201"),
            "\"collections.create\" \"/api/v1/collections/c\" 201".to_owned(),
            "\"collections.create\" \"/api/v1/collections/c\" 409".to_owned(),
            "\"cache.purge\" \"collection c, 0 ids, 0 tags\" 200".to_owned(),
            "\"collections.delete\" \"/api/v1/collections/c\" 204".to_owned(),
            format!("\"keys.revoke\" \"{id}\" 204"),
        ]
    );
    for act in &acts {
        assert_eq!((&act["subject"], &act["tenant"]), (&json!("tester"), &json!("keys-audit")));
        assert_eq!(act["from"], "127.0.0.1");
    }
    assert_eq!(acts[1]["request_id"], deleted.header("x-request-id"));
    let directory = dev()?.data().join("audit");
    let verified = dev()?.run(&["audit", "verify", directory.to_str().context("UTF-8")?])?;
    assert!(verified.contains("acts"), "{verified}");
    Ok(())
}
