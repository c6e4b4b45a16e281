//! API keys in an SQLite file, in WAL mode: the command line writes while a server reads.

use std::collections::HashSet;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Connection, Row, query, raw_sql};

use super::sql::{self, bind_record};
use super::store::{Error, Listing, Record, Stamp, Store};

const MAX_CONNECTIONS: u32 = 4;
/// How long a look-up waits for a connection.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a writer waits for others; each of them may wait for a slow disk.
const TURN: Duration = Duration::from_secs(10);
/// Between two tries to open a file that others are just making.
const RETRY: Duration = Duration::from_millis(20);
/// Tries to open it.
const MAX_TRIES: usize = 500;
/// `SQLITE_BUSY`, with its extended codes in the bits above.
const BUSY: i32 = 5;
/// What brings the schema from version i to i + 1, kept in `PRAGMA user_version`.
const MIGRATIONS: [&str; 3] = [
    "CREATE TABLE IF NOT EXISTS api_keys (
        id TEXT PRIMARY KEY,
        hash BLOB NOT NULL,
        subject TEXT NOT NULL,
        scopes TEXT NOT NULL,
        tenant TEXT,
        plan TEXT,
        created INTEGER NOT NULL,
        revoked INTEGER
    ) STRICT, WITHOUT ROWID;
    PRAGMA user_version = 1",
    "ALTER TABLE api_keys ADD COLUMN expires INTEGER;
    ALTER TABLE api_keys ADD COLUMN last_used INTEGER;
    ALTER TABLE api_keys ADD COLUMN replaces TEXT;
    CREATE INDEX api_keys_listed ON api_keys (created DESC, id);
    PRAGMA user_version = 2",
    "ALTER TABLE api_keys ADD COLUMN retired INTEGER;
    PRAGMA user_version = 3",
];

/// Ids are hexadecimal, so they stand in JSON as they are.
const GOOD: &str = "SELECT id FROM api_keys WHERE id IN (SELECT value FROM json_each($1))
    AND revoked IS NULL AND (expires IS NULL OR expires > $2)";
const USED: &str = "UPDATE api_keys SET last_used = $2 WHERE id = $1 AND (last_used IS NULL OR last_used < $2)";
/// Keys that one statement asks for: others wait for no longer than it takes.
const MAX_ASKED: usize = 1_000;

pub struct SqliteStore {
    pool: SqlitePool,
    path: PathBuf,
    log: PathBuf,
}

impl SqliteStore {
    pub async fn open(path: &Path) -> Result<Self, Error> {
        if let Some(folder) = path.parent() {
            fs_err::create_dir_all(folder)?;
        }
        // Made before SQLite would make it, for the mode; its log and index files take the same one.
        let mut options = fs_err::OpenOptions::new();
        options.read(true).append(true).create(true);
        options.options_mut().mode(0o600);
        options.open(path)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(TURN);
        // SQLite does not wait where a connection turns to WAL mode while another one does.
        let mut tries = 1;
        let pool = loop {
            match connect(options.clone()).await {
                Err(Error::Database(error)) if is_busy(&error) && tries < MAX_TRIES => tries += 1,
                outcome => break outcome?,
            }
            tokio::time::sleep(RETRY).await;
        };
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        Ok(Self { pool, path: path.to_owned(), log: log.into() })
    }
}

async fn connect(options: SqliteConnectOptions) -> Result<SqlitePool, Error> {
    let pool = SqlitePoolOptions::new()
        .max_connections(MAX_CONNECTIONS)
        // While one is open the log file stays, and so does what `stamp` looks at.
        .min_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .acquire_timeout(PATIENCE)
        .connect_with(options)
        .await?;
    migrate(&pool).await?;
    Ok(pool)
}

fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.and_then(|code| code.parse::<i32>().ok()).is_some_and(|code| code & 0xff == BUSY)
}

async fn migrate(pool: &SqlitePool) -> Result<(), Error> {
    let version = async |connection: &mut SqliteConnection| {
        query("PRAGMA user_version").fetch_one(connection).await?.try_get::<i64, _>(0)
    };
    let known = MIGRATIONS.len() as i64;
    let mut connection = pool.acquire().await?;
    if version(&mut connection).await? == known {
        return Ok(());
    }
    // One process at a time, and all of it or nothing.
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let found = version(&mut transaction).await?;
    let done = usize::try_from(found).ok().filter(|done| *done <= MIGRATIONS.len());
    let done = done.ok_or(Error::Version { found, known })?;
    for migration in &MIGRATIONS[done..] {
        raw_sql(*migration).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(())
}

#[async_trait::async_trait]
impl Store for SqliteStore {
    async fn find(&self, id: &str) -> Result<Option<Record>, Error> {
        let row = query(sql::FIND).bind(id).fetch_optional(&self.pool).await?;
        row.as_ref().map(sql::record).transpose()
    }

    async fn insert(&self, record: &Record) -> Result<(), Error> {
        bind_record!(query(sql::INSERT), record).execute(&self.pool).await?;
        Ok(())
    }

    async fn list(&self, listing: &Listing) -> Result<Vec<Record>, Error> {
        let (tenant, created, id, limit) = sql::list_of(listing);
        let listed = query(sql::LIST).bind(tenant).bind(created).bind(id).bind(limit);
        listed.fetch_all(&self.pool).await?.iter().map(sql::record).collect()
    }

    async fn revoke(&self, id: &str, at: u64) -> Result<bool, Error> {
        let done = query(sql::REVOKE).bind(id).bind(at as i64).execute(&self.pool).await?;
        Ok(done.rows_affected() == 1)
    }

    async fn rotate(&self, new: &Record, until: u64) -> Result<bool, Error> {
        // Writes begin the transaction: one that began with a read could not become a writer's beside another.
        let mut transaction = self.pool.begin().await?;
        let retired = query(sql::RETIRE).bind(&new.replaces).bind(until as i64).bind(new.created as i64);
        if retired.execute(&mut *transaction).await?.rows_affected() != 1 {
            return Ok(false);
        }
        bind_record!(query(sql::INSERT), new).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(true)
    }

    async fn good(&self, ids: &[String], now: u64) -> Result<HashSet<String>, Error> {
        let mut good = HashSet::with_capacity(ids.len());
        for ids in ids.chunks(MAX_ASKED) {
            let ids = format!("[\"{}\"]", ids.join("\",\""));
            let rows = query(GOOD).bind(ids).bind(now as i64).fetch_all(&self.pool).await?;
            for row in rows {
                good.insert(row.try_get(0)?);
            }
        }
        Ok(good)
    }

    async fn used(&self, uses: &[(String, u64)]) -> Result<(), Error> {
        let mut transaction = self.pool.begin().await?;
        for (id, at) in uses {
            query(USED).bind(id).bind(*at as i64).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Every commit in WAL mode writes to the log, and a checkpoint to the file: their sizes and times are the stamp.
    /// Two calls of stat(2) cost a microsecond; `PRAGMA data_version` would cost a thread's round trip.
    fn stamp(&self) -> Stamp {
        let about = |path: &Path| {
            let about = std::fs::metadata(path).ok()?;
            let nanoseconds = (about.mtime() as u64).wrapping_mul(1_000_000_000);
            Some([about.len(), nanoseconds.wrapping_add(about.mtime_nsec() as u64)])
        };
        let [a, b] = about(&self.path).unwrap_or_default();
        let [c, d] = about(&self.log).unwrap_or_default();
        Stamp([a, b, c, d])
    }
}
