//! What a store of keys keeps its word about, held against each of them; and what is SQLite's alone.

use std::path::Path;

use nearfield_testkit::Postgres;

use super::*;
use crate::Scope;

fn ci() -> NewKey {
    NewKey {
        subject: "ci".to_owned(),
        scopes: Scopes::default().with(Scope::VectorsRead),
        tenant: Some("acme".to_owned()),
        plan: None,
        ttl: None,
    }
}

/// A server and a tool over one store: two handles stand for two processes.
struct Pair {
    server: ApiKeys,
    tool: ApiKeys,
    /// A change by the tool holds in the server with the tool's answer; otherwise very soon after.
    at_once: bool,
}

impl Pair {
    async fn open(location: Location) -> Self {
        let (server, tool) =
            (ApiKeys::open(location.clone()).await.unwrap(), ApiKeys::open(location.clone()).await.unwrap());
        Self { server, tool, at_once: matches!(location, Location::Sqlite(_)) }
    }

    async fn becomes(&self, key: &str, rejection: Rejection) {
        let now = self.server.verify(key).await;
        if self.at_once {
            assert_eq!(now, Err(rejection));
        }
        within("the refusal", async || self.server.verify(key).await == Err(rejection)).await;
    }
}

async fn within(what: &str, condition: impl AsyncFn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !condition().await {
            tokio::task::yield_now().await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}

async fn keeps_its_word(pair: &Pair) {
    a_key_lives_from_create_to_revoke(pair).await;
    a_key_ends_with_its_time(pair).await;
    a_rotated_key_has_a_successor_and_an_end(pair).await;
    keys_are_listed_by_pages_and_by_tenant(pair).await;
    a_use_is_noted(pair).await;
    what_lives_by_a_key_ends_with_it(pair).await;
}

async fn a_key_lives_from_create_to_revoke(pair: &Pair) {
    let Pair { server, tool, .. } = pair;
    for _ in 0..20 {
        let (key, record) = tool.create(ci()).await.unwrap();
        let principal = server.verify(&key).await.unwrap();
        assert_eq!((principal.subject.as_str(), principal.tenant.as_deref()), ("ci", Some("acme")));
        assert_eq!((principal.key.as_ref(), principal.expires), (Some(&record.id), None));
        assert!(principal.scopes.contains(Scope::VectorsRead) && !principal.scopes.contains(Scope::VectorsWrite));
        assert!(tool.revoke(&record.id).await.unwrap());
        pair.becomes(&key, Rejection::KeyRevoked).await;
        assert!(!tool.revoke(&record.id).await.unwrap());
        assert!(server.find(&record.id).await.unwrap().unwrap().revoked.is_some());
    }
    assert!(!tool.revoke("ffffffffffffffff").await.unwrap());
    assert_eq!(server.find("ffffffffffffffff").await.unwrap(), None);
}

async fn a_key_ends_with_its_time(pair: &Pair) {
    let (key, record) = pair.tool.create(NewKey { ttl: Some(Duration::ZERO), ..ci() }).await.unwrap();
    assert_eq!(record.expires, Some(record.created));
    assert_eq!(pair.server.verify(&key).await, Err(Rejection::KeyExpired));
    let (key, record) = pair.tool.create(NewKey { ttl: Some(Duration::from_secs(1)), ..ci() }).await.unwrap();
    if let Ok(principal) = pair.server.verify(&key).await {
        assert_eq!(principal.expires, record.expires);
    }
    // A remembered verdict does not prolong it.
    within("the end", async || pair.server.verify(&key).await == Err(Rejection::KeyExpired)).await;
}

async fn a_rotated_key_has_a_successor_and_an_end(pair: &Pair) {
    let Pair { server, tool, .. } = pair;
    let day = Duration::from_secs(86_400);
    let (old, record) =
        tool.create(NewKey { ttl: Some(30 * day), plan: Some("premium".to_owned()), ..ci() }).await.unwrap();
    let (new, successor) = tool.rotate(&record.id, day).await.unwrap().unwrap();
    assert_eq!(successor.replaces.as_ref(), Some(&record.id));
    assert_eq!(
        (&successor.subject, &successor.tenant, &successor.plan),
        (&record.subject, &record.tenant, &record.plan)
    );
    assert_eq!(successor.expires, Some(successor.created + 30 * 86_400), "it lives as long as its predecessor was to");
    assert_eq!(server.find(&successor.id).await.unwrap(), Some(successor.clone()));
    // Both count meanwhile.
    assert!(server.verify(&old).await.is_ok() && server.verify(&new).await.is_ok());
    let ends = server.find(&record.id).await.unwrap().unwrap().expires;
    assert_eq!(ends, Some(successor.created + 86_400));
    // An overlap never prolongs a key, and a short one shortens it; one that is rotated again has as good a successor.
    let (_, again) = tool.rotate(&record.id, 60 * day).await.unwrap().unwrap();
    assert_eq!(server.find(&record.id).await.unwrap().unwrap().expires, ends);
    assert_eq!(again.expires, Some(again.created + 30 * 86_400));
    let (_, lasting) = tool.create(ci()).await.unwrap();
    for _ in 0..2 {
        assert_eq!(tool.rotate(&lasting.id, day).await.unwrap().unwrap().1.expires, None, "it was to live for ever");
    }
    let (last, _) = tool.rotate(&successor.id, Duration::ZERO).await.unwrap().unwrap();
    pair.becomes(&new, Rejection::KeyExpired).await;
    assert!(server.verify(&last).await.is_ok());
    // What does not count any more has no successor.
    assert_eq!(tool.rotate(&successor.id, day).await.unwrap(), None);
    assert_eq!(tool.rotate("ffffffffffffffff", day).await.unwrap(), None);
    tool.revoke(&record.id).await.unwrap();
    assert_eq!(tool.rotate(&record.id, day).await.unwrap(), None);
}

async fn keys_are_listed_by_pages_and_by_tenant(pair: &Pair) {
    let mut made = Vec::new();
    for i in 0..7 {
        let tenant = Some(if i < 5 { "listed" } else { "other" }.to_owned());
        made.push(pair.tool.create(NewKey { tenant, ..ci() }).await.unwrap().1);
    }
    let mut expected: Vec<_> = made[..5].iter().map(|record| (u64::MAX - record.created, record.id.clone())).collect();
    expected.sort();
    let mut listing = Listing { tenant: Some("listed".to_owned()), limit: Some(2), after: None };
    let mut found = Vec::new();
    loop {
        let page = pair.server.list(&listing).await.unwrap();
        assert!(page.len() <= 2);
        let Some(last) = page.last() else { break };
        listing.after = Some(Position { created: last.created, id: last.id.clone() });
        found.extend(page.into_iter().map(|record| (u64::MAX - record.created, record.id)));
    }
    assert_eq!(found, expected);
    assert!(pair.server.list(&Listing::default()).await.unwrap().len() >= 7);
}

async fn a_use_is_noted(pair: &Pair) {
    let (key, record) = pair.tool.create(ci()).await.unwrap();
    assert_eq!(record.last_used, None);
    pair.server.verify(&key).await.unwrap();
    let noted = async || pair.tool.find(&record.id).await.unwrap().unwrap().last_used;
    within("the note", async || noted().await.is_some()).await;
    assert!(noted().await >= Some(record.created));
    // Never back in time.
    pair.server.shared.store.used(&[(record.id.clone(), 1)]).await.unwrap();
    assert!(noted().await >= Some(record.created));
}

async fn what_lives_by_a_key_ends_with_it(pair: &Pair) {
    let (_, revoked) = pair.tool.create(ci()).await.unwrap();
    let (_, good) = pair.tool.create(ci()).await.unwrap();
    let patience = Duration::from_secs(20);
    let (ended, ()) = tokio::join!(tokio::time::timeout(patience, pair.server.ended(&revoked.id)), async {
        pair.tool.revoke(&revoked.id).await.unwrap();
    });
    assert!(ended.is_ok());
    // One that had ended before.
    assert!(tokio::time::timeout(patience, pair.server.ended(&revoked.id)).await.is_ok());
    assert!(tokio::time::timeout(Duration::from_millis(300), pair.server.ended(&good.id)).await.is_err());
}

#[tokio::test]
async fn sqlite_keeps_its_word() {
    let dir = tempfile::tempdir().unwrap();
    keeps_its_word(&Pair::open(dir.path().join("auth/keys.db").into()).await).await;
}

#[tokio::test]
async fn postgresql_keeps_its_word_and_comes_back() {
    let mut postgres = Postgres::start().unwrap();
    let pair = Pair::open(postgres.url().into()).await;
    keeps_its_word(&pair).await;
    let (key, record) = pair.tool.create(ci()).await.unwrap();
    postgres.stop().unwrap();
    within("keys cannot be checked", async || pair.server.verify(&key).await == Err(Rejection::Unavailable)).await;
    // A gateway that starts meanwhile starts.
    let late = ApiKeys::open(Location::from(postgres.url())).await.unwrap();
    assert_eq!(late.verify(&key).await, Err(Rejection::Unavailable));
    postgres.restart().unwrap();
    within("keys are checked again", async || pair.server.verify(&key).await.is_ok()).await;
    within("by the late one too", async || late.verify(&key).await.is_ok()).await;
    pair.tool.revoke(&record.id).await.unwrap();
    pair.becomes(&key, Rejection::KeyRevoked).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn several_processes_may_open_a_new_file_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.db");
    let opened: Vec<_> = (0..8)
        .map(|_| path.clone())
        .map(|path| tokio::spawn(async move { ApiKeys::open(path).await.unwrap().create(ci()).await.unwrap() }))
        .collect();
    for handle in opened {
        handle.await.unwrap();
    }
    assert_eq!(ApiKeys::open(path).await.unwrap().list(&Listing::default()).await.unwrap().len(), 8);
}

#[tokio::test]
async fn a_file_of_the_first_version_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.db");
    let old = sqlx::SqlitePool::connect(&format!("sqlite://{}?mode=rwc", path.display())).await.unwrap();
    let schema = "CREATE TABLE api_keys (id TEXT PRIMARY KEY, hash BLOB NOT NULL, subject TEXT NOT NULL,
        scopes TEXT NOT NULL, tenant TEXT, plan TEXT, created INTEGER NOT NULL, revoked INTEGER) STRICT, WITHOUT ROWID;
        PRAGMA user_version = 1";
    sqlx::raw_sql(schema).execute(&old).await.unwrap();
    let (key, id, hash) = fresh();
    let insert = "INSERT INTO api_keys VALUES ($1, $2, 'ci', 'vectors:read', NULL, NULL, 1, NULL)";
    sqlx::query(insert).bind(&id).bind(hash.as_bytes().as_slice()).execute(&old).await.unwrap();
    old.close().await;
    let keys = ApiKeys::open(path.clone()).await.unwrap();
    assert_eq!(keys.verify(&key).await.unwrap().subject, "ci");
    assert!(keys.rotate(&id, Duration::ZERO).await.unwrap().is_some());
    // One of a later program's is not.
    let newer = sqlx::SqlitePool::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    sqlx::raw_sql("PRAGMA user_version = 99").execute(&newer).await.unwrap();
    assert!(matches!(ApiKeys::open(path).await, Err(StoreError::Version { found: 99, known: 3 })));
}

