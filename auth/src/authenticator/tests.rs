//! Keys that rotate, issuers that go away, verdicts that must not outlive their reason.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::dev::{self, DevKey, Grant};
use crate::{Scope, Scopes};

fn grant() -> Grant {
    Grant {
        subject: "alice".to_owned(),
        scopes: Scopes::default().with(Scope::VectorsRead),
        tenant: None,
        plan: None,
        ttl: Duration::from_secs(60),
    }
}

async fn of_file(data_dir: &Path) -> Authenticator {
    let config = Config { api_keys: Some(dev::api_keys_path(data_dir).into()), issuers: vec![dev::issuer(data_dir)] };
    Authenticator::start(&config).await.unwrap()
}

async fn of_url(url: String) -> Authenticator {
    let config = issuer::Config { jwks_file: None, jwks_url: Some(url), ..dev::issuer(Path::new("/nowhere")) };
    Authenticator::start(&Config { api_keys: None, issuers: vec![config] }).await.unwrap()
}

async fn bearer(authenticator: &Authenticator, token: &str) -> Result<Arc<Principal>, Rejection> {
    authenticator.authenticate(Credentials::Bearer(token)).await
}

#[tokio::test]
async fn the_development_token_is_taken_until_it_expires() {
    let dir = tempfile::tempdir().unwrap();
    let key = DevKey::load_or_create(dir.path()).unwrap();
    let authenticator = of_file(dir.path()).await;
    let token = key.sign(&Grant { tenant: Some("acme".to_owned()), ..grant() }).unwrap();
    let principal = bearer(&authenticator, &token).await.unwrap();
    assert_eq!((principal.subject.as_str(), principal.tenant.as_deref()), ("alice", Some("acme")));
    let now = unix_now();
    assert!(authenticator.token(&token, now + 50).await.is_ok());
    // Remembered and expired: the memory does not prolong it.
    assert_eq!(authenticator.token(&token, now + 62).await, Err(Rejection::Expired));
    let short = key.sign(&Grant { ttl: Duration::ZERO, ..grant() }).unwrap();
    assert_eq!(bearer(&authenticator, &short).await, Err(Rejection::Expired));
}

#[tokio::test]
async fn a_verdict_is_remembered_and_a_refusal_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let key = DevKey::load_or_create(dir.path()).unwrap();
    let authenticator = of_file(dir.path()).await;
    let token = key.sign(&grant()).unwrap();
    let first = bearer(&authenticator, &token).await.unwrap();
    let second = bearer(&authenticator, &token).await.unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    let _ = bearer(&authenticator, "a.b.c").await;
    authenticator.verdicts.run_pending_tasks();
    assert_eq!(authenticator.verdicts.entry_count(), 1);
}

#[tokio::test]
async fn a_rotated_file_is_taken_at_once_and_the_old_key_is_dead() {
    let dir = tempfile::tempdir().unwrap();
    let old = DevKey::load_or_create(dir.path()).unwrap().sign(&grant()).unwrap();
    let authenticator = of_file(dir.path()).await;
    assert!(bearer(&authenticator, &old).await.is_ok());
    fs_err::remove_file(dir.path().join("auth/dev-key.pem")).unwrap();
    let new = DevKey::load_or_create(dir.path()).unwrap().sign(&grant()).unwrap();
    // The pause between two readings may still be running.
    let taken = tokio::time::timeout(Duration::from_secs(5), async {
        while bearer(&authenticator, &new).await.is_err() {
            tokio::task::yield_now().await;
        }
    });
    assert!(taken.await.is_ok());
    assert_eq!(bearer(&authenticator, &old).await, Err(Rejection::SigningKeyUnknown));
}

#[tokio::test]
async fn a_bad_file_is_an_error_at_the_start_and_ignored_later() {
    let dir = tempfile::tempdir().unwrap();
    let path = dev::jwks_path(dir.path());
    let config = Config { api_keys: None, issuers: vec![dev::issuer(dir.path())] };
    assert!(matches!(Authenticator::start(&config).await, Err(Error::Issuer(issuer::Error::Keys { .. }))));
    let token = DevKey::load_or_create(dir.path()).unwrap().sign(&grant()).unwrap();
    let authenticator = Authenticator::start(&config).await.unwrap();
    for bad in ["", "{", r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#] {
        fs_err::write(&path, bad).unwrap();
        authenticator.issuers[0].keys.read_again().await;
        assert!(bearer(&authenticator, &token).await.is_ok(), "{bad}");
    }
}

#[tokio::test]
async fn two_issuers_of_one_name_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { api_keys: None, issuers: vec![dev::issuer(dir.path()), dev::issuer(dir.path())] };
    assert!(matches!(config.check(), Err(Error::Duplicate(_))));
}

#[tokio::test]
async fn one_issuers_key_signs_for_no_other() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mallory = DevKey::load_or_create(a.path()).unwrap();
    DevKey::load_or_create(b.path()).unwrap();
    // Mallory's own issuer is trusted here, under its own name.
    let own = issuer::Config { issuer: "mallory".to_owned(), ..dev::issuer(a.path()) };
    let config = Config { api_keys: None, issuers: vec![own, dev::issuer(b.path())] };
    let authenticator = Authenticator::start(&config).await.unwrap();
    let token = mallory.sign(&grant()).unwrap();
    assert_eq!(bearer(&authenticator, &token).await, Err(Rejection::SigningKeyUnknown));
}

