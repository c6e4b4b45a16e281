//! `nearfield token` and `nearfield key`, beside a running server and without one.

use anyhow::{Context, Result};
use nearfield_testkit::{Client, Protocol};

use crate::run::{dev, with_data};

async fn status(client: Client) -> Result<u16> {
    Ok(client.get("/api/v1/collections").send().await?.status.as_u16())
}

fn client() -> Result<Client> {
    dev()?.client(Protocol::Http2)
}

#[tokio::test]
async fn a_token_is_good_at_once_and_only_for_its_time() -> Result<()> {
    let token = |ttl| -> Result<String> {
        let arguments = ["token", "--subject", "alice", "--scope", "vectors:read", "--ttl", ttl];
        let out = with_data(dev()?.data(), &arguments)?.ok()?;
        Ok(out.trim().to_owned())
    };
    assert_eq!(status(client()?.with_bearer(&token("1h")?)).await?, 200);
    assert_eq!(status(client()?.with_bearer(&token("0s")?)).await?, 401);
    assert_eq!(status(client()?).await?, 401);
    Ok(())
}

#[tokio::test]
async fn a_token_opens_what_its_scopes_say() -> Result<()> {
    let arguments = ["token", "--subject", "alice", "--scope", "vectors:write regions:read", "--tenant", "acme"];
    let token = with_data(dev()?.data(), &arguments)?.ok()?;
    assert_eq!(status(client()?.with_bearer(token.trim())).await?, 403);
    Ok(())
}

#[tokio::test]
async fn a_key_lives_from_create_to_revoke() -> Result<()> {
    let data = dev()?.data();
    let create = ["key", "create", "--subject", "ci", "--scope", "vectors:read", "--tenant", "acme"];
    let created = with_data(data, &create)?;
    let id = created.error.split(' ').nth(1).context("the id is told")?.to_owned();
    let key = created.ok()?.trim().to_owned();
    assert_eq!(status(client()?.with_header("x-api-key", &key)).await?, 200);

    let list = with_data(data, &["key", "list"])?.ok()?;
    let line = list.lines().find(|line| line.contains(&id)).context("it is listed")?;
    assert!(line.contains("ci") && line.contains("acme") && line.contains("vectors:read"), "{line}");
    assert!(!list.contains(key.rsplit('_').next().context("a secret")?), "the secret is listed");

    with_data(data, &["key", "revoke", &id])?.ok()?;
    assert_eq!(status(client()?.with_header("x-api-key", &key)).await?, 401);
    let refusal = with_data(data, &["key", "revoke", &id])?.refusal()?;
    assert!(refusal.contains(&id), "{refusal}");
    Ok(())
}

#[test]
fn mistakes_are_told() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let refusal = |arguments: &[&str]| with_data(folder.path(), arguments)?.refusal();
    let unknown = refusal(&["token", "--subject", "a", "--scope", "vectors:reed"])?;
    assert!(unknown.contains("vectors:reed") && unknown.contains("collections:admin"), "{unknown}");
    assert!(refusal(&["token", "--subject", "a", "--scope", "vectors:read", "--ttl", "soon"])?.contains("soon"));
    assert!(refusal(&["token", "--scope", "vectors:read"])?.contains("--subject"));
    assert!(refusal(&["key", "list"])?.contains("there are no API keys at"));
    assert!(refusal(&["key", "create", "--subject", "", "--scope", "vectors:read"])?.contains("subject"));
    Ok(())
}
