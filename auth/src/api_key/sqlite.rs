//! API keys in an SQLite file, in WAL mode: the command line writes while a server reads.

use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{Row, query};

use super::store::{Error, MAX_LISTED, Record, Stamp, Store};
use crate::Scopes;

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
/// `PRAGMA user_version` of the schema below.
const VERSION: i64 = 1;
const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS api_keys (
    id TEXT PRIMARY KEY,
    hash BLOB NOT NULL,
    subject TEXT NOT NULL,
    scopes TEXT NOT NULL,
    tenant TEXT,
    plan TEXT,
    created INTEGER NOT NULL,
    revoked INTEGER
) STRICT, WITHOUT ROWID";

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
    let found: i64 = query("PRAGMA user_version").fetch_one(pool).await?.try_get(0)?;
    match found {
        VERSION => Ok(()),
        0 => {
            query(SCHEMA).execute(pool).await?;
            query("PRAGMA user_version = 1").execute(pool).await?;
            Ok(())
        }
        found => Err(Error::Version { found, known: VERSION }),
    }
}

#[async_trait::async_trait]
impl Store for SqliteStore {
    async fn find(&self, id: &str) -> Result<Option<Record>, Error> {
        let row = query("SELECT * FROM api_keys WHERE id = ?").bind(id).fetch_optional(&self.pool).await?;
        row.map(|row| record(&row)).transpose()
    }

    async fn insert(&self, record: &Record) -> Result<(), Error> {
        query(
            "INSERT INTO api_keys (id, hash, subject, scopes, tenant, plan, created, revoked)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&record.id)
        .bind(record.hash.as_bytes().as_slice())
        .bind(&record.subject)
        .bind(record.scopes.to_string())
        .bind(&record.tenant)
        .bind(&record.plan)
        .bind(record.created as i64)
        .bind(record.revoked.map(|at| at as i64))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Record>, Error> {
        let rows = query("SELECT * FROM api_keys ORDER BY created DESC, id LIMIT ?")
            .bind(MAX_LISTED)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(record).collect()
    }

    async fn revoke(&self, id: &str, at: u64) -> Result<bool, Error> {
        let done = query("UPDATE api_keys SET revoked = ? WHERE id = ? AND revoked IS NULL")
            .bind(at as i64)
            .bind(id)
            .execute(&self.pool)
            .await?;
        Ok(done.rows_affected() == 1)
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

fn record(row: &SqliteRow) -> Result<Record, Error> {
    let hash: Vec<u8> = row.try_get("hash")?;
    let decoded =
        |source: blake3::HexError| sqlx::Error::ColumnDecode { index: "hash".to_owned(), source: source.into() };
    let hash = match <[u8; 32]>::try_from(hash) {
        Ok(bytes) => blake3::Hash::from_bytes(bytes),
        // A hash of another length is damage; the error for it is the one of a hash that is not read.
        Err(_) => return Err(Error::Database(decoded(blake3::Hash::from_hex("").expect_err("it is too short")))),
    };
    let seconds = |at: i64| at.max(0) as u64;
    Ok(Record {
        id: row.try_get("id")?,
        hash,
        subject: row.try_get("subject")?,
        scopes: Scopes::from_claim(row.try_get("scopes")?),
        tenant: row.try_get("tenant")?,
        plan: row.try_get("plan")?,
        created: seconds(row.try_get("created")?),
        revoked: row.try_get::<Option<i64>, _>("revoked")?.map(seconds),
    })
}
