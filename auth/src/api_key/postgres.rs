//! API keys in PostgreSQL, shared by the gateways of many machines.
//!
//! Every change notifies whoever listens, so that a revoked key is refused everywhere within milliseconds. A process
//! whose listening connection is down learns of changes as verdicts run out.

use std::collections::HashSet;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPool, PgPoolOptions};
use sqlx::{Row, query, raw_sql};
use tokio::sync::OnceCell;
use tokio::task::AbortHandle;

use super::sql::{self, bind_record};
use super::store::{Error, Listing, Record, Stamp, Store};

const MAX_CONNECTIONS: u32 = 8;
/// How long a look-up waits for a connection.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two tries to listen.
const RETRY: Duration = Duration::from_secs(1);
const CHANNEL: &str = "nearfield_api_keys";
/// Held while the schema is brought up to date: one process at a time. Any number that nobody else uses.
const MIGRATION_LOCK: i64 = 0x6e66_6b65_7973;
/// What brings the schema from version i to i + 1, kept in the table `api_keys_schema`.
const MIGRATIONS: [&str; 2] = [
    "CREATE TABLE api_keys (
        id TEXT PRIMARY KEY,
        hash BYTEA NOT NULL,
        subject TEXT NOT NULL,
        scopes TEXT NOT NULL,
        tenant TEXT,
        plan TEXT,
        created BIGINT NOT NULL,
        expires BIGINT,
        revoked BIGINT,
        last_used BIGINT,
        replaces TEXT
    );
    CREATE INDEX api_keys_listed ON api_keys (created DESC, id);
    CREATE FUNCTION api_keys_changed() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_notify('nearfield_api_keys', ''); RETURN NULL; END $$;
    CREATE TRIGGER api_keys_changed AFTER INSERT OR DELETE OR UPDATE OF hash, scopes, tenant, plan, expires, revoked
        ON api_keys FOR EACH STATEMENT EXECUTE FUNCTION api_keys_changed();
    UPDATE api_keys_schema SET version = 1",
    "ALTER TABLE api_keys ADD COLUMN retired BIGINT;
    UPDATE api_keys_schema SET version = 2",
];

const GOOD: &str =
    "SELECT id FROM api_keys WHERE id = ANY($1) AND revoked IS NULL AND (expires IS NULL OR expires > $2)";
const USED: &str = "UPDATE api_keys SET last_used = uses.at FROM UNNEST($1::text[], $2::bigint[]) AS uses (id, at)
    WHERE api_keys.id = uses.id AND (last_used IS NULL OR last_used < uses.at)";

pub struct PostgresStore {
    pool: PgPool,
    migrated: OnceCell<()>,
    /// Changes that were heard of.
    changes: Arc<AtomicU64>,
    listening: AbortHandle,
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl PostgresStore {
    /// Takes a URL, and connects when it must: a database that is down is a warning, its keys are refused until it is up.
    /// Needs a tokio runtime around it.
    pub async fn open(url: &str) -> Result<Self, Error> {
        let options = PgConnectOptions::from_str(url)?.application_name("nearfield");
        let pool =
            PgPoolOptions::new().max_connections(MAX_CONNECTIONS).acquire_timeout(PATIENCE).connect_lazy_with(options);
        let changes = Arc::new(AtomicU64::new(0));
        let listening = tokio::spawn(listen(pool.clone(), Arc::clone(&changes))).abort_handle();
        let store = Self { pool, migrated: OnceCell::new(), changes, listening };
        match store.pool().await {
            Ok(_) => Ok(store),
            Err(error @ Error::Version { .. }) => Err(error),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "no API keys yet");
                Ok(store)
            }
        }
    }

    /// The pool, once the schema is there.
    async fn pool(&self) -> Result<&PgPool, Error> {
        self.migrated.get_or_try_init(|| migrate(&self.pool)).await?;
        Ok(&self.pool)
    }

    /// A change of our own counts here before its notification has come back.
    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }
}