#[tokio::test]
async fn what_is_no_key_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let keys = ApiKeys::open(dir.path().join("keys.db")).await.unwrap();
    let (key, record) = keys.create(ci()).await.unwrap();
    let (id, zeros) = (record.id, "0".repeat(64));
    let wrong_case = key.to_uppercase();
    for (text, rejection) in [
        ("", Rejection::KeyShape),
        ("nf_", Rejection::KeyShape),
        (&key[..key.len() - 1], Rejection::KeyShape),
        (&format!("{key}0"), Rejection::KeyShape),
        (&wrong_case, Rejection::KeyShape),
        (&format!("nf_{id}_{zeros}"), Rejection::KeyUnknown),
        (&format!("nf_{}_{zeros}", "0".repeat(16)), Rejection::KeyUnknown),
    ] {
        assert_eq!(keys.verify(text).await, Err(rejection), "{text}");
    }
    assert!(keys.verify(&key).await.is_ok());
}

#[tokio::test]
async fn no_secret_is_stored_and_the_file_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path: &Path = &dir.path().join("keys.db");
    let keys = ApiKeys::open(path).await.unwrap();
    let (key, _) = keys.create(ci()).await.unwrap();
    let (_, secret) = split(&key).unwrap();
    for entry in fs_err::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{entry:?}");
        let bytes = fs_err::read(entry.path()).unwrap();
        assert!(!bytes.windows(secret.len()).any(|w| w == secret.as_bytes()), "{entry:?}");
    }
}

#[tokio::test]
async fn names_that_cannot_travel_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let keys = ApiKeys::open(dir.path().join("keys.db")).await.unwrap();
    let tenant = NewKey { tenant: Some("a b".to_owned()), ..ci() };
    assert!(matches!(keys.create(tenant).await, Err(Error::Name("the tenant"))));
    let subject = NewKey { subject: String::new(), ..ci() };
    assert!(matches!(keys.create(subject).await, Err(Error::Name("the subject"))));
}
