//! API keys: `nf_<id>_<secret>`, made here, shown once, and kept only as a hash.
//!
//! The secret is 256 random bits, so a fast hash (BLAKE3) is as good as a slow one: there is nothing to guess from.
//! A verdict is remembered as long as the store has not changed, and never longer than [`REMEMBERED`]; so a running
//! server honours what is made, rotated and revoked with the next request, and ends what lives by a key that is not.

mod postgres;
mod sql;
mod sqlite;
mod store;
mod upkeep;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;

use crate::{Principal, Rejection, Scopes, jwt, unix_now};

pub use postgres::PostgresStore;
pub use sqlite::SqliteStore;
pub use store::{Error as StoreError, Lifetime, Listing, Location, MAX_LISTED, Position, Record, Stamp, Store};
use upkeep::Upkeep;

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
    /// For how long; without it, until it is revoked.
    pub ttl: Option<Duration>,
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
    shared: Arc<Shared>,
    verdicts: moka::sync::Cache<blake3::Hash, Verdict>,
    upkeep: AbortHandle,
}

struct Shared {
    store: Box<dyn Store>,
    upkeep: Upkeep,
}

#[derive(Clone)]
struct Verdict {
    principal: Arc<Principal>,
    stamp: Stamp,
}

impl Drop for ApiKeys {
    fn drop(&mut self) {
        self.upkeep.abort();
    }
}

impl ApiKeys {
    /// Opens the keys at `location`: a file of SQLite, which is made, with mode 0600, when it is not there, or a database
    /// of PostgreSQL. Needs a tokio runtime around it.
    pub async fn open(location: impl Into<Location>) -> Result<Self, StoreError> {
        Ok(match location.into() {
            Location::Sqlite(path) => Self::new(SqliteStore::open(&path).await?),
            Location::Postgres(url) => Self::new(PostgresStore::open(&url).await?),
        })
    }

    fn new(store: impl Store + 'static) -> Self {
        let verdicts = moka::sync::Cache::builder().max_capacity(MAX_VERDICTS).time_to_live(REMEMBERED).build();
        let shared = Arc::new(Shared { store: Box::new(store), upkeep: Upkeep::default() });
        let upkeep = tokio::spawn(upkeep::run(Arc::clone(&shared))).abort_handle();
        Self { shared, verdicts, upkeep }
    }

    /// Makes a key. Gives its text, which is not kept anywhere, and what is kept of it.
    pub async fn create(&self, new: NewKey) -> Result<(String, Record), Error> {
        let created = unix_now();
        let (text, id, hash) = fresh();
        let record = Record {
            id,
            hash,
            subject: jwt::name(new.subject).ok_or(Error::Name("the subject"))?,
            scopes: new.scopes,
            tenant: new.tenant.map(|t| jwt::tenant(t).ok_or(Error::Name("the tenant"))).transpose()?,
            plan: new.plan.map(|p| jwt::name(p).ok_or(Error::Name("the plan"))).transpose()?,
            created,
            expires: new.ttl.map(|ttl| created.saturating_add(ttl.as_secs())),
            revoked: None,
            last_used: None,
            replaces: None,
            retired: None,
        };
        self.shared.store.insert(&record).await?;
        Ok((text, record))
    }

    /// Makes a key that allows what the key `id` allows, for as long again, and has that one expire after `overlap`.
    /// None when there is no such key that counts.
    pub async fn rotate(&self, id: &str, overlap: Duration) -> Result<Option<(String, Record)>, StoreError> {
        let created = unix_now();
        let Some(old) = self.find(id).await?.filter(|old| old.is_good(created)) else { return Ok(None) };
        let (text, id, hash) = fresh();
        let expires = match old.lifetime() {
            Lifetime::Ever => None,
            Lifetime::Seconds(seconds) => Some(created.saturating_add(seconds)),
        };
        let replaces = Some(old.id.clone());
        let new = Record { id, hash, created, expires, last_used: None, replaces, retired: None, ..old };
        let rotated = self.shared.store.rotate(&new, created.saturating_add(overlap.as_secs())).await?;
        Ok(rotated.then_some((text, new)))
    }

    pub async fn list(&self, listing: &Listing) -> Result<Vec<Record>, StoreError> {
        self.shared.store.list(listing).await
    }

    pub async fn find(&self, id: &str) -> Result<Option<Record>, StoreError> {
        self.shared.store.find(id).await
    }

    /// False when there is no such key, or it was revoked before.
    pub async fn revoke(&self, id: &str) -> Result<bool, StoreError> {
        self.shared.store.revoke(id, unix_now()).await
    }

    /// Resolves soon after the key `id` has been revoked or has expired: for what outlives a request.
    pub async fn ended(&self, id: &str) {
        self.shared.upkeep.ended(id).await;
    }

    /// Whose key this is.
    pub async fn verify(&self, key: &str) -> Result<Arc<Principal>, Rejection> {
        let (id, secret) = split(key).ok_or(Rejection::KeyShape)?;
        let now = unix_now();
        // The stamp is taken before the look-up: a change in between makes the verdict old, never wrongly new.
        let stamp = self.shared.store.stamp();
        let fingerprint = hash(key);
        if let Some(verdict) = self.verdicts.get(&fingerprint)
            && verdict.stamp == stamp
            && verdict.principal.expires.is_none_or(|at| now < at)
        {
            return Ok(verdict.principal);
        }
        let found = self.shared.store.find(id).await.map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "API key not looked up");
            Rejection::Unavailable
        })?;
        // Comparing blake3 hashes takes the same time wherever they differ.
        let record = found.filter(|record| record.hash == hash(secret)).ok_or(Rejection::KeyUnknown)?;
        if record.revoked.is_some() {
            return Err(Rejection::KeyRevoked);
        }
        if !record.is_good(now) {
            return Err(Rejection::KeyExpired);
        }
        self.shared.upkeep.used(id, record.last_used, now);
        let Record { id, subject, tenant, plan, scopes, expires, .. } = record;
        let principal = Arc::new(Principal { subject, tenant, plan, scopes, expires, key: Some(id) });
        self.verdicts.insert(fingerprint, Verdict { principal: Arc::clone(&principal), stamp });
        Ok(principal)
    }
}

/// A key's text, its id and what is kept of its secret.
fn fresh() -> (String, String, blake3::Hash) {
    let id = hex(&rand::random::<[u8; ID_BYTES]>());
    let secret = hex(&rand::random::<[u8; SECRET_BYTES]>());
    (format!("nf_{id}_{secret}"), id, hash(&secret))
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

#[cfg(test)]
mod tests;