async fn migrate(pool: &PgPool) -> Result<(), Error> {
    let known = MIGRATIONS.len() as i64;
    let mut transaction = pool.begin().await?;
    query("SELECT pg_advisory_xact_lock($1)").bind(MIGRATION_LOCK).execute(&mut *transaction).await?;
    let schema = "CREATE TABLE IF NOT EXISTS api_keys_schema (version BIGINT NOT NULL);
        INSERT INTO api_keys_schema SELECT 0 WHERE NOT EXISTS (SELECT FROM api_keys_schema)";
    raw_sql(schema).execute(&mut *transaction).await?;
    let row = query("SELECT version FROM api_keys_schema").fetch_one(&mut *transaction).await?;
    let found: i64 = row.try_get(0)?;
    let done = usize::try_from(found).ok().filter(|done| *done <= MIGRATIONS.len());
    let done = done.ok_or(Error::Version { found, known })?;
    for migration in &MIGRATIONS[done..] {
        raw_sql(*migration).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(())
}

/// Counts changes, and every loss of the connection as one: what was said meanwhile was not heard.
async fn listen(pool: PgPool, changes: Arc<AtomicU64>) {
    loop {
        if let Ok(mut listener) = PgListener::connect_with(&pool).await
            && listener.listen(CHANNEL).await.is_ok()
        {
            changes.fetch_add(1, Ordering::Release);
            while listener.try_recv().await.is_ok() {
                changes.fetch_add(1, Ordering::Release);
            }
            changes.fetch_add(1, Ordering::Release);
        }
        tokio::time::sleep(RETRY).await;
    }
}

#[async_trait::async_trait]
impl Store for PostgresStore {
    async fn find(&self, id: &str) -> Result<Option<Record>, Error> {
        let row = query(sql::FIND).bind(id).fetch_optional(self.pool().await?).await?;
        row.as_ref().map(sql::record).transpose()
    }

    async fn insert(&self, record: &Record) -> Result<(), Error> {
        bind_record!(query(sql::INSERT), record).execute(self.pool().await?).await?;
        self.changed();
        Ok(())
    }

    async fn list(&self, listing: &Listing) -> Result<Vec<Record>, Error> {
        let (tenant, created, id, limit) = sql::list_of(listing);
        let listed = query(sql::LIST).bind(tenant).bind(created).bind(id).bind(limit);
        listed.fetch_all(self.pool().await?).await?.iter().map(sql::record).collect()
    }

    async fn revoke(&self, id: &str, at: u64) -> Result<bool, Error> {
        let done = query(sql::REVOKE).bind(id).bind(at as i64).execute(self.pool().await?).await?;
        self.changed();
        Ok(done.rows_affected() == 1)
    }

    async fn rotate(&self, new: &Record, until: u64) -> Result<bool, Error> {
        let mut transaction = self.pool().await?.begin().await?;
        let retired = query(sql::RETIRE).bind(&new.replaces).bind(until as i64).bind(new.created as i64);
        if retired.execute(&mut *transaction).await?.rows_affected() != 1 {
            return Ok(false);
        }
        bind_record!(query(sql::INSERT), new).execute(&mut *transaction).await?;
        transaction.commit().await?;
        self.changed();
        Ok(true)
    }

    async fn good(&self, ids: &[String], now: u64) -> Result<HashSet<String>, Error> {
        let rows = query(GOOD).bind(ids).bind(now as i64).fetch_all(self.pool().await?).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    async fn used(&self, uses: &[(String, u64)]) -> Result<(), Error> {
        let (ids, times): (Vec<&str>, Vec<i64>) = uses.iter().map(|(id, at)| (id.as_str(), *at as i64)).unzip();
        query(USED).bind(ids).bind(times).execute(self.pool().await?).await?;
        Ok(())
    }

    fn stamp(&self) -> Stamp {
        Stamp([self.changes.load(Ordering::Acquire), 0, 0, 0])
    }
}
