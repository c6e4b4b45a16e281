//! Where API keys are kept. SQLite on one machine; the same trait is the seam to a server shared by many.

use crate::Scopes;

/// Keys that one listing gives at most.
pub const MAX_LISTED: u32 = 10_000;

/// What is kept of a key. Times are Unix seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub id: String,
    /// BLAKE3 of the secret.
    pub hash: blake3::Hash,
    pub subject: String,
    pub scopes: Scopes,
    pub tenant: Option<String>,
    pub plan: Option<String>,
    pub created: u64,
    pub revoked: Option<u64>,
}

/// Stands for the store's state: while it is the same, nothing has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp(pub [u64; 4]);

/// What went wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the file of API keys")]
    File(#[from] std::io::Error),
    #[error("the database of API keys")]
    Database(#[from] sqlx::Error),
    #[error("the database of API keys is of version {found}, this program knows {known}")]
    Version { found: i64, known: i64 },
}

#[async_trait::async_trait]
pub trait Store: Send + Sync {
    async fn find(&self, id: &str) -> Result<Option<Record>, Error>;

    async fn insert(&self, record: &Record) -> Result<(), Error>;

    /// The newest first, at most [`MAX_LISTED`].
    async fn list(&self) -> Result<Vec<Record>, Error>;

    /// Revokes as of `at`; false when there is nothing to revoke.
    async fn revoke(&self, id: &str, at: u64) -> Result<bool, Error>;

    /// The store's state, asked with every request: it has to be cheap.
    fn stamp(&self) -> Stamp;
}
