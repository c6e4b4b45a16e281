//! Where API keys are kept: what a store does. SQLite on one machine, PostgreSQL for the gateways of many.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::Scopes;

/// Keys that one listing gives at most.
pub const MAX_LISTED: u32 = 1_000;

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
    /// From then on it counts no more.
    pub expires: Option<u64>,
    pub revoked: Option<u64>,
    /// About when it was last presented, to a minute.
    pub last_used: Option<u64>,
    /// The key in whose place this one was made.
    pub replaces: Option<String>,
    /// How long it was to live before another was made in its place, which brought its end nearer. None: there is no other.
    pub retired: Option<Lifetime>,
}

/// From its making to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    Ever,
    Seconds(u64),
}

impl Record {
    /// Does the key count at `now`?
    pub fn is_good(&self, now: u64) -> bool {
        self.revoked.is_none() && self.expires.is_none_or(|at| now < at)
    }

    /// How long it was made to live, whatever has become of it.
    pub fn lifetime(&self) -> Lifetime {
        let meant = || self.expires.map_or(Lifetime::Ever, |at| Lifetime::Seconds(at.saturating_sub(self.created)));
        self.retired.unwrap_or_else(meant)
    }
}

/// Which keys a listing is of.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Those of this tenant alone.
    pub tenant: Option<String>,
    /// Those behind this one, in the listing's order.
    pub after: Option<Position>,
    /// At most so many, and at most [`MAX_LISTED`].
    pub limit: Option<u32>,
}

/// A key's place in listings: the newest come first, those of one second by their ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    pub created: u64,
    pub id: String,
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

/// Keeps API keys. Every change is durable when it returns, and shows in [`Store::stamp`] of every process that has the
/// store open: at once in one that shares the file, within the time of a notification in others.
#[async_trait::async_trait]
pub trait Store: Send + Sync {
    async fn find(&self, id: &str) -> Result<Option<Record>, Error>;

    async fn insert(&self, record: &Record) -> Result<(), Error>;

    async fn list(&self, listing: &Listing) -> Result<Vec<Record>, Error>;

    /// Revokes as of `at`; false when there is nothing to revoke.
    async fn revoke(&self, id: &str, at: u64) -> Result<bool, Error>;

    /// Puts `new` beside the key that it replaces, which expires at `until`, or before, if it was to; both or neither.
    /// False when that key does not count at `new.created`.
    async fn rotate(&self, new: &Record, until: u64) -> Result<bool, Error>;

    /// Of `ids`, those that count at `now`. Asked often, and of as many keys as have open streams.
    async fn good(&self, ids: &[String], now: u64) -> Result<HashSet<String>, Error>;

    /// Notes when keys were presented; never takes a note back to a time before. All of it or nothing.
    async fn used(&self, uses: &[(String, u64)]) -> Result<(), Error>;

    /// The store's state, asked with every request: it has to be cheap.
    fn stamp(&self) -> Stamp;
}

/// Where a deployment's keys are: a file's path, or `postgres://[user[:password]@]host[:port]/database`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum Location {
    Sqlite(PathBuf),
    Postgres(String),
}

impl From<String> for Location {
    fn from(text: String) -> Self {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            Self::Postgres(text)
        } else {
            Self::Sqlite(text.into())
        }
    }
}

impl From<PathBuf> for Location {
    fn from(path: PathBuf) -> Self {
        Self::Sqlite(path)
    }
}

impl From<&Path> for Location {
    fn from(path: &Path) -> Self {
        Self::Sqlite(path.to_owned())
    }
}

/// Without user and password: it stands in errors and logs.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => path.display().fmt(f),
            Self::Postgres(url) => {
                let (_, rest) = url.split_once("://").unwrap_or(("", url));
                let rest = rest.split('?').next().unwrap_or(rest);
                write!(f, "postgres://{}", rest.rsplit('@').next().unwrap_or(rest))
            }
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_does_not_tell_its_password() {
        let at = |text: &str| Location::from(text.to_owned());
        assert_eq!(at("auth/keys.db"), Location::Sqlite("auth/keys.db".into()));
        let remote = at("postgres://nearfield:hunter@2@db.internal:5432/keys?password=hunter2");
        assert_eq!(format!("{remote} {remote:?}"), "postgres://db.internal:5432/keys postgres://db.internal:5432/keys");
    }
}
