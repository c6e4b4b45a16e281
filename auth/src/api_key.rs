//! API keys: `nf_<id>_<secret>`, made here, shown once, and kept only as a hash.
//!
//! The secret is 256 random bits, so a fast hash (BLAKE3) is as good as a slow one: there is nothing to guess from.
//! A verdict is remembered as long as the store has not changed, and never longer than [`REMEMBERED`]; so a running
//! server honours `create` and `revoke` with the next request.

mod sqlite;
mod store;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::{Principal, Rejection, Scopes, jwt};

pub use sqlite::SqliteStore;
pub use store::{Error as StoreError, MAX_LISTED, Record, Stamp, Store};

/// Random bytes of an id, which is no secret: 16 hexadecimal digits.
const ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;
/// The bound on a verdict's life where the store's changes go unnoticed.
pub const REMEMBERED: Duration = Duration::from_secs(1);
/// Verdicts remembered at once.
const MAX_VERDICTS: u64 = 100_000;

/// What a new key is to allow.
#[derive(Clone, Debug)]
pub struct NewKey {
    pub subject: String,
    pub scopes: Scopes,
    pub tenant: Option<String>,
    pub plan: Option<String>,
}

/// Why a key was not made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0} is empty, longer than 256 bytes, or has characters that it must not have")]
    Name(&'static str),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The API keys of one deployment.
pub struct ApiKeys {
    store: Arc<dyn Store>,
    verdicts: moka::sync::Cache<blake3::Hash, Verdict>,
}

#[derive(Clone)]
struct Verdict {
    principal: Arc<Principal>,
    stamp: Stamp,
}

impl ApiKeys {
    /// Opens the SQLite file at `path`, which is made, with mode 0600, when it is not there.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self::new(Arc::new(SqliteStore::open(path).await?)))
    }

    pub fn new(store: Arc<dyn Store>) -> Self {
        let verdicts = moka::sync::Cache::builder().max_capacity(MAX_VERDICTS).time_to_live(REMEMBERED).build();
        Self { store, verdicts }
    }

    /// Makes a key. Gives its text, which is not kept anywhere, and what is kept of it.
    pub async fn create(&self, new: NewKey) -> Result<(String, Record), Error> {
        let subject = jwt::name(new.subject).ok_or(Error::Name("the subject"))?;
        let tenant = new.tenant.map(|t| jwt::tenant(t).ok_or(Error::Name("the tenant"))).transpose()?;
        let plan = new.plan.map(|p| jwt::name(p).ok_or(Error::Name("the plan"))).transpose()?;
        let id = hex(&rand::random::<[u8; ID_BYTES]>());
        let secret = hex(&rand::random::<[u8; SECRET_BYTES]>());
        let record = Record {
            id: id.clone(),
            hash: hash(&secret),
            subject,
            scopes: new.scopes,
            tenant,
            plan,
            created: now(),
            revoked: None,
        };
        self.store.insert(&record).await?;
        Ok((format!("nf_{id}_{secret}"), record))
    }

    /// All keys, the newest first, at most [`MAX_LISTED`].
    pub async fn list(&self) -> Result<Vec<Record>, StoreError> {
        self.store.list().await
    }

    /// False when there is no such key, or it was revoked before.
    pub async fn revoke(&self, id: &str) -> Result<bool, StoreError> {
        self.store.revoke(id, now()).await
    }

    /// Whose key this is.
    pub async fn verify(&self, key: &str) -> Result<Arc<Principal>, Rejection> {
        let (id, secret) = split(key).ok_or(Rejection::KeyShape)?;
        // The stamp is taken before the look-up: a change in between makes the verdict old, never wrongly new.
        let stamp = self.store.stamp();
        let fingerprint = hash(key);
        if let Some(verdict) = self.verdicts.get(&fingerprint)
            && verdict.stamp == stamp
        {
            return Ok(verdict.principal);
        }
        let found = self.store.find(id).await.map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "API key not looked up");
            Rejection::Unavailable
        })?;
        // Comparing blake3 hashes takes the same time wherever they differ.
        let record = found.filter(|record| record.hash == hash(secret)).ok_or(Rejection::KeyUnknown)?;
        if record.revoked.is_some() {
            return Err(Rejection::KeyRevoked);
        }
        let Record { subject, tenant, plan, scopes, .. } = record;
        let principal = Arc::new(Principal { subject, tenant, plan, scopes, expires: None });
        self.verdicts.insert(fingerprint, Verdict { principal: Arc::clone(&principal), stamp });
        Ok(principal)
    }
}