#[tokio::test]
async fn api_keys_without_a_file_are_unknown() {
    let authenticator = Authenticator::start(&Config::default()).await.unwrap();
    let refused = authenticator.authenticate(Credentials::ApiKey("nf_a_b")).await;
    assert_eq!(refused, Err(Rejection::KeyUnknown));
    assert_eq!(bearer(&authenticator, "x").await, Err(Rejection::Shape));
}

/// An issuer's web server, that answers with what it is given and counts how often it is asked.
struct Web {
    at: SocketAddr,
    answer: Arc<Mutex<Vec<u8>>>,
    /// Connections are kept open when they have had their answer.
    hangs: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl Web {
    async fn start(body: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let answer = Arc::new(Mutex::new(ok(&body)));
        let asked = Arc::new(AtomicUsize::new(0));
        let hangs = Arc::new(AtomicBool::new(false));
        let (answers, count, hang) = (Arc::clone(&answer), Arc::clone(&asked), Arc::clone(&hangs));
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let bytes = answers.lock().unwrap().clone();
                let _ = stream.write_all(&bytes).await;
                if hang.load(Ordering::SeqCst) {
                    open.push(stream);
                }
            }
        });
        Self { at, answer, hangs, asked }
    }

    fn url(&self) -> String {
        format!("http://{}/jwks.json", self.at)
    }

    fn answer(&self, bytes: Vec<u8>) {
        *self.answer.lock().unwrap() = bytes;
    }

    fn hang(&self) {
        self.hangs.store(true, Ordering::SeqCst);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn ok(body: &[u8]) -> Vec<u8> {
    let mut bytes =
        format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

fn published(key_dir: &Path) -> Vec<u8> {
    fs_err::read(dev::jwks_path(key_dir)).unwrap()
}

#[tokio::test]
async fn an_unknown_key_asks_the_issuer_again_but_not_for_every_token() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let old = DevKey::load_or_create(a.path()).unwrap().sign(&grant()).unwrap();
    let web = Web::start(published(a.path())).await;
    let authenticator = of_url(web.url()).await;
    assert!(bearer(&authenticator, &old).await.is_ok());
    assert_eq!(web.asked(), 1);
    let rotated = DevKey::load_or_create(b.path()).unwrap();
    web.answer(ok(&published(b.path())));
    // Right after a reading the issuer is left in peace.
    for _ in 0..20 {
        let token = rotated.sign(&grant()).unwrap();
        assert_eq!(bearer(&authenticator, &token).await, Err(Rejection::SigningKeyUnknown));
    }
    assert_eq!(web.asked(), 1);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(11)).await;
    tokio::time::resume();
    let new = rotated.sign(&grant()).unwrap();
    assert!(bearer(&authenticator, &new).await.is_ok());
    assert_eq!(web.asked(), 2);
    assert_eq!(bearer(&authenticator, &old).await, Err(Rejection::SigningKeyUnknown));
}

#[tokio::test]
async fn an_issuer_that_is_down_locks_nobody_out() {
    let dir = tempfile::tempdir().unwrap();
    let key = DevKey::load_or_create(dir.path()).unwrap();
    let web = Web::start(published(dir.path())).await;
    let authenticator = of_url(web.url()).await;
    for broken in
        [b"HTTP/1.1 500 no\r\ncontent-length: 0\r\n\r\n".to_vec(), ok(b"<html>"), ok(&vec![b' '; 300_000]), Vec::new()]
    {
        web.answer(broken);
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(301)).await;
        tokio::time::resume();
        let before = web.asked();
        authenticator.issuers[0].keys.read_again().await;
        assert!(web.asked() >= before);
        assert!(bearer(&authenticator, &key.sign(&grant()).unwrap()).await.is_ok());
    }
    assert!(web.asked() > 1);
}

#[tokio::test]
async fn an_issuer_that_never_answers_keeps_only_those_waiting_whose_key_is_unknown() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let key = DevKey::load_or_create(a.path()).unwrap();
    let web = Web::start(published(a.path())).await;
    let authenticator = of_url(web.url()).await;
    // It declares a body and never sends it.
    web.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_vec());
    web.hang();
    let unknown = DevKey::load_or_create(b.path()).unwrap().sign(&grant()).unwrap();
    // Right after a reading it is left in peace.
    assert_eq!(bearer(&authenticator, &unknown).await, Err(Rejection::SigningKeyUnknown));
    assert_eq!(web.asked(), 1);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(11)).await;
    tokio::time::resume();
    let started = tokio::time::Instant::now();
    let (refused, known) = tokio::join!(bearer(&authenticator, &unknown), async {
        let known = bearer(&authenticator, &key.sign(&grant()).unwrap()).await;
        (known.is_ok(), started.elapsed())
    });
    assert_eq!(refused, Err(Rejection::SigningKeyUnknown));
    assert!(known.0, "the keys of the last good reading are in use");
    assert!(known.1 < started.elapsed(), "and nobody who has one of them waits for the issuer");
    assert_eq!(web.asked(), 2);
}

