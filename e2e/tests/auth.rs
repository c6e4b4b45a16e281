//! Who may do what: tokens good and bad (RFC 8725), API keys, scopes, tenants.

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nearfield_testkit::{Answer, Claims, Client, Protocol};
use serde_json::{Value, json};

use crate::space::{API, Space, dev};

async fn collections(client: &Client, token: &str) -> Result<Answer> {
    client.get(&format!("{API}/collections")).bearer(token).send().await
}

fn refused(answer: &Answer) -> Result<()> {
    answer.problem(401)?;
    let challenge = answer.header("www-authenticate");
    anyhow::ensure!(challenge.to_ascii_lowercase().starts_with("bearer"), "WWW-Authenticate: {challenge:?}");
    Ok(())
}

#[tokio::test]
async fn without_credentials_nothing_but_health_and_the_contract_is_open() -> Result<()> {
    for protocol in Protocol::ALL {
        let client = dev()?.client(protocol)?;
        for path in ["collections", "search?query_vector_id=a", "embed/a", "regions", "stream/search?query_vector_id=a"]
        {
            refused(&client.get(&format!("{API}/{path}")).send().await?)?;
        }
        for path in ["insert", "update", "delete", "search", "search/batch", "cache/purge", "cache/warm"] {
            refused(&client.post(&format!("{API}/{path}")).json(&json!({})).send().await?)?;
        }
        client.get("/health/ready").send().await?.expect(200)?;
        client.get(&format!("{API}/openapi.json")).send().await?.expect(200)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_token_must_be_whole_current_and_meant_for_us() -> Result<()> {
    let dev = dev()?;
    let client = dev.client(Protocol::Http2)?;
    let good = dev.token(&Claims::all())?;
    collections(&client, &good).await?.expect(200)?;
    let claims = [
        Claims { expires_in: -300, ..Claims::all() },
        Claims { audience: "elsewhere".to_owned(), ..Claims::all() },
        Claims { issuer: "https://evil.example".to_owned(), ..Claims::all() },
        Claims { not_before_in: Some(3600), ..Claims::all() },
    ];
    for claims in &claims {
        refused(&collections(&client, &dev.token(claims)?).await?).with_context(|| format!("{claims:?}"))?;
    }
    let mut endless = Claims::all().to_json();
    endless.as_object_mut().context("an object")?.remove("exp");
    refused(&collections(&client, &dev.signer().sign(&dev.signer().header(), &endless)?).await?).context("no exp")?;
    Ok(())
}

#[tokio::test]
async fn a_token_that_was_tampered_with_is_refused() -> Result<()> {
    let dev = dev()?;
    let client = dev.client(Protocol::Http2)?;
    let good = dev.token(&Claims::all())?;
    let parts: Vec<&str> = good.split('.').collect();
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let none = encode(&json!({"alg": "none", "typ": "JWT"}));
    let hs256 = encode(&json!({"alg": "HS256", "typ": "JWT"}));
    let other_claims = encode(&Claims { subject: "root".to_owned(), ..Claims::all() }.to_json());
    let mut flipped = parts[2].as_bytes().to_vec();
    flipped[10] = if flipped[10] == b'A' { b'B' } else { b'A' };
    let flipped = String::from_utf8(flipped)?;
    for bad in [
        format!("{none}.{}.", parts[1]),
        format!("{none}.{}.{}", parts[1], parts[2]),
        format!("{hs256}.{}.{}", parts[1], parts[2]),
        format!("{}.{other_claims}.{}", parts[0], parts[2]),
        format!("{}.{}.{flipped}", parts[0], parts[1]),
        format!("{}.{}", parts[0], parts[1]),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{good}.{}", parts[2]),
        "....".to_owned(),
        "x".repeat(20_000),
        String::new(),
    ] {
        refused(&collections(&client, &bad).await?).with_context(|| bad.chars().take(80).collect::<String>())?;
    }
    // A header that demands understanding (RFC 7515, crit) is not passed over.
    let mut header = dev.signer().header();
    header.crit = Some(vec!["nearfield-unknown".to_owned()]);
    refused(&collections(&client, &dev.signer().sign(&header, &Claims::all().to_json())?).await?).context("crit")?;
    for scheme in ["Basic dXNlcjpwYXNz", "Bearer", "bearer", "Token abc"] {
        let answer = client.get(&format!("{API}/collections")).header("authorization", scheme).send().await?;
        refused(&answer).context(scheme)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_key_of_someone_else_signs_nothing_here() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let stranger = nearfield_testkit::Authority::create(directory.path())?;
    let client = dev()?.client(Protocol::Http2)?;
    refused(&collections(&client, &stranger.signer.token(&Claims::all())?).await?)?;
    // Even when it claims the id of our key.
    let mut header = dev()?.signer().header();
    header.jwk = None;
    refused(&collections(&client, &stranger.signer.sign(&header, &Claims::all().to_json())?).await?)
}

#[tokio::test]
async fn a_scope_admits_to_what_it_names() -> Result<()> {
    let dev = dev()?;
    let all = Space::new("auth-scopes")?;
    all.create("c", json!({"dimension": 2})).await?;
    let client = |scope: &str| {
        let claims = Claims { scope: scope.to_owned(), ..Claims::of_tenant("auth-scopes") };
        dev.client_as(Protocol::Http2, &claims)
    };
    let insert = json!({"collection": "c", "vectors": [{"id": "a", "values": [1, 0]}]});
    let search = json!({"collection": "c", "query": [1, 0]});
    let check = async |scope: &str, read: u16, write: u16, admin: u16| -> Result<()> {
        let client = client(scope)?;
        let of = |answer: Answer| answer.status.as_u16();
        assert_eq!(of(client.post(&format!("{API}/search")).json(&search).send().await?), read, "{scope:?} reads");
        assert_eq!(of(client.post(&format!("{API}/insert")).json(&insert).send().await?), write, "{scope:?} writes");
        let put = client.put(&format!("{API}/collections/c")).json(&json!({"dimension": 2}));
        assert_eq!(of(put.send().await?), admin, "{scope:?} administers");
        Ok(())
    };
    check("vectors:read vectors:write collections:admin", 200, 200, 200).await?;
    check("vectors:read", 200, 403, 403).await?;
    check("vectors:write", 403, 200, 403).await?;
    check("collections:admin", 403, 403, 200).await?;
    check("", 403, 403, 403).await?;
    check("vectors:reader VECTORS:READ vectors", 403, 403, 403).await?;
    client("vectors:read")?.post(&format!("{API}/insert")).json(&insert).send().await?.problem(403)?;
    Ok(())
}

#[tokio::test]
async fn an_api_key_works_at_once_and_is_revoked_at_once() -> Result<()> {
    let dev = dev()?;
    let printed =
        dev.command(&["key", "create", "--subject", "ci", "--scope", "vectors:read", "--tenant", "auth-keys"])?;
    let key = printed.split_whitespace().max_by_key(|word| word.len()).context("the key is printed")?.to_owned();
    let client = dev.client(Protocol::Http2)?;
    let read = || client.get(&format!("{API}/collections")).header("x-api-key", &key).send();
    read().await?.expect(200)?;
    let put = client.put(&format!("{API}/collections/c")).header("x-api-key", &key).json(&json!({"dimension": 2}));
    put.send().await?.problem(403)?;

    let list = dev.command(&["key", "list"])?;
    assert!(list.contains("ci") && !list.contains(&key), "the key itself is never shown again: {list}");
    let line = list.lines().find(|line| line.contains("ci")).context("the key is listed")?;
    let id = line.split_whitespace().next().context("the id comes first")?;
    dev.command(&["key", "revoke", id])?;
    // "A running server honours it at once": on its next look at the store.
    let gone = || async { read().await.ok().filter(|answer| answer.status == 401) };
    nearfield_testkit::eventually("the key is refused", std::time::Duration::from_secs(5), gone).await?;
    for bad in ["", "nope", &"k".repeat(5000), &format!("{key}x")] {
        let answer = client.get(&format!("{API}/collections")).header("x-api-key", bad).send().await?;
        answer.problem(401)?;
    }
    Ok(())
}

#[tokio::test]
async fn the_token_command_signs_what_the_server_takes() -> Result<()> {
    let dev = dev()?;
    let printed =
        dev.command(&["token", "--subject", "alice", "--scope", "vectors:read vectors:write", "--tenant", "auth-cli"])?;
    let token = printed.trim();
    let client = dev.client(Protocol::Http2)?;
    collections(&client, token).await?.expect(200)?;
    let put = client.put(&format!("{API}/collections/c")).bearer(token).json(&json!({"dimension": 2}));
    put.send().await?.problem(403)?;
    Ok(())
}