/// Id and secret, when `key` has the form of a key.
fn split(key: &str) -> Option<(&str, &str)> {
    let (id, secret) = key.strip_prefix("nf_")?.split_once('_')?;
    let is_hex = |text: &str, bytes: usize| {
        text.len() == 2 * bytes && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    (is_hex(id, ID_BYTES) && is_hex(secret, SECRET_BYTES)).then_some((id, secret))
}

fn hash(text: &str) -> blake3::Hash {
    blake3::hash(text.as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scope;

    fn ci() -> NewKey {
        NewKey {
            subject: "ci".to_owned(),
            scopes: Scopes::default().with(Scope::VectorsRead),
            tenant: Some("acme".to_owned()),
            plan: None,
        }
    }

    #[tokio::test]
    async fn a_key_lives_from_create_to_revoke_in_another_process_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth/keys.db");
        let server = ApiKeys::open(&path).await.unwrap();
        // Another handle on the same file stands for the command line's process.
        let tool = ApiKeys::open(&path).await.unwrap();
        let (key, record) = tool.create(ci()).await.unwrap();
        for _ in 0..3 {
            let principal = server.verify(&key).await.unwrap();
            assert_eq!((principal.subject.as_str(), principal.tenant.as_deref()), ("ci", Some("acme")));
            assert!(principal.scopes.contains(Scope::VectorsRead) && !principal.scopes.contains(Scope::VectorsWrite));
        }
        assert!(tool.revoke(&record.id).await.unwrap());
        assert_eq!(server.verify(&key).await, Err(Rejection::KeyRevoked));
        assert!(!tool.revoke(&record.id).await.unwrap());
        assert!(!tool.revoke("ffffffffffffffff").await.unwrap());
        let listed = server.list().await.unwrap();
        assert_eq!(listed.len(), 1);
        assert!(listed[0].revoked.is_some());
    }

    #[tokio::test]
    async fn many_keys_made_and_revoked_at_speed_are_honoured_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.db");
        let (server, tool) = (ApiKeys::open(&path).await.unwrap(), ApiKeys::open(&path).await.unwrap());
        for _ in 0..50 {
            let (key, record) = tool.create(ci()).await.unwrap();
            assert!(server.verify(&key).await.is_ok());
            tool.revoke(&record.id).await.unwrap();
            assert_eq!(server.verify(&key).await, Err(Rejection::KeyRevoked));
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn several_processes_may_open_a_new_file_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.db");
        let opened: Vec<_> = (0..8)
            .map(|_| path.clone())
            .map(|p| {
                tokio::spawn(async move {
                    let keys = ApiKeys::open(&p).await?;
                    keys.create(ci()).await.map_err(|e| match e {
                        Error::Store(error) => error,
                        Error::Name(name) => unreachable!("{name}"),
                    })
                })
            })
            .collect();
        for handle in opened {
            handle.await.unwrap().unwrap();
        }
        assert_eq!(ApiKeys::open(&path).await.unwrap().list().await.unwrap().len(), 8);
    }

    #[tokio::test]
    async fn what_is_no_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let keys = ApiKeys::open(&dir.path().join("keys.db")).await.unwrap();
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
            (&format!("nf_ffffffffffffffff_{zeros}"), Rejection::KeyUnknown),
        ] {
            assert_eq!(keys.verify(text).await, Err(rejection), "{text}");
        }
    }

    #[tokio::test]
    async fn the_file_is_private_and_holds_no_secret() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.db");
        let keys = ApiKeys::open(&path).await.unwrap();
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
        let keys = ApiKeys::open(&dir.path().join("keys.db")).await.unwrap();
        let tenant = NewKey { tenant: Some("a b".to_owned()), ..ci() };
        assert!(matches!(keys.create(tenant).await, Err(Error::Name("the tenant"))));
        let subject = NewKey { subject: String::new(), ..ci() };
        assert!(matches!(keys.create(subject).await, Err(Error::Name("the subject"))));
    }
}