#[tokio::test]
async fn an_issuer_may_publish_two_keys_while_it_rotates() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let old = DevKey::load_or_create(a.path()).unwrap();
    let new = DevKey::load_or_create(b.path()).unwrap();
    let keys = [a.path(), b.path()].map(|dir| {
        let set: serde_json::Value = serde_json::from_slice(&published(dir)).unwrap();
        set["keys"][0].clone()
    });
    let web = Web::start(serde_json::to_vec(&serde_json::json!({ "keys": keys })).unwrap()).await;
    let authenticator = of_url(web.url()).await;
    for key in [&old, &new] {
        assert!(bearer(&authenticator, &key.sign(&grant()).unwrap()).await.is_ok());
    }
    assert_eq!(web.asked(), 1);
}

/// A token of the shape that Google's metadata server gives to a workload.
fn google_token(claims: &serde_json::Value, key: &DevKey) -> String {
    let now = unix_now();
    let mut token = serde_json::json!({
        "iss": "https://accounts.google.com", "aud": "nearfield", "azp": "112233445566778899001",
        "sub": "112233445566778899001", "email": "indexer@project.iam.gserviceaccount.com", "email_verified": true,
        "iat": now, "exp": now + 3600,
    });
    for (name, value) in claims.as_object().unwrap() {
        token[name] = value.clone();
    }
    key.sign_claims(&token).unwrap()
}

#[tokio::test]
async fn a_workload_of_google_s_may_do_what_the_settings_grant_it() {
    let dir = tempfile::tempdir().unwrap();
    let key = DevKey::load_or_create(dir.path()).unwrap();
    let web = Web::start(published(dir.path())).await;
    let read = |email: Option<&str>, subject: Option<&str>| crate::Grant {
        email: email.map(str::to_owned),
        subject: subject.map(str::to_owned),
        scope: Scopes::default().with(Scope::VectorsRead),
        tenant: Some("acme".to_owned()),
        plan: Some("premium".to_owned()),
    };
    let issuer = issuer::Config {
        preset: Some(issuer::Preset::Google),
        issuer: String::new(),
        jwks_file: None,
        jwks_url: Some(web.url()),
        // Google's are RS256; the shape is what this is about.
        algorithms: Some(vec![crate::Algorithm::ES256]),
        grants: vec![read(Some("indexer@project.iam.gserviceaccount.com"), None), read(None, Some("42"))],
        ..dev::issuer(dir.path())
    };
    let authenticator = Authenticator::start(&Config { api_keys: None, issuers: vec![issuer] }).await.unwrap();
    let ask = async |claims: serde_json::Value| {
        let principal = bearer(&authenticator, &google_token(&claims, &key)).await?;
        Ok::<_, Rejection>((principal.subject.clone(), principal.tenant.clone(), principal.scopes.to_string()))
    };
    let known = |name: &str| Ok((name.to_owned(), Some("acme".to_owned()), "vectors:read".to_owned()));
    let nobody = |name: &str| Ok((name.to_owned(), None, String::new()));
    let none = serde_json::json!({});
    assert_eq!(ask(none.clone()).await, known("indexer@project.iam.gserviceaccount.com"));
    assert_eq!(ask(serde_json::json!({"sub": "42", "email": null})).await, known("42"));
    // What the token says of scopes and tenants is not asked.
    let greedy = serde_json::json!({"scope": "keys:admin vectors:write", "tenant": "other"});
    assert_eq!(ask(greedy).await, known("indexer@project.iam.gserviceaccount.com"));
    for unknown in [
        serde_json::json!({"email_verified": false}),
        serde_json::json!({"email_verified": "true"}),
        serde_json::json!({"email": "indexer@other.iam.gserviceaccount.com"}),
        serde_json::json!({"email": "Indexer@project.iam.gserviceaccount.com"}),
        serde_json::json!({"email": null}),
    ] {
        assert_eq!(ask(unknown).await, nobody("112233445566778899001"));
    }
    assert_eq!(ask(serde_json::json!({"aud": "https://other.example"})).await, Err(Rejection::Audience));
    assert_eq!(ask(serde_json::json!({"iss": "accounts.google.com"})).await, Err(Rejection::Issuer));
}

#[tokio::test]
async fn an_issuer_that_was_never_reached_is_not_the_callers_fault() {
    let dir = tempfile::tempdir().unwrap();
    let token = DevKey::load_or_create(dir.path()).unwrap().sign(&grant()).unwrap();
    let web = Web::start(b"x".to_vec()).await;
    web.answer(Vec::new());
    let authenticator = of_url(web.url()).await;
    assert_eq!(bearer(&authenticator, &token).await, Err(Rejection::Unavailable));
    web.answer(ok(&published(dir.path())));
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(16)).await;
    tokio::time::resume();
    assert!(bearer(&authenticator, &token).await.is_ok());
}
